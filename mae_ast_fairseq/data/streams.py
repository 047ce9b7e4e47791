"""Ogg and FLAC: whether a stream ends as it should, and whether another begins behind it."""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import BinaryIO

_BLOCK_BYTES = 1 << 20
_PAGE_BYTES = 27 + 255 + 255 * 255  # the longest page of an Ogg file
_OGG = b"OggS\0"
# Expressions, which are searched for two times as fast as a text. Each is of no more than 8 bytes.
_OGG_FIRST, _FLAC_FIRST = re.compile(rb"OggS\0[\2\6]"), re.compile(rb"fLaC[\0\x80]\0\0\x22")
_OVERLAP_BYTES = 7
_FLAC_NUMBERS = 18  # bytes before the 8 whose last 36 bits are the number of samples
MAX_FLAC_SAMPLES = (1 << 36) - 1


def flac_lengths(stream: BinaryIO, begin: int, end: int) -> list[int]:
    """Return the samples that each FLAC stream in bytes begin .. end states; the file is read once."""
    return [flac_samples(stream, place) for place in _places(stream, begin, end, _FLAC_FIRST)]


def flac_samples(stream: BinaryIO, begin: int) -> int:
    """Return the samples that a FLAC stream states; 0 is of one whose writer did not know."""
    stream.seek(begin + _FLAC_NUMBERS)
    return int.from_bytes(stream.read(8), "big") & MAX_FLAC_SAMPLES


def flac_start(stream: BinaryIO, begin: int, num_samples: int) -> bytes:
    """Return the first bytes of a FLAC stream that states no samples, as if it stated so many."""
    stream.seek(begin)
    start = stream.read(_FLAC_NUMBERS + 8)
    numbers = int.from_bytes(start[_FLAC_NUMBERS:], "big") | num_samples
    return start[:_FLAC_NUMBERS] + numbers.to_bytes(8, "big")


def is_ogg_ended(stream: BinaryIO, begin: int, end: int) -> bool:
    """Say whether the last page is whole and says that it is the last."""
    tail = max(begin, end - 2 * _PAGE_BYTES)
    stream.seek(tail)
    data = stream.read(end - tail)
    place = data.rfind(_OGG)
    page = data[place : place + _PAGE_BYTES]
    if place < 0 or len(page) < 27:
        return False
    num_segments = page[26]
    sizes = page[27 : 27 + num_segments]
    is_whole = len(page) >= 27 + num_segments + sum(sizes) and len(sizes) == num_segments
    return is_whole and bool(page[5] & 4)


def ogg_lengths(stream: BinaryIO, begin: int, end: int) -> list[int]:
    """Return up to which sample, by its last page, each of the streams that follow one another goes.

    Streams that begin together, as sound and picture, count as one. The file is read once.
    """
    firsts = list(_places(stream, begin, end, _OGG_FIRST))
    ends = [place for last, place in pairwise(firsts) if _has_audio_between(stream, last, place)]
    return [_last_granule(stream, begin, place) for place in [*ends, end]]


def _has_audio_between(stream: BinaryIO, first: int, following: int) -> bool:
    """Say whether a first page has more pages of its own before the next first page."""
    stream.seek(first + 26)
    num_segments = stream.read(1)[0]
    return first + 27 + num_segments + sum(stream.read(num_segments)) < following


def _last_granule(stream: BinaryIO, begin: int, end: int) -> int:
    tail = max(begin, end - 2 * _PAGE_BYTES)
    stream.seek(tail)
    data = stream.read(end - tail)
    place = data.rfind(_OGG)
    return max(0, int.from_bytes(data[place + 6 : place + 14], "little", signed=True))


def _places(stream: BinaryIO, begin: int, end: int, start: re.Pattern[bytes]) -> Iterator[int]:
    """Yield where an expression holds, in order."""
    for block in range(begin, end, _BLOCK_BYTES):
        stream.seek(block)
        data = stream.read(min(_BLOCK_BYTES + _OVERLAP_BYTES, end - block))
        yield from (block + found.start() for found in start.finditer(data) if found.start() < _BLOCK_BYTES)
