"""Reports of training runs: what a run folder holds, as curves, tables and one page (`mae-ast report`)."""
