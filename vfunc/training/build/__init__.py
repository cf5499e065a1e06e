"""The parts of a run, built from its configuration, one file a modality."""
