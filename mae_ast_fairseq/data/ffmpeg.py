"""Decoding by FFmpeg, which PyAV brings: what libsndfile does not read. No other module imports PyAV.

A file is decoded in segments of some seconds, each by a decoder that has heard nothing before, from half a second
before its first sample. So a crop costs at most a segment more than its own length, and equals that slice of the whole
file exactly, also where decoders draw noise (AAC, AC-3) or never forget (Opus, AMR). The first segment, and with it a
file of ten seconds, is what FFmpeg decodes from the file's start. Where a container's clock does not tell at which
sample a packet begins, the file is one segment, and is decoded from its start.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, count, islice
from typing import Any, BinaryIO

import numpy as np

from mae_ast_fairseq.data.media import Frames, Media, find_frames
from mae_ast_fairseq.data.mpeg import Spliced
from mae_ast_fairseq.extras import missing

_SEGMENT_SECONDS = 12  # more than a clip of AudioSet
_PREROLL_SECONDS = 0.5  # decoded before a segment, for what decoders carry from frame to frame
_AMR_PREROLL_SECONDS = 2.0  # after which what is left of the difference is below 1e-5
_FAR_BACK_SECONDS = 16.0  # where a container cannot go to what it is asked for, but to what is behind
_TAIL_SECONDS = (0.5, 8.0)  # before where a header says that the audio ends, to see where it does
_NUM_TIMED = 9  # frames whose clocks are averaged, since one may be cut and clocks may count milliseconds
_MOST_OFF = 0.45  # of the steps in which frames begin, between a clock and the nearest
_MOST_TICKS_OFF = 1.5
_MOST_CUT = 3  # frames that decoders leave out, for encoders' delay and what fills the last
_LONG_BEFORE = -(1 << 40)  # ticks: before any delay
_ANYWHERE = 1 << 62  # samples: more than any file has
_BUFFER_BYTES = 1 << 16

# Codecs of frames of one length. Others begin at multiples of some number of samples; see _find_grid.
_EQUAL_FRAMES = frozenset({"aac", "mp1", "mp2", "mp3", "ac3", "eac3", "amr_nb", "amr_wb", "alac", "wmav1", "wmav2"})
_OPUS_GRID = 120  # samples at 48 kHz: the shortest frame
_WMA_FLAGS = {"wmav1": 2, "wmav2": 4}  # where they are in what the container says to the decoder
_BIT_RESERVOIR = 2  # one of them: frames lie across packets, so that a packet's clock is of none in particular

# What is left in these decoders when they are flushed sounds in what they decode next.
_UNFORGETTING = frozenset({"aac", "ac3", "eac3", "opus", "amr_nb", "amr_wb"})


def is_installed() -> bool:
    """Say whether PyAV is there."""
    return not missing("av")


class MediaFile:
    """A file in FFmpeg's hands, with what is used of `AudioFile`.

    Raises ValueError for what cannot be decoded. `expect_samples` is how many it should have, if known.
    """

    fault = None
    is_sequential = False

    def __init__(self, stream: BinaryIO, media: Media, expect_samples: int | None):
        found = find_frames(stream, media)
        source = _Container(stream, media) if found is None else _Raw(stream, found)
        self._source: _Container | _Raw = source
        self.samplerate, self.channels, self.subtype = source.sample_rate, source.num_channels, source.codec
        self._segment_samples = _SEGMENT_SECONDS * self.samplerate
        self._is_counted = False
        end = source.find_end()
        if end is None or expect_samples not in (None, end):
            self._segment_samples = _ANYWHERE
            end = expect_samples if end is None and expect_samples is not None else self._count()
        self.frames = end
        self.skip(0)

    def __enter__(self) -> "MediaFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._source.close()

    def seekable(self) -> bool:
        """Return True: any sample can be asked for."""
        return True

    def count(self) -> int:
        """Return how many samples there truly are: all are decoded where the number of packets does not confirm it."""
        return self.frames if self._is_counted or self._source.confirms(self.frames) else self._count()

    def _count(self) -> int:
        self._is_counted = True
        return sum(len(block) for _, block in self._source.decode(0))

    def skip(self, num_samples: int) -> bool:
        """Go from the start to a sample; False where there are fewer before it."""
        self._place = num_samples
        self._blocks = self._decode(num_samples)
        return num_samples <= self.frames

    def seek(self, num_samples: int) -> int:
        """Go to a sample, and return it."""
        self.skip(num_samples)
        return num_samples

    def read(self, num_samples: int = -1, dtype: str = "float32", always_2d: bool = False) -> np.ndarray:
        """Return the next samples [S, channels], or [S] of one channel; fewer where the file ends."""
        num_left = self.frames - self._place
        num_left = num_left if num_samples < 0 else min(num_samples, num_left)
        parts = [np.empty((0, self.channels), dtype=np.float32)]
        while num_left > 0 and (block := next(self._blocks, None)) is not None:
            if len(block) > num_left:
                self._blocks = chain([block[num_left:]], self._blocks)
            parts.append(block[:num_left])
            num_left -= len(parts[-1])
            self._place += len(parts[-1])
        samples = np.concatenate(parts)
        return samples if always_2d or self.channels > 1 else samples[:, 0]

    def _decode(self, place: int) -> Iterator[np.ndarray]:
        """Yield the samples from one on, segment by segment."""
        for number in count(place // self._segment_samples):
            start = number * self._segment_samples
            if start >= self.frames:
                return
            yield from _cut(self._source.decode(start), max(start, place), start + self._segment_samples)


def _cut(blocks: Iterator[tuple[int, np.ndarray]], start: int, stop: int) -> Iterator[np.ndarray]:
    """Yield what of blocks, each with the number of its first sample, is in start .. stop."""
    for place, block in blocks:
        if place + len(block) > start:
            yield block[max(0, start - place) : stop - place]
        if place + len(block) >= stop:
            return


@contextmanager
def _in_one_line() -> Iterator[None]:
    """Turn FFmpeg's errors into a ValueError of a few words."""
    import av

    try:
        yield
    except av.error.FFmpegError as error:
        raise ValueError(error.strerror or str(error)) from None


class _Source:
    """Frames of one stream; their rate, in Hz, and number of channels are those of the first."""

    codec = ""
    sample_rate = num_channels = frame_samples = 0

    @property
    def _num_before(self) -> int:
        """Count the samples to decode before a segment."""
        return round(self.sample_rate * (_AMR_PREROLL_SECONDS if "amr" in self.codec else _PREROLL_SECONDS))

    def _describe(self, heads: list[Any]) -> None:
        """Take the first frames, of which the very first may be cut."""
        if not heads:
            raise ValueError("it holds no samples")
        self.sample_rate, self.num_channels = heads[0].sample_rate, heads[0].layout.nb_channels
        self.frame_samples = max(frame.samples for frame in heads)

    def _samples(self, frame: Any) -> np.ndarray:
        """Return a frame's samples, float32 [S, channels] in [-1, 1], scaled as libsndfile does."""
        was, now = (self.sample_rate, self.num_channels), (frame.sample_rate, frame.layout.nb_channels)
        if now != was:
            before, after = (f"{rate} Hz and {number} channels" for rate, number in (was, now))
            raise ValueError(f"it changes from {before} to {after}; cut it there, or convert it to one of them")
        values = frame.to_ndarray()
        values = values.T if frame.format.is_planar else values.reshape(-1, self.num_channels)
        if values.dtype.kind == "f":
            return values.astype(np.float32)
        if values.dtype == np.uint8:
            return (values.astype(np.float32) - 128) / 128
        return values.astype(np.float32) / np.float32(-float(np.iinfo(values.dtype).min))


class _Raw(_Source):
    """Frames without a container, of which counting tells where each begins. Those that begin a file may be silent."""

    def __init__(self, stream: BinaryIO, found: Frames):
        self._stream, self._found, self.codec = stream, found, found.codec
        self._num_frames = len(found.places) - 1
        heads = list(islice(self._frames(0), _NUM_TIMED))
        self._describe([frame for _, frame in heads])
        self._num_silent = heads[0][0]

    def _frames(self, first: int) -> Iterator[tuple[int, Any]]:
        """Decode from a frame on, by a new decoder, and yield each with its number."""
        import av

        with _in_one_line():
            decoder: Any = av.CodecContext.create(self.codec, "r")
            if self._found.sample_rate:
                decoder.sample_rate, decoder.layout = self._found.sample_rate, "mono"
            for number in range(first, self._num_frames):
                begin, end = self._found.places[number], self._found.places[number + 1]
                self._stream.seek(begin)
                for frame in decoder.decode(av.Packet(self._stream.read(end - begin))):
                    yield number, frame

    def find_end(self) -> int:
        """Return the number of samples."""
        return (self._num_frames - self._num_silent) * self.frame_samples

    def confirms(self, num_samples: int) -> bool:
        """Return True: the frames were counted."""
        return True

    def decode(self, start: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield blocks, each with its first sample's number, from a sample or somewhat before it on."""
        first = (start - self._num_before) // self.frame_samples + self._num_silent
        for number, frame in self._frames(max(0, first)):
            yield (number - self._num_silent) * self.frame_samples, self._samples(frame)

    def close(self) -> None:
        """Do nothing: there is nothing to close."""


class _Container(_Source):
    """A container's best audio stream, as FFmpeg chooses it, and at which samples its packets begin by their clocks."""

    def __init__(self, stream: BinaryIO, media: Media):
        # FFmpeg asks damaged files for places before their first byte, of which Python's files complain on stderr.
        self._stream, self._media = Spliced(b"", stream, media.begin, media.end), media
        self._container: Any = None
        self._open()
        self.codec = self._audio.codec_context.codec.canonical_name
        heads = list(islice(self._frames(None), _NUM_TIMED))
        self._describe(heads)
        self._num_first = heads[0].samples
        self._ticks = float((self._audio.time_base or 0) * self.sample_rate)  # samples in a tick of its clock
        self._grid, self._most_off = self._find_grid(), _MOST_OFF
        if not self._grid and self.codec.startswith("pcm_") and len({frame.samples for frame in heads}) == 1:
            # Packets seem to be of one length, which nothing promises: a clock must not be far from what follows.
            self._grid, self._most_off = self.frame_samples, _MOST_TICKS_OFF * self._ticks / self.frame_samples
        self._origin = self._elapsed(heads)

    def _open(self) -> None:
        import av
        from av.stream import Discard

        self.close()
        self._stream.seek(0)
        with _in_one_line():
            self._container = av.open(
                self._stream, format=self._media.demuxer, buffer_size=_BUFFER_BYTES, metadata_errors="replace"
            )
        if not self._container.streams.audio:
            raise ValueError("it holds no audio stream")
        self._audio = self._container.streams.best("audio") or self._container.streams.audio[0]
        if self._audio.codec_context is None:
            raise ValueError("FFmpeg does not know how its audio is coded")
        for other in self._container.streams:
            if other.index != self._audio.index:
                other.discard = Discard.all
        self._decoder, self._is_new = self._audio.codec_context, True

    def close(self) -> None:
        """Let FFmpeg go."""
        if self._container is not None:
            self._container.close()

    def _renew(self) -> None:
        """Have a decoder that has heard nothing. To open an MP4 anew takes long: its tables are read whole."""
        import av

        if not self._is_new and self._media.demuxer != "mov":
            self._open()
        elif not self._is_new and self.codec in _UNFORGETTING:
            old = self._audio.codec_context
            self._decoder = av.CodecContext.create(old.codec, "r")
            self._decoder.extradata = old.extradata
            self._decoder.sample_rate, self._decoder.layout = old.sample_rate, old.layout
        self._is_new = False

    def _frames(self, tick: int | None) -> Iterator[Any]:
        """Decode from the last packet that begins at a tick or before it, by a new decoder; None: from the start."""
        is_first = self._is_new
        with _in_one_line():
            self._renew()
            if tick is not None:
                self._container.seek(tick, stream=self._audio)
            elif not (is_first or self._media.demuxer != "mov"):
                self._container.seek(_LONG_BEFORE, stream=self._audio)
            for packet in _from_tick(self._container.demux(self._audio), tick):
                if packet.has_sidedata("encryption_info"):
                    raise ValueError("it is encrypted")
                yield from self._decoder.decode(packet if packet.size else None)

    def _find_grid(self) -> int:
        """Return of how many samples all frames but the first begin at multiples; 0 where it is not known."""
        private = self._audio.codec_context.extradata or b""
        if not self._ticks:
            return 0
        if (flags := _WMA_FLAGS.get(self.codec)) is not None and private[flags] & _BIT_RESERVOIR:
            return 0
        if self.codec in _EQUAL_FRAMES:
            return self.frame_samples
        if self.codec == "opus":
            return _OPUS_GRID
        if self.codec == "vorbis" and (place := private.find(b"\x01vorbis")) >= 0:
            return (1 << (private[place + 28] & 15)) // 4
        if self.codec == "flac" and private[:2] == private[2:4]:
            return self.frame_samples
        return 1 if self._ticks <= 1 else 0

    def _elapsed(self, frames: list[Any]) -> float:
        """Return how many samples by the clock are before frames that follow one another; NaN where they have none."""
        num_samples, found = 0, []
        for frame in frames:
            if frame.pts is not None:
                found.append(frame.pts * self._ticks - num_samples)
            num_samples += frame.samples
        found = found[1:] or found  # a decoder may cut what it decodes first
        return sum(found) / len(found) if found else math.nan

    def _placed(self, tick: int, start: int) -> Iterator[tuple[int, Any]] | None:
        """Decode from a tick on, and count samples; None where they begin behind a start, or nobody knows where."""
        frames = self._frames(tick)
        heads = list(islice(frames, _NUM_TIMED))
        elapsed = self._elapsed(heads) - self._origin
        if not math.isfinite(elapsed):
            return None
        first = heads[0].samples if len(heads) > 1 else 0
        steps = (elapsed + first - self._num_first) / self._grid
        if abs(steps - round(steps)) > self._most_off:
            return None
        place = round(steps) * self._grid + self._num_first - first
        return _counted(place, chain(heads, frames)) if place <= start else None

    def find_end(self) -> int | None:
        """Return the number of samples, by what the last are; None where clocks do not tell."""
        stream, whole = self._audio, self._container
        if not self._grid:
            return None
        if stream.duration:
            seconds = float(stream.duration * stream.time_base)
        elif whole.duration:
            seconds = whole.duration / 1e6
        else:
            return None
        start = self._origin / self._ticks
        for back in _TAIL_SECONDS:
            if seconds <= back:
                break
            placed = self._placed(int(start + (seconds - back) / float(stream.time_base)), _ANYWHERE)
            if placed is not None and (end := max((place + frame.samples for place, frame in placed), default=0)):
                return end
        return None

    def confirms(self, num_samples: int) -> bool:
        """Say whether there are as many packets, but for what is cut at both ends, as that many samples take."""
        num_packets = self._audio.frames  # which only MP4 states
        if not num_packets:
            self._open()
            self._is_new = False
            with _in_one_line():
                num_packets = sum(1 for packet in self._container.demux(self._audio) if packet.size)
        return 0 <= num_packets * self.frame_samples - num_samples < _MOST_CUT * self.frame_samples

    def decode(self, start: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield blocks, each with its first sample's number, from a sample or somewhat before it on."""
        placed = None
        for num_before in (self._num_before, round(_FAR_BACK_SECONDS * self.sample_rate)) if start else ():
            wanted = max(0, start - num_before)
            placed = placed or self._placed(int((self._origin + wanted) / self._ticks), start)
        for place, frame in placed or _counted(0, self._frames(None)):
            yield place, self._samples(frame)


def _from_tick(packets: Iterator[Any], tick: int | None) -> Iterator[Any]:
    """Leave out packets before the last that begins at a tick or before it."""
    held = None
    for packet in packets:
        if held is None or (tick is not None and packet.pts is not None and packet.pts <= tick):
            held = packet
            continue
        yield held
        yield packet
        yield from packets
        return
    if held is not None:
        yield held


def _counted(place: int, frames: Iterator[Any]) -> Iterator[tuple[int, Any]]:
    """Yield frames, each with the number of its first sample, of which the first has this."""
    for frame in frames:
        yield place, frame
        place += frame.samples
