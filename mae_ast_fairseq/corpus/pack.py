"""Writing uncompressed zip archives of audio files, whose clips are read in place (`data/archive.py`)."""

import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from mae_ast_fairseq.data.archive import Member
from mae_ast_fairseq.errors import AudioError, ConfigError
from mae_ast_fairseq.files import atomic_write, open_regular


def pack(archive: str | Path, root: str | Path, relative_paths: Sequence[str]) -> list[Member]:
    """Copy files below a folder into an uncompressed archive, with progress; it appears whole or not at all.

    Raises AudioError for a file that can no longer be read, and ConfigError where the archive cannot be written.
    """
    archive, root = Path(archive), Path(root)
    packed = []
    try:
        with atomic_write(archive) as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as file:
            for relative_path in tqdm(relative_paths, unit=" files", desc="packing", disable=None):
                packed.append(_copy(file, stream, root / relative_path, relative_path))
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(
            f"{archive}: cannot be written ({reason}); expected a folder to write in with room for all the files; "
            "make room or choose another"
        ) from None
    return packed


def _copy(file: zipfile.ZipFile, stream: BinaryIO, path: Path, name: str) -> Member:
    try:
        source = open_regular(path)
        info = zipfile.ZipInfo.from_file(path, name, strict_timestamps=False)
    except OSError as error:
        raise AudioError(
            f"{path}: cannot be packed ({error.strerror or error}); expected the file that was just probed; run again"
        ) from None
    with source, file.open(info, "w") as member:
        offset = stream.tell()  # the local header is written: what follows are the file's own bytes
        shutil.copyfileobj(source, member, 1 << 20)
    return Member(name, offset, info.file_size)
