"""Mutated zip archives of audio: what is listed of them, and what is read of the files listed."""

import io
import zipfile
from pathlib import Path

import numpy as np
import soundfile as sf

from mae_ast_fairseq.corpus.scan import EXTENSIONS, find_source, scan, write_rejected
from mae_ast_fairseq.data.archive import members
from mae_ast_fairseq.errors import AudioError
from tests.fuzz.harness import Subject, require
from tests.fuzz.mutations import EXTREMES, mutate
from tests.fuzz.texts import ODD_TEXTS, draw

_NUM_READ = 4
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA)
_HEADS = (b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6", b"PK\6\7")


def _prepare(folder: Path) -> bytes:
    path = folder / "audio.wav"
    sf.write(path, 0.3 * np.sin(np.arange(2_000) / 9), 16_000)
    return path.read_bytes()


def _make(audio: bytes, rng: np.random.Generator) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for number in range(rng.integers(1, 5)):
            name = draw(ODD_TEXTS, rng) if rng.random() < 0.4 else f"folder/{number}"
            info = zipfile.ZipInfo(f"{name[:300].replace(chr(0xD800), '?')}.wav")
            info.compress_type, info.extra = draw(_METHODS, rng), rng.bytes(int(rng.integers(0, 9)))
            with file.open(info, "w", force_zip64=rng.random() < 0.2) as member:
                member.write(audio)
        file.comment = rng.bytes(int(rng.integers(0, 9)))
    data = stream.getvalue()
    return _mutate_head(data, rng) if rng.random() < 0.7 else mutate(data, rng)


def _mutate_head(data: bytes, rng: np.random.Generator) -> bytes:
    """Change some fields of the archive's own heads, which are a small part of its bytes."""
    for _ in range(rng.integers(1, 4)):
        heads = [at for head in _HEADS for at in _places(data, head)]
        at = draw(heads, rng) + int(rng.integers(4, 56)) if heads else 0
        size = int(draw((1, 2, 4, 8), rng))
        value = rng.bytes(size)
        if rng.random() < 0.5:
            value = (draw(EXTREMES, rng) % (1 << 8 * size)).to_bytes(size, "little")
        data = data[:at] + value + data[at + size :]
    return data


def _places(data: bytes, head: bytes) -> list[int]:
    found, at = [], data.find(head)
    while at >= 0:
        found.append(at)
        at = data.find(head, at + 1)
    return found


def _attempt(data: bytes, folder: Path) -> None:
    path = folder / "a.zip"
    path.write_bytes(data)
    found = members(path, EXTENSIONS)
    require(len(found) <= len(data) // 46, f"{len(found)} files in {len(data)} bytes")
    for member in found:
        require(member.fault.isprintable() and len(member.fault) < 200, f"the fault {member.fault[:500]!r}")
        require(member.offset >= 0 and member.length >= 0, f"a place {member.offset}:{member.length}")
    source = find_source(path)
    names = list(source.names)[:_NUM_READ]
    accepted, rejected = scan(source.root, paths=names)
    require(len(accepted) + len(rejected) == len(names), "files that are neither accepted nor rejected")
    write_rejected(folder / "rejected.tsv", [*source.rejected, *rejected])
    lines = (folder / "rejected.tsv").read_text(encoding="utf-8").splitlines()
    require(len(lines) == len(source.rejected) + len(rejected), f"forged rows: {lines}")
    require(all(line.replace("\t", "").isprintable() for line in lines), f"control characters: {lines}")
    if not accepted:
        raise AudioError("nothing in it can be read")


SUBJECT = Subject(5_000, _prepare, _make, _attempt)
