"""What a run shows: tables, plots, progress, and the event log it is all made from."""
