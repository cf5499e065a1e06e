"""Measures of a learner, and of how well values predict."""
