"""Dataclasses of the fields of models, tasks and criterions; nothing here knows fairseq."""
