"""Studies over several runs or estimators: repetitions over seeds, comparisons, costs."""

from vfunc.extras import needs

needs("run")
