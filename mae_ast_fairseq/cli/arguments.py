"""Types of arguments, alike on all commands: what a person gave is checked where it is read.

argparse names the option; a type says what was found and what is expected.
"""

import argparse
import re
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

Number = TypeVar("Number", int, float)


def number(kind: Callable[[str], Number], is_fine: Callable[[Number], bool], expected: str) -> Callable[[str], Number]:
    """Return a type of numbers that are fine; `expected` says in a message which these are."""

    def parse(text: str) -> Number:
        with suppress(ValueError):
            value = kind(text)
            if is_fine(value):
                return value
        raise argparse.ArgumentTypeError(f"{text} was given; expected {expected}")

    return parse


def at_least(minimum: int) -> Callable[[str], int]:
    """Return a type of whole numbers from `minimum` on."""
    return number(int, lambda value: value >= minimum, f"a whole number of at least {minimum}")


num_processes = number(int, lambda value: 1 <= value <= 1_000, "1 to 1,000 processes")
seconds = number(float, lambda value: 0 < value <= 1e9, "seconds above 0, such as 10")
fraction = number(float, lambda value: 0 < value < 1, "a fraction above 0 and below 1, such as 0.75")
seed = number(int, lambda value: 0 <= value < 2**63, "a whole number from 0 to below 2^63")


def group_pattern(text: str) -> re.Pattern[str]:
    """A type of patterns that capture the group of a clip, such as its speaker, in its path."""
    with suppress(re.error):
        pattern = re.compile(text)
        if pattern.groups == 1:
            return pattern
    raise argparse.ArgumentTypeError(
        f"{text!r} was given; expected a regular expression with one pair of parentheses, around the group"
    )


def label_pattern(text: str) -> re.Pattern[str]:
    """A type of patterns that capture the label of a clip in the name of its file."""
    with suppress(re.error):
        pattern = re.compile(text)
        if "label" in pattern.groupindex:
            return pattern
    raise argparse.ArgumentTypeError(
        f"{text!r} was given; expected a regular expression with a group named label, as in '(?P<label>[a-z]+)_[0-9]+'"
    )


folder_level = number(int, lambda value: value != 0, "1 for the first folder below, 2, ..., or -1 for a file's own")
