"""The embedded vision problem: scenes with exact labels, made from a seed."""
