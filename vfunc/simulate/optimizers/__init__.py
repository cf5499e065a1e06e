"""The optimizers of `torch.optim` as pure functions of one tensor, one family a file."""
