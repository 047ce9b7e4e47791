"""What the headers of uncompressed containers state of their audio, against the bytes that are there.

libsndfile reads a cut file as a shorter one, and drops what lies beyond the size that is stated.
"""

import re
import struct
from typing import BinaryIO, NamedTuple

# Writers that cannot seek back, such as a pipe's end, leave a size of about 2^31 or 2^32 (sox: 0x7F000000 in AIFF).
_UNKNOWN_32 = ((0x7FFFE000, 0x80000000), (0xFFFFE000, 0xFFFFFFFF), (0x7F000000, 0x7F000010))
_MANY_CHUNKS = 10_000
_NEXT_TO_NOTHING = 8  # bytes: less than a chunk, and than any sound
_PADDING_BYTES = 1 << 20  # zeros behind the audio, as a recorder's block or a page's rest, are no loss
_NAME = re.compile(rb"[ -~]{4}")
# Where one of these ends the file too early, the audio before it is whole.
_KNOWN = {b"LIST", b"id3 ", b"ID3 ", b"bext", b"fact", b"cue ", b"smpl", b"JUNK", b"PAD ", b"PEAK", b"iXML", b"afsp"}
_FILES = {b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM", b"caff", b"riff"}  # another one, behind the audio
_TRAILERS = (b"TAG", b"APETAGEX", b"ID3", b"LYRICSBEGIN")
_W64_RIFF = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"


class Layout(NamedTuple):
    """How chunks lie in a container."""

    head_bytes: int
    """before the first chunk"""
    head: struct.Struct
    """of a chunk: its name and size"""
    audio: bytes
    """name of the chunk with the audio"""
    is_size_inclusive: bool = False
    """whether a chunk's size counts its head"""
    align: int = 2
    """chunks begin at multiples of it, counted from the start"""


_LITTLE, _BIG, _CAF, _W64 = (struct.Struct(code) for code in ("<4sI", ">4sI", ">4sq", "<4s12xQ"))
_LAYOUTS = {
    b"RIFF": Layout(12, _LITTLE, b"data"),
    b"RIFX": Layout(12, _BIG, b"data"),
    b"RF64": Layout(12, _LITTLE, b"data"),
    b"BW64": Layout(12, _LITTLE, b"data"),
    b"FORM": Layout(12, _BIG, b"SSND"),
    b"caff": Layout(8, _CAF, b"data", align=1),
    b"riff": Layout(40, _W64, b"data", is_size_inclusive=True, align=8),
}


class Stated(NamedTuple):
    """Where the audio lies; the numbers of bytes are equal in a whole file."""

    begin: int
    stated: int | None
    """None where the header says that it does not know"""
    held: int
    """as stated, or up to the file's end"""
    beyond: int
    """of audio, behind what is stated"""
    is_mpeg: bool = False


def read(stream: BinaryIO, begin: int, end: int) -> Stated | None:
    """Compare the header of a file in bytes begin .. end of a stream with them; None for other formats."""
    stream.seek(begin)
    head = stream.read(24)
    if head[:4] in (b".snd", b"dns."):
        place, size = struct.unpack_from(">II" if head[0] == 0x2E else "<II", head.ljust(24, b"\0"), 4)
        return _compare(stream, begin + place, None if size == 0xFFFFFFFF else size, end, None, begin)
    if head.startswith(b"NIST_1A\n"):
        return _read_sphere(stream, begin, end)
    layout = _LAYOUTS.get(head[:4])
    if layout is None or (head[:4] == b"riff" and head[:16] != _W64_RIFF):
        return None
    return _read_chunks(stream, begin, end, layout)


def _is_unknown(size: int) -> bool:
    return not 0 <= size < 1 << 62 or any(low <= size <= high for low, high in _UNKNOWN_32)


def _read_chunks(stream: BinaryIO, begin: int, end: int, layout: Layout) -> Stated | None:
    place, is_mpeg, size_64 = begin + layout.head_bytes, False, None
    for _ in range(_MANY_CHUNKS):
        chunk = _chunk(stream, place, end, layout)
        if chunk is None:
            return None
        name, body, size = chunk
        if name == layout.audio:
            known = None if _is_unknown(size) and (layout.head.size == 8 or not 0 <= size < 1 << 62) else size
            if size_64 is not None and size in (0xFFFFFFFF, 0):
                known = size_64 if size_64 < 1 << 62 else None
            return _compare(stream, body, known, end, layout, begin)._replace(is_mpeg=is_mpeg)
        stream.seek(body)
        if name == b"fmt ":
            code = ">H" if layout.head is _BIG else "<H"
            is_mpeg = struct.unpack(code, stream.read(2).ljust(2, b"\0"))[0] in (0x50, 0x55)
        elif name == b"ds64":
            size_64 = struct.unpack("<8xQ", stream.read(16).ljust(16, b"\0"))[0]
        place = _next(body, size, begin, layout)
    return None


def _chunk(stream: BinaryIO, place: int, end: int, layout: Layout) -> tuple[bytes, int, int] | None:
    """Return the name of a chunk, where its body begins, and its size; None where the file ends before."""
    if place + layout.head.size > end:
        return None
    stream.seek(place)
    head = stream.read(layout.head.size)
    if len(head) < layout.head.size:
        return None
    name, size = layout.head.unpack(head)
    return name, place + len(head), size - len(head) if layout.is_size_inclusive else size


def _next(body: int, size: int, begin: int, layout: Layout) -> int:
    behind = body + max(0, size)
    return behind + (begin - behind) % layout.align


def _read_sphere(stream: BinaryIO, begin: int, end: int) -> Stated | None:
    stream.seek(begin)
    head = stream.read(1024)
    fields = dict(re.findall(rb"^(\w+) -\w+ (\d+)\s*$", head, re.MULTILINE))
    try:
        size = int(fields[b"sample_count"]) * int(fields[b"channel_count"]) * int(fields[b"sample_n_bytes"])
        return _compare(stream, begin + int(head[8:16]), size, end, None, begin)
    except (KeyError, ValueError):
        return None


def _compare(stream: BinaryIO, audio: int, size: int | None, end: int, layout: Layout | None, begin: int) -> Stated:
    if size is None:
        return Stated(audio, None, max(0, end - audio), 0)
    held = max(0, min(size, end - audio))
    behind = audio + size
    is_over = held == size and not _is_no_audio(stream, behind, end, layout, begin)
    return Stated(audio, size, held, end - behind if is_over else 0)


def _is_no_audio(stream: BinaryIO, behind: int, end: int, layout: Layout | None, begin: int) -> bool:
    """Say whether what lies behind the audio is chunks, a tag, or next to nothing."""
    if end - behind < _NEXT_TO_NOTHING:
        return True
    stream.seek(behind)
    rest = stream.read(_PADDING_BYTES)
    if end - behind <= _PADDING_BYTES and not rest.strip(b"\0"):
        return True
    if rest.startswith(_TRAILERS):
        return True
    if layout is None:
        return False
    starts = {behind, _next(behind, 0, begin, layout)}  # some writers do not pad
    return any(_is_chain(stream, place, end, layout, begin) for place in starts)


def _is_chain(stream: BinaryIO, place: int, end: int, layout: Layout, begin: int) -> bool:
    for _ in range(_MANY_CHUNKS):
        stream.seek(place)
        if end - place < _NEXT_TO_NOTHING or stream.read(16).startswith(_TRAILERS):
            return True
        chunk = _chunk(stream, place, end, layout)
        if chunk is None:
            return False
        name, body, size = chunk
        if not _NAME.fullmatch(name) or name in _FILES or size < 0:
            return False
        if body + size > end:
            return name in _KNOWN
        following = _next(body, size, begin, layout)
        # An odd chunk without its pad byte: the next name begins at once.
        if following > body + size and _has_name(stream, body + size, end) and not _has_name(stream, following, end):
            following = body + size
        place = following
    return False


def _has_name(stream: BinaryIO, place: int, end: int) -> bool:
    stream.seek(place)
    return place < end and bool(_NAME.fullmatch(stream.read(4)))
