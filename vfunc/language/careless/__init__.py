"""Worked solutions made wrong by a rule, and what follows from it, for streams of one's own."""
