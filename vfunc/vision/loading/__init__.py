"""Reads pictures before they are asked for, and no more than once."""
