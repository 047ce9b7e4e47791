"""How long the audio of a file truly is: what its header states, against the bytes that are there."""

import io
import os
from typing import BinaryIO, NamedTuple

import soundfile as sf

from mae_ast_fairseq.data import containers, ffmpeg, mpeg, streams
from mae_ast_fairseq.data.media import Media, find_damage, recognise
from mae_ast_fairseq.extras import install_command

_REWRITE = "write its header anew, as by `sox --ignore-length IN OUT.flac`"
_REWRITE_FLAC = "encode it anew, as by `ffmpeg -i IN OUT.flac`"
_REJOIN = "join them by a tool that decodes, as by `sox FIRST SECOND OUT.flac`"
NOT_INSTALLED = "needs PyAV"  # a kind of fault
_BLOCK_SAMPLES = 1 << 16
_READ_AHEAD = 1 << 16  # libsndfile reads MP3 a few bytes at a time


class Fault(NamedTuple):
    """Why a file cannot be used."""

    kind: str
    found: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.found}" if self.found else self.kind


class _Forward(sf.SoundFile):
    """A file that soundfile only reads on: elsewhere it seeks after each read, which FLAC cannot at its end."""

    def seekable(self) -> bool:
        return False


class Extent(NamedTuple):
    """What of a file is audio."""

    fault: Fault | None = None
    source: BinaryIO | None = None
    """what libsndfile is to read; None for the file as it is"""
    num_samples: int | None = None
    """None where libsndfile, reading that, knows them"""
    is_counted: bool = False
    """whether so many samples are known to be there without decoding the last"""
    media: Media | None = None
    """what FFmpeg is to read, instead of libsndfile; of it `num_samples` are to be expected"""


_AS_IT_IS = Extent()


def measure(stream: BinaryIO, expect_samples: int | None = None) -> Extent:
    """Find what of a file, or of a part of an archive, is audio.

    Where the number of samples to expect is given, as by a manifest, what takes reading the whole file is left out:
    counting the frames of MP3, and looking for a second stream in FLAC and Ogg.
    """
    end = stream.seek(0, os.SEEK_END)
    begin = min(end, mpeg.skip_id3(stream))
    media = recognise(stream, begin, end)
    if media is not None and media.demuxer != "caf":
        return _measure_media(stream, media, expect_samples)
    stream.seek(begin)
    head = stream.read(4)
    if head == b"fLaC":
        return _measure_flac(stream, begin, end, expect_samples)
    if head == b"OggS":
        return _measure_ogg(stream, begin, end, expect_samples)
    held = containers.read(stream, begin, end)
    if held is None:
        return _measure_mpeg(stream, begin, end, expect_samples, is_file=True)
    if held.stated is not None and held.held < held.stated:
        return Extent(Fault("truncated", f"{held.stated - held.held} bytes less than its header says"))
    if held.beyond:
        found = f"it states {held.stated} bytes of audio, {held.beyond} more follow; {_REWRITE}"
        return Extent(Fault("longer than stated", found))
    if held.is_mpeg:
        return _measure_mpeg(stream, held.begin, held.begin + held.held, expect_samples, is_file=False)
    if media is not None:
        return _measure_media(stream, media, expect_samples)
    return _behind_tags(stream, begin, end)


def _measure_media(stream: BinaryIO, media: Media, expect_samples: int | None) -> Extent:
    if (damage := find_damage(stream, media)) is not None:
        return Extent(Fault(*damage))
    if not ffmpeg.is_installed():
        return Extent(Fault(NOT_INSTALLED, f"`{install_command('av')}` brings what reads such files ({media.demuxer})"))
    return Extent(media=media, num_samples=expect_samples)


def _behind_tags(stream: BinaryIO, begin: int, end: int) -> Extent:
    """Leave out ID3v2 tags before what is no MP3: libsndfile knows them in some files, and in no part of one."""
    return Extent(source=_source(mpeg.Spliced(b"", stream, begin, end))) if begin else _AS_IT_IS


def _measure_flac(stream: BinaryIO, begin: int, end: int, expect_samples: int | None) -> Extent:
    stated = streams.flac_samples(stream, begin)
    if expect_samples is None:
        lengths = streams.flac_lengths(stream, begin, end)
        if len(lengths) > 1 and not all(lengths):
            return Extent(Fault("longer than stated", f"{len(lengths)} streams follow one another; {_REJOIN}"))
        if len(lengths) > 1:
            return Extent(_joined(lengths[0], sum(lengths)))
        # What looks like a frame may be chance in another frame's bits.
        if 0 < stated < streams.flac_end(stream, begin, end):
            num_samples = _count_flac(stream, begin, end)
            if num_samples > stated:
                found = f"it states {stated} samples, {num_samples} are there; {_REWRITE_FLAC}"
                return Extent(Fault("longer than stated", found))
    if stated:
        return _behind_tags(stream, begin, end)
    num_samples = expect_samples or _count_flac(stream, begin, end)
    return Extent(source=_flac_stating(stream, begin, end, num_samples), is_counted=True)


def _flac_stating(stream: BinaryIO, begin: int, end: int, num_samples: int) -> BinaryIO:
    start = streams.flac_start(stream, begin, num_samples)
    return _source(mpeg.Spliced(start, stream, begin + len(start), end))


def _count_flac(stream: BinaryIO, begin: int, end: int) -> int:
    """Decode FLAC whose header states no number of samples, as from a pipe, and count them."""
    num_samples = 0
    with _Forward(_flac_stating(stream, begin, end, streams.MAX_FLAC_SAMPLES)) as file:
        while num_read := len(file.read(_BLOCK_SAMPLES, dtype="int16")):
            num_samples += num_read
    return num_samples


def _measure_ogg(stream: BinaryIO, begin: int, end: int, expect_samples: int | None) -> Extent:
    lost = ""
    if expect_samples is None:
        lengths, lost = streams.read_ogg(stream, begin, end)
        if len(lengths) > 1:
            return Extent(_joined(lengths[0], sum(lengths)))
    if not streams.is_ogg_ended(stream, begin, end):
        return Extent(Fault("truncated", "its last page does not end the stream, as the last of a whole file does"))
    return Extent(Fault("unreadable", lost)) if lost else _behind_tags(stream, begin, end)


def _joined(stated: int, held: int) -> Fault:
    found = f"it states {stated} samples, {held} are there, as in files joined by `cat`; {_REJOIN}"
    return Fault("longer than stated", found)


def _measure_mpeg(stream: BinaryIO, begin: int, end: int, expect_samples: int | None, *, is_file: bool) -> Extent:
    """Find the frames of MPEG audio, count them, and compare where a header says how many they are."""
    end = mpeg.audio_end(stream, end)
    head = mpeg.find(stream, begin, end)
    if head is None:
        return _without_frames(stream, begin, end) if is_file else _AS_IT_IS
    fault, num_frames = None, mpeg.frames_of(head, expect_samples or 0, end)
    if not num_frames:
        runs = mpeg.count(stream, head, end)
        num_frames = sum(run.num_frames for run in runs)
        fault = _mpeg_fault(head, runs, end)
    is_right = num_frames == head.num_frames and head.num_bytes in (None, end - head.tag_begin)
    if not is_right or head.is_foreign:
        return _frames(stream, head, num_frames, end)._replace(fault=fault)
    source = None if is_file and head.tag_begin == begin else _source(mpeg.Spliced(b"", stream, head.tag_begin, end))
    return Extent(source=source, is_counted=True)


def _without_frames(stream: BinaryIO, begin: int, end: int) -> Extent:
    """Say what of a file of no frames to read: libmpg123 complains on stderr of what is named or begun as MP3."""
    stream.seek(begin)
    first, second, third = stream.read(3).ljust(3, b"\0")
    if (first, second) == (0xF0, 0x7E):
        return Extent(Fault("unreadable", "libsndfile reads a cut SDS file as a whole one; convert it by another tool"))
    if first != 0xFF or second < 0xE0:
        return Extent(source=_source(mpeg.Spliced(b"", stream, begin, end)))  # which has no name
    is_free_format = third < 0x10  # its frames' size is stated nowhere
    return _AS_IT_IS if is_free_format else Extent(Fault("unreadable", "no audio format is recognised"))


def _mpeg_fault(head: mpeg.Head, runs: list[mpeg.Run], end: int) -> Fault | None:
    """Tell a file that was cut or joined, by the bytes that it states too, from one whose writer counted wrong."""
    counted, stated = sum(run.num_frames for run in runs), head.num_frames
    if stated is None:
        is_joined = any(run.is_joined for run in runs)
        return _joined(head.num_samples(runs[0].num_frames), head.num_samples(counted)) if is_joined else None
    has_all_bytes = head.num_bytes == end - head.tag_begin
    if counted < stated and has_all_bytes and len(runs) > 1:
        return Fault("unreadable", f"{counted} of the {stated} frames that its header says; the others are damaged")
    if counted == stated or has_all_bytes:
        return None
    if counted > stated:
        left_out = head.delay + mpeg.DECODER_DELAY if head.delay else 0
        return _joined(head.num_samples(stated), counted * head.frame_samples - left_out)
    return Fault("truncated", f"{counted} of the {stated} frames that its header says")


def _frames(stream: BinaryIO, head: mpeg.Head, num_frames: int, end: int) -> Extent:
    lead = mpeg.lead(head, num_frames) if head.is_layer_3 else b""
    # Layers I and II know no such header: libsndfile guesses by the file's size, and must not guess too few.
    spliced = mpeg.Spliced(lead, stream, head.begin, end, b"" if lead else bytes(8192))
    return Extent(source=_source(spliced), num_samples=head.num_samples(num_frames), is_counted=True)


def _source(spliced: mpeg.Spliced) -> BinaryIO:
    return io.BufferedReader(spliced, _READ_AHEAD)
