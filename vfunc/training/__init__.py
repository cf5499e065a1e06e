"""The training loop (Algorithm 1): configuration, arms, budgets, checkpoints."""

from vfunc.extras import needs

needs("run")
