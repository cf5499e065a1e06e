"""Measures of a learner, and of how well values predict."""

from vfunc.extras import needs

needs("run", "scipy")
