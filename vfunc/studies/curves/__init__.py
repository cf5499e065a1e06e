"""Curves over settings and over finished runs: data, a figure and a small table each."""
