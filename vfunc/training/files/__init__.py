"""What a run keeps in its folder beside its results: what it is, and what is whole."""
