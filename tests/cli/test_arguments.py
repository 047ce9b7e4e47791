"""Types of arguments take what is fine, and name what is not and what is expected."""

import argparse
from collections.abc import Callable
from typing import Any

import pytest

from mae_ast_fairseq.cli.arguments import at_least, fraction, num_processes, seconds, seed


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [(at_least(1), "1", 1), (seconds, "0.5", 0.5), (fraction, "0.75", 0.75), (seed, "0", 0), (seed, "9", 9)],
)
def test_fine_numbers_are_taken(kind: Callable[[str], Any], text: str, value: float) -> None:
    assert kind(text) == value


@pytest.mark.parametrize(
    ("kind", "texts", "expected"),
    [
        (at_least(1), ("0", "-1", "1.5", "", "one"), "a whole number of at least 1"),
        (seconds, ("0", "-1", "inf", "nan", "long"), "seconds above 0"),
        (fraction, ("0", "1", "nan", "half"), "a fraction above 0 and below 1"),
        (num_processes, ("0", "-1", "1001", str(2**63), "1.0"), "1 to 1,000 processes"),
        (seed, ("-1", str(2**63), "1.0"), "a whole number from 0"),
    ],
)
def test_others_are_named(kind: Callable[[str], Any], texts: tuple[str, ...], expected: str) -> None:
    for text in texts:
        with pytest.raises(argparse.ArgumentTypeError, match=f"^{text} was given; expected {expected}"):
            kind(text)
