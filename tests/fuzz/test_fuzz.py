"""A quick part of `make fuzz`, and what its harness finds of a subject that does all that is forbidden."""

import logging
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from mae_ast_fairseq.errors import UserError
from tests.fuzz import harness
from tests.fuzz.harness import MAX_CHARACTERS, Finding, Subject, case, require, run
from tests.fuzz.subjects import SUBJECTS

NUM_CASES = {"audio": 400, "manifests": 300, "labels": 200, "statistics": 200, "archives": 200, "overrides": 40}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SUBJECTS)
def test_mutated_input_is_read_or_refused_in_one_line(name: str) -> None:
    seeds = range(1_000_000, 1_000_000 + NUM_CASES.get(name, 80))  # beyond those of a full run
    tally = run(SUBJECTS[name], seeds, lambda: None)
    again = "\n".join(f"python -m tests.fuzz {name} --seed {finding.seed}: {finding}" for finding in tally.findings)
    assert not tally.findings, again
    assert tally.outcomes["accepted"] > 0 and tally.outcomes["refused"] > 0


def test_a_case_is_the_same_each_time(tmp_path: Path) -> None:
    subject = SUBJECTS["archives"]
    prepared = subject.prepare(tmp_path)
    assert case(subject, prepared, 7) == case(subject, prepared, 7) != case(subject, prepared, 8)


class _LongError(UserError):
    def __str__(self) -> str:
        return "x" * (MAX_CHARACTERS + 1)


def _misbehave(data: bytes, folder: Path) -> None:
    if data == b"hang":
        time.sleep(60)
    if data == b"memory":
        bytearray(2 * harness.MAX_BYTES)
    if data == b"log":
        logging.getLogger("a").warning("a\x1b[2J")
    if data == b"crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if data == b"unsound":
        require(False, "it is not")
    if data == b"error":
        raise KeyError
    if data == b"long":
        raise _LongError("")
    if data == b"refused":
        raise UserError("a.wav: no audio")


def test_what_may_not_be_is_found_and_the_others_go_on(monkeypatch) -> None:
    inputs = [b"fine", b"crash", b"refused", b"hang", b"memory", b"log", b"unsound", b"error", b"long", b"fine"]
    monkeypatch.setattr(harness, "MAX_SECONDS", 2)
    subject = Subject(10, lambda folder: iter(range(10)), lambda _, rng: inputs[_place(rng)], _misbehave)
    tally = run(subject, range(len(inputs)), lambda: None)
    assert tally.outcomes == {"accepted": 2, "refused": 1}
    found = {finding.seed: (finding.fault, finding.detail.splitlines()[0]) for finding in tally.findings}
    assert found[1] == ("crash", "SIGKILL")
    assert found[3][0] == "hang"
    assert [found[seed][0] for seed in range(4, 9)] == ["MemoryError", "log", "unsound", "KeyError", "message"]
    assert tally.num_cases == len(inputs)


def _place(rng: np.random.Generator) -> int:
    """Return the seed that a generator was made of: of these cases, the one whose first draw it gives."""
    draws = [np.random.default_rng(seed).random() for seed in range(10)]
    return draws.index(rng.random())


def test_findings_past_a_number_end_a_subject(monkeypatch) -> None:
    monkeypatch.setattr(harness, "MAX_FINDINGS", 3)
    subject = Subject(10, lambda folder: None, lambda prepared, rng: b"error", _misbehave)
    tally = run(subject, range(10), lambda: None)
    assert [finding._replace(detail="") for finding in tally.findings] == [Finding(n, "KeyError") for n in range(3)]
