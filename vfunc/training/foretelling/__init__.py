"""Tells before training what there is to expect of feedback and tasks."""
