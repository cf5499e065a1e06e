"""The command `evaluate`: benchmarks of a saved learner, without training."""
