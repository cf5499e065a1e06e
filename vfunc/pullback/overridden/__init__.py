"""What engines take in place of torch's own: attention, frozen weights, weight norm.

Each is a `TorchFunctionMode` for the length of a call: torch's derivative of the function is wrong,
slow or large there, and no learner has to be changed.
"""
