"""Ogg and FLAC: whether a stream is whole and ends as it should, and whether another begins behind it."""

import re
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

_BLOCK_BYTES = 1 << 20
_PAGE_BYTES = 27 + 255 + 255 * 255  # the longest page of an Ogg file
_OGG = b"OggS\0"
# Expressions, which are searched for two times as fast as a text. Each is of no more than 8 bytes.
_OGG_PAGE, _FLAC_FIRST = re.compile(rb"OggS\0"), re.compile(rb"fLaC[\0\x80]\0\0\x22")
_OPUS_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)  # which libsndfile decodes at
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_OVERLAP_BYTES = 7
_FLAC_FRAME = re.compile(rb"\xff[\xf8\xf9](?=[\x10-\xfe][\x00-\xae])", re.DOTALL)
_FLAC_BLOCKS = range(1, 7)  # kinds of metadata behind the first
_FLAC_TAIL_BYTES = 1 << 16  # searched for the last frame where the longest one's size is not stated
_FLAC_NUMBERS = 18  # bytes before the 8 whose last 36 bits are the number of samples
MAX_FLAC_SAMPLES = (1 << 36) - 1


def flac_lengths(stream: BinaryIO, begin: int, end: int) -> list[int]:
    """Return the samples that each FLAC stream in bytes begin .. end states; the file is read once."""
    following = _places(stream, _flac_audio(stream, begin, end), end, _FLAC_FIRST)
    return [flac_samples(stream, place) for place in (begin, *following)]


def _flac_audio(stream: BinaryIO, begin: int, end: int) -> int:
    """Return where the first frame begins, behind the metadata, in which a picture may hold anything."""
    place, is_last = begin + 4, False
    while not is_last and place < end:
        stream.seek(place)
        mark, *size = stream.read(4).ljust(4, b"\0")
        if mark & 0x7F not in _FLAC_BLOCKS and place > begin + 4:
            break
        is_last = mark >= 0x80
        place += 4 + int.from_bytes(size, "big")
    return place


def flac_end(stream: BinaryIO, begin: int, end: int) -> int:
    """Return up to which sample the frames in a FLAC stream's last bytes go; 0 where none is found.

    A frame that seems to begin there may not be one: about one file in a hundred has such bytes by chance.
    """
    stream.seek(begin)
    info = stream.read(_FLAC_NUMBERS)
    block_samples, most_bytes = (int.from_bytes(info[place:stop], "big") for place, stop in ((8, 10), (15, 18)))
    tail = max(begin, end - (2 * most_bytes or _FLAC_TAIL_BYTES))
    stream.seek(tail)
    data = stream.read(end - tail)
    ends = (
        _flac_frame_end(data[found.start() : found.start() + 16].ljust(16, b"\0"), block_samples)
        for found in _FLAC_FRAME.finditer(data)
    )
    return max(ends, default=0)


def _crc_8(value: int) -> int:
    for _ in range(8):
        value = (value << 1) & 0xFF ^ (0x07 if value & 0x80 else 0)
    return value


_CRC_8 = bytes(_crc_8(value) for value in range(256))  # the checksum of a FLAC frame's head, byte by byte


def _flac_frame_end(header: bytes, block_samples: int) -> int:
    """Return up to which sample a frame goes, of blocks of so many where they are all alike; 0 for no frame's head."""
    size_code, num_ones = header[2] >> 4, 8 - (header[4] ^ 0xFF).bit_length()
    if num_ones in (1, 8):
        return 0
    behind = 4 + max(1, num_ones)
    number = header[4] & (0x7F >> num_ones)
    for byte in header[5:behind]:
        number = number << 6 | byte & 0x3F
    size_bytes = {6: 1, 7: 2}.get(size_code, 0)
    stop = behind + size_bytes + {12: 1, 13: 2, 14: 2}.get(header[2] & 15, 0)
    checksum = 0
    for byte in header[:stop]:
        checksum = _CRC_8[checksum ^ byte]
    if checksum != header[stop]:
        return 0
    if size_bytes:
        num_samples = int.from_bytes(header[behind : behind + size_bytes], "big") + 1
    else:
        num_samples = 192 if size_code == 1 else 576 << size_code - 2 if size_code < 6 else 256 << size_code - 8
    return (number if header[1] & 1 else number * block_samples) + num_samples


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


class OggStreams(NamedTuple):
    """What the pages of an Ogg file hold."""

    lengths: list[int]
    """samples of each of the streams that follow one another, by its last page; those that begin together, as sound
    and picture, count as one"""
    lost: str
    """which page with audio is not there, or so damaged that decoders leave it out; empty where none is"""


def read_ogg(stream: BinaryIO, begin: int, end: int) -> OggStreams:
    """Read the heads of all pages of an Ogg file, and compare their checksums; the file is read once."""
    lengths: list[int] = []
    numbers: dict[bytes, int] = {}  # of the next page with audio, by stream
    lost, was_first, first, is_last = "", False, b"", True
    for page in _ogg_pages(stream, begin, end):
        is_first, serial, number = bool(page[5] & 2), page[14:18], int.from_bytes(page[18:22], "little")
        granule = int.from_bytes(page[6:14], "little", signed=True)
        if is_first and not was_first:
            lengths.append(0)
            numbers, first = {}, page
        elif number != numbers.get(serial, number):
            lost = lost or f"page {numbers[serial]} of its stream is lost or damaged"
        if granule > 0 and lengths:
            lengths[-1] = _ogg_samples(first, granule)
        if granule > 0 or serial in numbers:  # before the first, a stream from the middle of a broadcast has a gap
            numbers[serial] = number + 1
        was_first, is_last = is_first, bool(page[5] & 4)
    return OggStreams(lengths, lost or ("" if is_last else "its last page is damaged"))


def _ogg_samples(first: bytes, granule: int) -> int:
    """Return up to which sample a page goes, by the first page of its stream: Opus counts at 48 kHz."""
    opus = first[27 + first[26] :]
    if not opus.startswith(b"OpusHead"):
        return granule
    rate = int.from_bytes(opus[12:16], "little")
    rate = rate if rate in _OPUS_RATES else 48_000
    return max(0, granule - int.from_bytes(opus[10:12], "little")) * rate // 48_000


def _ogg_pages(stream: BinaryIO, begin: int, end: int) -> Iterator[bytes]:
    """Yield the pages that are whole, as decoders find them: after what is none they look for the next."""
    while begin < end:
        stream.seek(begin)
        page = stream.read(27)
        if len(page) == 27 and page.startswith(_OGG):
            page += (sizes := stream.read(page[26]))
            page += stream.read(sum(sizes))
            if begin + len(page) <= end and _is_ogg_sum_right(page):
                yield page
                begin += len(page)
                continue
        begin = next(_places(stream, begin + 1, end, _OGG_PAGE), end)


def _is_ogg_sum_right(page: bytes) -> bool:
    """Compare a page's checksum: zlib's, but for the order of bits, and what it begins and ends with."""
    data = page[:22] + bytes(4) + page[26:]
    value = zlib.crc32(data.translate(_REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return value == int.from_bytes(page[22:26].translate(_REVERSED_BITS), "big")


def _places(stream: BinaryIO, begin: int, end: int, start: re.Pattern[bytes]) -> Iterator[int]:
    """Yield where an expression holds, in order."""
    for block in range(begin, end, _BLOCK_BYTES):
        stream.seek(block)
        data = stream.read(min(_BLOCK_BYTES + _OVERLAP_BYTES, end - block))
        yield from (block + found.start() for found in start.finditer(data) if found.start() < _BLOCK_BYTES)
