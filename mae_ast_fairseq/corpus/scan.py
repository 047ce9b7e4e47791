"""Finding the audio files below a folder or in an archive, and probing what each holds."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path, PurePath
from typing import NamedTuple

import soundfile as sf
from tqdm import tqdm

from mae_ast_fairseq.corpus.processes import map_in_processes
from mae_ast_fairseq.data import archive
from mae_ast_fairseq.data.audio import (
    DECODING_ERRORS,
    MAX_RATE,
    MAX_SAMPLES,
    MIN_RATE,
    AudioFile,
    decoding_fault,
    open_bytes,
    open_measured,
)
from mae_ast_fairseq.data.ffmpeg import MediaFile
from mae_ast_fairseq.data.lengths import Fault, measure
from mae_ast_fairseq.data.manifest import ManifestRow, unwritable
from mae_ast_fairseq.errors import AudioError, ConfigError, printable
from mae_ast_fairseq.files import atomic_write

EXTENSIONS = (
    *(".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".caf"),
    *(".mkv", ".mka", ".webm", ".weba", ".mp4", ".m4a", ".m4b", ".mov", ".3gp", ".wma", ".amr", ".gsm", ".aac"),
    *(".ac3", ".wv", ".ape", ".tta"),
)

# 55 ms: the shortest file of which 25 ms frames every 10 ms make 2 tokens of 2 frames.
MIN_SECONDS = 0.055

_FILES_PER_TASK = 256  # a file takes a fraction of a millisecond, a task's way to a worker and back as long


class AudioInfo(NamedTuple):
    """What an audio file holds: samples per channel at its own rate in Hz."""

    num_samples: int
    sample_rate: int


class Rejected(NamedTuple):
    """A file that cannot be trained on; the reason is `kind: what was found`, or the kind alone."""

    relative_path: str
    reason: str


class Source(NamedTuple):
    """Audio files that were found in a folder, or in an archive, to be read from there."""

    root: Path
    """what a manifest has as its root"""
    names: dict[str, str]
    """what a manifest calls a file, and its path in the folder or archive"""
    rejected: list[Rejected]
    """what an archive holds in a form that cannot be read in place"""
    passed_over: dict[str, int]
    """how many other files there are, by the ends of their names, as in ".txt"; the most frequent first"""


def find_audio(root: str | Path) -> list[str]:
    """Return the audio files below a folder: sorted POSIX paths relative to it.

    Hidden files and folders are skipped. Links to folders are followed, but no folder is entered twice, and
    its own name goes before a link's. Raises ConfigError where no such folder is or it may not be read.
    """
    return [path for path in _find_files(root) if _is_audio(path)]


def _find_files(root: str | Path) -> list[str]:
    top = Path(root)
    if not top.is_dir():
        found = "a file" if top.exists() else "nothing"
        raise ConfigError(f"{root}: {found} is there; expected a folder of audio files; correct the path")
    pending, entered, paths = [str(top)], set(), []
    while pending:
        for folder, folders, files in os.walk(pending.pop(0), onerror=_refuse_folder):
            status = Path(folder).stat()
            if (status.st_dev, status.st_ino) in entered:
                folders.clear()
                continue
            entered.add((status.st_dev, status.st_ino))
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            pending += [link for name in folders if os.path.islink(link := f"{folder}/{name}")]  # noqa: PTH114
            relative = os.path.relpath(folder, top).replace(os.sep, "/")
            prefix = "" if relative == "." else f"{relative}/"
            paths += [prefix + name for name in files if not name.startswith(".")]
    return sorted(paths)


def find_source(path: str | Path) -> Source:
    """Find the audio files below a folder, or in the zip archive that is given in its place.

    Raises ConfigError where neither is, or it may not be read.
    """
    given, path = Path(path), Path(path).resolve()
    if given.suffix.lower() == ".zip":
        path = given.parent.resolve() / given.name  # a link goes by its own name: its target may be called anything
    if path.suffix.lower() != ".zip" or not path.is_file():
        files = _find_files(path)
        return Source(path, {name: name for name in files if _is_audio(name)}, [], _passed_over(files))
    members = archive.members(path)
    audio = [member for member in members if _is_audio(member.name)]
    rejected = [Rejected(member.name, member.fault) for member in audio if member.fault]
    names = {member.path_in(path.name): member.name for member in audio if not member.fault}
    return Source(path.parent, names, rejected, _passed_over([member.name for member in members]))


def _is_audio(path: str) -> bool:
    return path.lower().endswith(EXTENSIONS)


def _passed_over(paths: Iterable[str]) -> dict[str, int]:
    """Count the files that are no audio by the ends of their names; that of a name without any is empty."""
    return dict(Counter(PurePath(path).suffix.lower() for path in paths if not _is_audio(path)).most_common())


def _refuse_folder(error: OSError) -> None:
    reason = error.strerror or error
    raise ConfigError(
        f"{error.filename}: cannot be listed ({reason}); expected leave to read it; change its permissions"
    ) from None


def probe(path: str | Path) -> AudioInfo:
    """Return what an audio file holds, as `examine` finds it; raises AudioError where it finds a fault."""
    held = examine(path)
    if isinstance(held, Fault):
        raise AudioError(f"{path}: {held}")
    return held


def examine(path: str | Path) -> AudioInfo | Fault:
    """Find how many samples of an audio file can be decoded, and compare with what its header and bytes say.

    Takes `archive.zip:offset:length` too. Returns a fault for what is unreadable, empty, or holds less or more than its
    header says.
    """
    try:
        with open_bytes(path) as stream:
            if not stream.read(1):
                return Fault("empty")
            extent = measure(stream)
            if extent.fault is not None:
                return extent.fault
            return _examine_samples(open_measured(path, stream, extent), extent.is_counted)
    except AudioError as error:
        return Fault("unreadable", str(error).removeprefix(f"{path}: "))
    except DECODING_ERRORS as error:
        return Fault("unreadable", decoding_fault(path, error))


def _examine_samples(opened: AudioFile | MediaFile, is_counted: bool) -> AudioInfo | Fault:
    with opened as file:
        info = AudioInfo(file.count() if isinstance(file, MediaFile) else file.frames, file.samplerate)
        if not MIN_RATE <= info.sample_rate <= MAX_RATE:
            return Fault("rate", f"its header states {info.sample_rate} Hz; expected {MIN_RATE:,} to {MAX_RATE:,}")
        if info.num_samples > MAX_SAMPLES:
            return Fault("no length", "the header does not state one; convert it from file to file")
        if info.num_samples == 0:
            return Fault("empty")
        if isinstance(file, MediaFile):
            return info
        is_by_bytes = file.is_sequential and file.seekable()  # its header was compared with its bytes
        if not (is_counted or is_by_bytes) and not _has_last_sample(file):
            return Fault("truncated", f"fewer than the {info.num_samples} samples its header says")
        return info


def _has_last_sample(file: AudioFile) -> bool:
    """FLAC headers state the length of the whole, whatever is left of it: only decoding tells."""
    try:
        if not file.seekable():
            return file.skip(file.frames)
        file.seek(file.frames - 1)
        return len(file.read(1)) == 1
    except sf.SoundFileError:
        return False


def scan(
    root: str | Path,
    *,
    min_seconds: float = MIN_SECONDS,
    num_workers: int = 1,
    paths: Sequence[str] | None = None,
) -> tuple[list[ManifestRow], list[Rejected]]:
    """Probe every audio file below a folder, in `num_workers` processes, with a progress bar on stderr.

    `paths`, relative to the folder, spare looking for them. Returns what a manifest can list and what it
    cannot, in order. Raises ConfigError as find_audio does.
    """
    paths = find_audio(root) if paths is None else paths
    judge = partial(_judge, Path(root), min_seconds)
    results = map_in_processes(judge, paths, num_workers=num_workers, items_per_task=_FILES_PER_TASK)
    accepted: list[ManifestRow] = []
    rejected: list[Rejected] = []
    with closing(results):
        for result in tqdm(results, total=len(paths), unit=" files", desc="probing", disable=None):
            if isinstance(result, ManifestRow):
                accepted.append(result)
            else:
                rejected.append(result)
    return accepted, rejected


def _judge(root: Path, min_seconds: float, relative_path: str) -> ManifestRow | Rejected:
    if reason := unwritable(relative_path):
        return Rejected(relative_path, f"name: {reason}")
    held = examine(root / relative_path)
    if isinstance(held, Fault):
        return Rejected(relative_path, str(held))
    if held.num_samples < min_seconds * held.sample_rate:
        seconds = held.num_samples / held.sample_rate
        return Rejected(relative_path, f"too short: {seconds:.3f} s, expected at least {min_seconds} s")
    return ManifestRow(relative_path, *held)


def write_rejected(path: str | Path, rejected: Iterable[Rejected]) -> None:
    """Write `path<TAB>reason` lines; names with a tab, a line end or bytes that are not UTF-8 are escaped."""
    with atomic_write(Path(path)) as stream:
        for relative_path, reason in rejected:
            name = ascii(relative_path) if unwritable(relative_path) else printable(relative_path)
            stream.write(f"{name}\t{printable(' '.join(reason.split()))}\n".encode())


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a text file, one line each, whole or not at all."""
    with atomic_write(path) as stream:
        stream.write("".join(f"{line}\n" for line in lines).encode())
