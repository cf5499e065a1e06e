"""The training loop (Algorithm 1): configuration, arms, budgets, checkpoints."""
