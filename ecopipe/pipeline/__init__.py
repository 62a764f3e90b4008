"""A pipeline as a value, in Python and in TOML."""
