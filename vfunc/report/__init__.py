"""What a run shows: tables, plots, progress, and the event log it is all made from."""

from vfunc.extras import needs

needs("run", "matplotlib", "scipy", "tqdm")
