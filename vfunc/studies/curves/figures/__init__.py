"""Figures of the curves, one a file."""
