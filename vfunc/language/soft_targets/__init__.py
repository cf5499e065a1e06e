"""Soft next-token targets: candidates, forms of targets, their designer, and the loss on them."""
