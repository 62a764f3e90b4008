"""Parity with the real torchtext, in the environment that ``make test-torchtext`` makes."""
