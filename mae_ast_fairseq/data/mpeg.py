"""MPEG audio (MP3, and layers I and II) by its frames: how long a stream is, and a form that libsndfile reads whole.

libsndfile guesses the length of a stream that states none from its first frame, and reads no further. So the
frames are counted, by their headers alone, and the stream is given to it behind a header that says how many.
"""

import io
import os
from typing import Any, BinaryIO, NamedTuple

_KBITS = {  # by version (3 is MPEG-1; 2 and 0 are MPEG-2 and 2.5) and layer
    (3, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (3, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (3, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_BLOCK_BYTES = 1 << 20
_SYNC_BYTES = 1 << 16  # searched for the first frame
_SYNC_FRAMES = 4  # that follow one another where a stream begins; noise has two by chance
_LEAST_FRAME_BYTES = 24  # 8 kbit/s at 24 kHz
DECODER_DELAY = 529  # samples that libsndfile leaves out beside the encoder's own delay
_TAGS = (b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"ID3", b"3DI")


def _layer(second: int) -> int:
    return 4 - (second >> 1 & 3)


def _frame_bytes(second: int, third: int) -> int:
    """Return the bytes of a frame, by the second and third byte of its header; 0 for what is no header."""
    version, layer = second >> 3 & 3, _layer(second)
    bitrate, rate = third >> 4, third >> 2 & 3
    if second < 0xE0 or version == 1 or layer == 4 or bitrate in (0, 15) or rate == 3:
        return 0
    bits = 1000 * _KBITS[3 if version == 3 else 2, min(layer, 3 if version == 3 else 2)][bitrate]
    padding = third >> 1 & 1
    if layer == 1:
        return (12 * bits // _RATES[version][rate] + padding) * 4
    return (72 if layer == 3 and version != 3 else 144) * bits // _RATES[version][rate] + padding


_FRAME_BYTES = [_frame_bytes(code >> 8, code & 0xFF) for code in range(1 << 16)]


class Head(NamedTuple):
    """What the first frame of a stream says."""

    begin: int
    """where the audio's first frame begins, behind one that only describes the others"""
    header: bytes
    num_frames: int | None
    """as stated; None where nothing is"""
    num_bytes: int | None
    """of all frames from the describing one on, as stated"""
    tag_begin: int
    """where the describing frame begins; `begin` where there is none"""
    delay: int = 0
    """samples at the start that are the encoder's, not the recording's"""
    padding: int = 0
    """the same at the end"""
    is_foreign: bool = False
    """whether libsndfile does not understand the description, which is VBRI's"""

    @property
    def is_layer_3(self) -> bool:
        """Say whether this is MP3, in which a frame may describe the others."""
        return _layer(self.header[1]) == 3

    @property
    def frame_samples(self) -> int:
        """Return the samples of a frame."""
        if _layer(self.header[1]) == 1:
            return 384
        return 576 if self.is_layer_3 and self.header[1] >> 3 & 3 != 3 else 1152

    @property
    def is_described(self) -> bool:
        """Say whether a frame describes the others in a way that libsndfile understands."""
        says_something = bool(self.num_frames or self.delay or self.padding)
        return self.tag_begin < self.begin and says_something and not self.is_foreign

    @property
    def num_left_out(self) -> int:
        """Return how many of the frames' samples libsndfile leaves out."""
        if not self.is_described:
            return 0
        return self.delay + DECODER_DELAY + max(0, self.padding - DECODER_DELAY)

    def num_samples(self, num_frames: int) -> int:
        """Return the samples that libsndfile reads of so many frames."""
        return max(0, num_frames * self.frame_samples - self.num_left_out)


def frames_of(head: Head, num_samples: int, end: int) -> int | None:
    """Return of how many frames libsndfile reads so many samples; None where it cannot be, up to byte `end`."""
    num_frames, rest = divmod(num_samples + head.num_left_out, head.frame_samples)
    return None if rest or num_frames * _LEAST_FRAME_BYTES > end - head.begin else num_frames


def skip_id3(stream: BinaryIO, begin: int = 0) -> int:
    """Return where what follows ID3v2 tags at a place begins."""
    while True:
        stream.seek(begin)
        head = stream.read(10)
        if len(head) < 10 or head[:3] != b"ID3" or max(head[6:]) > 127:
            return begin
        size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        begin += 10 + size + (10 if head[5] & 0x10 else 0)


def find(stream: BinaryIO, begin: int, end: int) -> Head | None:
    """Find the first frame in bytes begin .. end of a file, from the middle of a stream too; None where none is."""
    stream.seek(begin)
    data = stream.read(min(_SYNC_BYTES, end - begin))
    at = data.find(b"\xff")
    while at >= 0:
        if _is_run(data, at, is_all=begin + len(data) == end):
            return _head(data[at : at + 256].ljust(256, b"\0"), begin + at)
        at = data.find(b"\xff", at + 1)
    return None


def _is_run(data: bytes, at: int, is_all: bool) -> bool:
    """Say whether frames of one kind follow one another at a place, as many as tell them from noise."""
    first = data[at : at + 4]
    for count in range(_SYNC_FRAMES):
        header = data[at : at + 4]
        if len(header) < 4:
            return count >= 2 and is_all and at == len(data)
        num_bytes = _FRAME_BYTES[header[1] << 8 | header[2]]
        if header[0] != 0xFF or not num_bytes or not _is_alike(header, first):
            return count >= 2 and is_all and data.startswith(_TAGS, at)
        at += num_bytes
    return True


def _is_alike(header: bytes, other: bytes) -> bool:
    """Compare version, layer and rate."""
    return not (header[1] ^ other[1]) & 0x1E and not (header[2] ^ other[2]) & 0x0C


def _side_bytes(header: bytes) -> int:
    is_mono, is_mpeg_1 = header[3] >> 6 == 3, header[1] >> 3 & 3 == 3
    return (17 if is_mono else 32) if is_mpeg_1 else (9 if is_mono else 17)


def _head(frame: bytes, begin: int) -> Head:
    header = frame[:4]
    head = Head(begin, header, None, None, begin)
    if not head.is_layer_3:
        return head
    behind = begin + _FRAME_BYTES[header[1] << 8 | header[2]]
    tag = frame[4 + _side_bytes(header) :]
    if tag[:4] in (b"Xing", b"Info"):
        flags = tag[7]
        num_frames = int.from_bytes(tag[8:12], "big") or None if flags & 1 else None
        place = 12 if flags & 1 else 8
        num_bytes = int.from_bytes(tag[place : place + 4], "big") if flags & 2 else None
        place += sum(size for bit, size in ((2, 4), (4, 100), (8, 4)) if flags & bit)
        has_encoder = tag[place : place + 1] > b"\0"
        trimmed = int.from_bytes(tag[place + 21 : place + 24], "big") if has_encoder else 0
        return Head(behind, header, num_frames, num_bytes, begin, trimmed >> 12, trimmed & 0xFFF)
    tag = frame[36:]
    if tag[:4] == b"VBRI":
        num_bytes, num_frames = (int.from_bytes(tag[place : place + 4], "big") for place in (10, 14))
        return Head(behind, header, num_frames or None, num_bytes, begin, is_foreign=True)
    return head


class Run(NamedTuple):
    """Frames of one kind that follow one another without a gap."""

    num_frames: int
    end: int
    """where the last one ends"""
    is_joined: bool
    """whether a tag divides it from the run before, or another rate or layer: it is another file's audio"""


def count(stream: BinaryIO, head: Head, end: int) -> list[Run]:
    """Count the whole frames up to byte `end`, by their headers alone, some millions a second."""
    runs = [_count_run(stream, head.header, head.begin, end, is_joined=False)]
    while True:
        begin = runs[-1].end
        audio = skip_id3(stream, begin)
        following = _find_on(stream, audio, end)
        if following is None:
            return runs
        stream.seek(begin)
        is_tagged = audio > begin or stream.read(16).startswith(_TAGS)
        is_joined = is_tagged or not _is_alike(following.header, head.header)
        runs.append(_count_run(stream, following.header, following.begin, end, is_joined=is_joined))


def _count_run(stream: BinaryIO, first: bytes, begin: int, end: int, *, is_joined: bool) -> Run:
    layer, rate, num_frames = first[1] & 0xFE, first[2] & 0x0C, 0
    while begin + 4 <= end:
        stream.seek(begin)
        data = stream.read(min(_BLOCK_BYTES, end - begin))
        at, last = 0, len(data) - 3
        while at < last:
            second, third = data[at + 1], data[at + 2]
            num_bytes = _FRAME_BYTES[second << 8 | third]
            is_frame = data[at] == 0xFF and num_bytes and second & 0xFE == layer and third & 0x0C == rate
            if not is_frame or begin + at + num_bytes > end:
                return Run(num_frames, begin + at, is_joined)
            at += num_bytes
            num_frames += 1
        if not at:  # the file became shorter
            break
        begin += at
    return Run(num_frames, begin, is_joined)


def _find_on(stream: BinaryIO, begin: int, end: int) -> Head | None:
    """Find more frames behind a run of them, wherever they are."""
    for place in range(begin, end, _SYNC_BYTES // 2):
        if found := find(stream, place, end):
            return found
    return None


def audio_end(stream: BinaryIO, end: int) -> int:
    """Return where the audio ends: before an ID3v1 and an APE tag."""
    stream.seek(max(0, end - 128))
    if stream.read(3) == b"TAG":
        end -= 128
    stream.seek(max(0, end - 32))
    footer = stream.read(32).ljust(32, b"\0")
    if footer[:8] == b"APETAGEX":
        has_header = footer[23] & 0x80
        end -= int.from_bytes(footer[12:16], "little") + (32 if has_header else 0)
    return end


def lead(head: Head, num_frames: int) -> bytes:
    """Return what makes libsndfile read that many MP3 frames behind it.

    It is LAME's description of the stream. Where the file itself has none, its first sample is to be the first frame's
    first, and a silent frame behind the description stands for the encoder's delay.
    """
    is_mpeg_1 = head.header[1] >> 3 & 3 == 3
    second, third = head.header[1] | 1, (0x50 if is_mpeg_1 else 0x80) | head.header[2] & 0x0C  # 64 kbit/s
    size = _FRAME_BYTES[second << 8 | third]
    start = bytes([0xFF, second, third, head.header[3]])
    silence, delay, padding = b"", head.delay, head.padding
    if not head.is_described:
        silence, delay, padding = start.ljust(size, b"\0"), head.frame_samples - DECODER_DELAY, DECODER_DELAY
        num_frames += 1
    tag = b"Info" + (1).to_bytes(4, "big") + num_frames.to_bytes(4, "big") + b"LAME3.100".ljust(21, b"\0")
    tag += (delay << 12 | padding).to_bytes(3, "big")
    return (start + bytes(_side_bytes(start)) + tag).ljust(size, b"\0") + silence


class Spliced(io.RawIOBase):
    """Bytes, then bytes begin .. end of a file, then more bytes, as one file."""

    def __init__(self, before: bytes, stream: BinaryIO, begin: int, end: int, behind: bytes = b""):
        self._before, self._stream, self._begin, self._behind = before, stream, begin, behind
        self._stops = len(before), len(before) + end - begin, len(before) + end - begin + len(behind)
        self._place = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the place in the whole."""
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place in the whole."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._stops[2]}[whence]
        self._place = max(0, base + offset)
        return self._place

    def readinto(self, buffer: Any) -> int:
        """Read from one of the three parts."""
        first, second, _ = self._stops
        size = len(buffer)
        if self._place < first:
            data = self._before[self._place : self._place + size]
        elif self._place < second:
            self._stream.seek(self._begin + self._place - first)
            data = self._stream.read(min(size, second - self._place))
        else:
            data = self._behind[self._place - second : self._place - second + size]
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)
