"""Studies over several runs or estimators: repetitions over seeds, comparisons, costs."""
