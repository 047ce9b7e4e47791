"""Mutated inputs, to find what is neither read nor refused in one line: `python -m tests.fuzz --help`."""
