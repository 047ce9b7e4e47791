"""Measures recipes against each other: time, memory, operations, loader and fairseq's loop (`mae-ast benchmark`)."""
