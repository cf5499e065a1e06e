"""Value gradients for self-supervised task design."""
