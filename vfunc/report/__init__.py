"""Tables, plots, progress display and event log of a run."""

from vfunc.extras import needs

needs("run", "matplotlib", "scipy", "tqdm")
