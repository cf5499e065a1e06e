"""Evaluation of a language learner: completions, their answers, held-out loss."""
