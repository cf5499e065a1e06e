"""Options: declared as fields of dataclasses, read from the command line and TOML, resolved."""
