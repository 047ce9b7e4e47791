"""Files that FFmpeg reads and libsndfile does not: what they are, by their first bytes, and whether they are whole."""

import os
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from operator import sub
from typing import Any, BinaryIO, NamedTuple

from mae_ast_fairseq.data import mpeg

_HEAD_BYTES = 64
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"

# FFmpeg's names of containers, by the bytes that begin them: left alone, it takes a web page's text for subtitles.
_SIGNATURES = (
    ("matroska", re.compile(re.escape(_EBML))),
    ("mov", re.compile(rb".{4}(?:ftyp|moov|mdat|wide|free|skip|pnot)", re.DOTALL)),
    ("asf", re.compile(re.escape(_ASF_HEADER))),
    ("caf", re.compile(rb"caff.{4}desc.{16}(?!lpcm|ulaw|alaw|alac.{3}[\1-\4])", re.DOTALL)),  # libsndfile reads those
    ("amr", re.compile(rb"#!AMR(?:-WB)?\n")),
    ("wv", re.compile(b"wvpk")),
    ("ape", re.compile(b"MAC ")),
    ("tta", re.compile(b"TTA1")),
    ("flv", re.compile(b"FLV\x01")),
    ("avi", re.compile(rb"RIFF.{4}AVI ", re.DOTALL)),
    ("eac3", re.compile(rb"\x0b\x77.{3}[\x58-\x87]", re.DOTALL)),  # version 11 to 16
    ("ac3", re.compile(rb"\x0b\x77.{3}[\x00-\x57]", re.DOTALL)),
    ("aac", re.compile(rb"\xff[\xf0\xf1\xf8\xf9]")),
    ("gsm", re.compile(rb"[\xd0-\xdf]")),
)
_GSM_BYTES = 33
_NUM_TRIED = 4  # frames that must follow one another in what has no signature
_ADTS_BYTES = 7  # of a frame's head
_LONGEST_FRAME = 1 << 13
_GSM_STARTS = bytes(byte >> 4 == 0xD for byte in range(256))

# Bytes of a frame, by the four bits of its first byte that say how it is coded.
_AMR, _AMR_WB, _AMR_PAUSE = b"#!AMR\n", b"#!AMR-WB\n", 6
_AMR_SIZES = {
    _AMR: (13, 14, 16, 18, 20, 21, 27, 32, 6, *7 * (1,)),
    _AMR_WB: (18, 24, 33, 37, 41, 47, 51, 59, 61, 6, *6 * (1,)),
}

# What lies in a file one after another, whose sizes tell whether all of it is there; the first begins a file.
_PARTS = {
    "mov": (b"ftyp", b"moov", b"mdat", b"moof", b"free", b"skip", b"wide", b"uuid", b"styp", b"sidx", b"mfra", b"meta"),
    "matroska": (_EBML, _SEGMENT, b"\xec"),
    "asf": (_ASF_HEADER, _ASF_DATA),
}


class Media(NamedTuple):
    """A file for FFmpeg."""

    demuxer: str
    """FFmpeg's name of the container"""
    begin: int
    end: int
    """behind the last byte"""


class Frames(NamedTuple):
    """Frames of equal length that follow one another without a container, so that counting them tells where each is."""

    places: Sequence[int]
    """where each begins, and the last ends"""
    codec: str
    sample_rate: int = 0
    """in Hz; 0 where the frames state it"""


def recognise(stream: BinaryIO, begin: int, end: int) -> Media | None:
    """Return what a file in bytes begin .. end is to FFmpeg; None for what libsndfile reads, or nobody."""
    stream.seek(begin)
    head = stream.read(_HEAD_BYTES)
    for demuxer, signature in _SIGNATURES:
        if signature.match(head):
            media = Media(demuxer, begin, end)
            return media if demuxer not in ("aac", "gsm") or _is_run(stream, media) else None
    return None


def _is_run(stream: BinaryIO, media: Media) -> bool:
    start = media._replace(end=min(media.end, media.begin + (_NUM_TRIED + 1) * _LONGEST_FRAME))
    places = _places(stream, start, _NUM_TRIED)
    is_all = 0 <= media.end - places[-1] < _ADTS_BYTES
    return len(places) > (1 if is_all else _NUM_TRIED)


def find_damage(stream: BinaryIO, media: Media) -> tuple[str, str] | None:
    """Return the kind of fault and what was found, where a file's parts are not all there, or another file follows."""
    known = _PARTS.get(media.demuxer)
    if known is None:
        return None
    num_files = 0
    for name, stop in _parts(stream, media):
        if name not in known:
            break
        if stop > media.end:
            return "truncated", f"{stop - media.end} bytes less than its header says"
        num_files += name == known[0]
    if num_files > 1:
        return "longer than stated", f"{num_files} files follow one another; convert each on its own"
    return None


def _parts(stream: BinaryIO, media: Media) -> Iterator[tuple[bytes, int]]:
    """Yield the name of each part and where it ends; one of unknown size ends with the file."""
    read = {"mov": _box, "matroska": _element, "asf": _object}[media.demuxer]
    place = media.begin
    while place < media.end:
        stream.seek(place)
        name, size = read(stream.read(24).ljust(24, b"\0"))
        stop = media.end if size is None else place + size
        if stop <= place:
            return
        yield name, stop
        place = stop


def _box(head: bytes) -> tuple[bytes, int | None]:
    size = int.from_bytes(head[:4], "big")
    return head[4:8], int.from_bytes(head[8:16], "big") if size == 1 else size or None


def _object(head: bytes) -> tuple[bytes, int | None]:
    return head[:16], int.from_bytes(head[16:24], "little")


def _element(head: bytes) -> tuple[bytes, int | None]:
    id_bytes = 9 - (head[0] or 1).bit_length()
    num_bytes = 9 - (head[id_bytes] or 1).bit_length() if id_bytes < 9 else 1
    size = int.from_bytes(head[id_bytes : id_bytes + num_bytes], "big") & ((1 << 7 * num_bytes) - 1)
    is_unknown = size == (1 << 7 * num_bytes) - 1
    return head[:id_bytes], None if is_unknown else id_bytes + num_bytes + size


_latest: dict[Any, Frames] = {}  # so that crops of one long file, which follow one another, walk it once
_NUM_LATEST = 16


def find_frames(stream: BinaryIO, media: Media) -> Frames | None:
    """Find the frames of a file that is nothing but frames; None for a container.

    To walk an hour takes some tens of milliseconds. Raises ValueError where something else is between frames: the file
    is damaged.
    """
    if media.demuxer not in _WALKS:
        return None
    status = os.fstat(stream.fileno())
    begin = getattr(getattr(stream, "raw", stream), "begin", 0)  # of a member in its archive, whose status this is
    file = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, begin, media)
    found = _latest.get(file)
    if found is None:
        found = _find_frames(stream, media)
        for oldest in list(_latest)[: 1 - _NUM_LATEST]:
            _latest.pop(oldest, None)  # which another thread may have done
        _latest[file] = found
    return found


def _find_frames(stream: BinaryIO, media: Media) -> Frames:
    end = mpeg.audio_end(stream, media.end)
    places = _places(stream, media._replace(end=end))
    if end - places[-1] >= _ADTS_BYTES:
        raise ValueError(f"it is damaged: no frame begins at byte {places[-1]}, where one ends")
    if places[-1] > end:
        places = places[:-1]
    if not isinstance(places, range):
        places = array("q", places)
    if media.demuxer == "aac":
        return Frames(places, "aac")
    if media.demuxer == "gsm":
        return Frames(places, "gsm", 8_000)
    stream.seek(media.begin)
    codec, sample_rate = ("amrwb", 16_000) if stream.read(9) == _AMR_WB else ("amrnb", 8_000)
    # FFmpeg's own decoder does not know the frames that are sent in pauses.
    has_pauses = min(map(sub, places[1:], places), default=_AMR_PAUSE + 1) <= _AMR_PAUSE
    return Frames(places, f"libopencore_{codec}" if has_pauses else codec, sample_rate)


def _places(stream: BinaryIO, media: Media, most: int = 1 << 62) -> Sequence[int]:
    """Return where frames begin, one after another, at most so many, and the last ends: behind the end if it is cut."""
    stream.seek(0)
    return _WALKS[media.demuxer](stream.read(media.end), media.begin, most)


def _adts_places(data: bytes, place: int, most: int) -> list[int]:
    places, last = [place], len(data) - _ADTS_BYTES
    while place <= last and len(places) <= most and data[place] == 0xFF and data[place + 1] & 0xF6 == 0xF0:
        place += (data[place + 3] & 3) << 11 | data[place + 4] << 3 | data[place + 5] >> 5 or _ADTS_BYTES
        places.append(place)
    return places


def _gsm_places(data: bytes, place: int, most: int) -> Sequence[int]:
    starts = data[place::_GSM_BYTES][:most].translate(_GSM_STARTS)
    num_frames = (starts + b"\0").index(0)
    return range(place, place + (num_frames + 1) * _GSM_BYTES, _GSM_BYTES)


def _amr_places(data: bytes, place: int, _: int) -> Sequence[int]:
    head = _AMR_WB if data.startswith(_AMR_WB, place) else _AMR
    place += len(head)
    # The bits around those four are 0; where they are not, no frame begins.
    sizes = data.translate(bytes(0 if byte & 0x83 else _AMR_SIZES[head][byte >> 3] for byte in range(256)))
    places, stop = [place], len(data)
    size = sizes[place] if place < stop else 0
    if size and len(set(data[place::size])) == 1:
        return range(place, stop + size, size)  # all are coded alike
    while place < stop and sizes[place]:
        place += sizes[place]
        places.append(place)
    return places


_WALKS: dict[str, Callable[[bytes, int, int], Sequence[int]]] = {
    "aac": _adts_places,
    "amr": _amr_places,
    "gsm": _gsm_places,
}
