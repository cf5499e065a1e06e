"""Evaluation of a frozen backbone: segmentation, depth, classification, retrieval."""
