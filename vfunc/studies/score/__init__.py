"""The counterfactual score of value estimators: what they predict, against the task being done."""
