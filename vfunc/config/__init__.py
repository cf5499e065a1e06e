"""Options of a run: each declared once, read from the command line and TOML files."""
