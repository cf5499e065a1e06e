"""Statistics that both modalities' evaluations use, and the one-step probe."""

from vfunc.extras import needs

needs("run", "scipy")
