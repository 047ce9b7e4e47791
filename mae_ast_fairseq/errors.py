"""The errors a person's input raises: one clear line each, never a traceback from a command.

A message names the file and line or the field, what was found, what is expected and how to fix it. Every class
lives at module level and takes one string, so that it can cross from a loader worker to the training process.

What a message quotes, such as the name of a file, may hold anything: it is escaped and shortened here, for all of them.
"""

import logging
from collections.abc import Sequence

MAX_CHARACTERS = 2_000
"""Of a message; a path alone may have 4,096."""


def printable(text: str) -> str:
    """Return a text in one line, with what a terminal would obey escaped, and bytes that are not UTF-8 replaced."""
    text = text.encode(errors="replace").decode()
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def printable_lines(text: str) -> str:
    """Return a text of several lines, each of them printable."""
    return "\n".join(map(printable, text.split("\n")))


def one_line(text: str) -> str:
    """Return a text printable, and without its middle where it is longer than a message."""
    text, half = printable(text), MAX_CHARACTERS // 2 - 3
    return text if len(text) <= MAX_CHARACTERS else f"{text[:half]} ... {text[-half:]}"


def listed(names: Sequence[str], most: int = 5) -> str:
    """Return the first of some names, and how many there are more."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def get_logger(name: str) -> logging.Logger:
    """Return a module's logger, all records of which are one line."""
    logger = logging.getLogger(name)
    logger.addFilter(_in_one_line)
    return logger


def _in_one_line(record: logging.LogRecord) -> bool:
    record.msg, record.args = one_line(record.getMessage()), ()
    return True


class UserError(ValueError):
    """Something a person gave is wrong; commands print its message and exit with code 2."""

    def __init__(self, message: str):
        super().__init__(one_line(message))


class ConfigError(UserError):
    """A config field or a command's argument has a value that cannot be used."""


class ManifestError(UserError):
    """A manifest, or a line of it, cannot be read."""


class AudioError(UserError):
    """An audio file is missing, broken, or other than its manifest says."""


class CheckpointError(UserError):
    """A checkpoint cannot be read, or holds something else than is expected."""
