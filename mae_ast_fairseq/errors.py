"""The errors a person's input raises: one clear line each, never a traceback from a command.

A message names the file and line or the field, what was found, what is expected and how to fix it. Every class
lives at module level and takes one string, so that it can cross from a loader worker to the training process.
"""


def printable(text: str) -> str:
    """Return a text in one line, with what a terminal would obey escaped, and bytes that are not UTF-8 replaced."""
    text = text.encode(errors="replace").decode()
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


class UserError(ValueError):
    """Something a person gave is wrong; commands print its message and exit with code 2."""


class ConfigError(UserError):
    """A config field or a command's argument has a value that cannot be used."""


class ManifestError(UserError):
    """A manifest, or a line of it, cannot be read."""


class AudioError(UserError):
    """An audio file is missing, broken, or other than its manifest says."""


class CheckpointError(UserError):
    """A checkpoint cannot be read, or holds something else than is expected."""
