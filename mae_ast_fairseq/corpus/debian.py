"""Audio that Debian packages hold: fetched by apt-get, unpacked by dpkg-deb, never installed."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from mae_ast_fairseq.errors import ConfigError, UserError
from mae_ast_fairseq.files import atomic_write

NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")
"""What Debian allows as a package's name."""

_LICENCE = re.compile(r"^License:[ \t]*(\S.*)$", re.MULTILINE)
_DONE = ".package.json"  # in a package's folder, written when it is whole


class PackageError(UserError):
    """A package that cannot be fetched or unpacked."""


class Package(NamedTuple):
    """A package that was unpacked."""

    name: str
    version: str
    licences: list[str]
    """short names in its copyright file, which covers more than its audio; none where the file names none"""
    copyright: str
    """that file, below the folder of all packages; empty where there is none"""


def require_tools() -> None:
    """Raise ConfigError where Debian's tools are not there."""
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise ConfigError(
                f"{tool}: there is no such command; expected Debian or Ubuntu (or a container of it), whose packages "
                "hold the audio"
            )


def fetch(name: str, folder: Path) -> Package:
    """Download a package and unpack it into `folder/name`; one that is there already is left as it is.

    Raises PackageError for a name that apt-get does not know, and for a download that is broken.
    """
    if not NAME.fullmatch(name):
        raise PackageError(f"{name!r}: no name of a Debian package; expected one such as ktuberling-data")
    target, partial = folder / name, folder / f"{name}.partial"
    if not (target / _DONE).is_file():
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(target, ignore_errors=True)
        partial.mkdir(parents=True)
        archive = _download(name, partial)
        version = _run(name, "dpkg-deb", "-f", archive.name, "Version", cwd=partial).strip()
        _run(name, "dpkg-deb", "-x", archive.name, "files", cwd=partial)
        archive.unlink()
        files = partial / "files"
        package = Package(name, version, *_licences(name, files))
        with atomic_write(files / _DONE) as stream:
            stream.write(json.dumps(package._asdict()).encode())
        files.replace(target)
        partial.rmdir()
    return Package(**json.loads((target / _DONE).read_text(encoding="utf-8")))


def _download(name: str, folder: Path) -> Path:
    _run(name, "apt-get", "download", name, cwd=folder)
    archives = list(folder.glob("*.deb"))
    if len(archives) != 1:
        raise PackageError(f"{name}: apt-get left {len(archives)} files; expected one; run the same command again")
    return archives[0]


def _run(name: str, *command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode == 0:
        return done.stdout
    lines = [line for line in done.stderr.splitlines() if line and not line.startswith("W:")]
    reason = lines[-1].removeprefix("E: ") if lines else f"exit code {done.returncode}"
    if command[0] == "apt-get":
        remedy = "see whether the network is there, run `apt-get update`, or leave the package out: others can be named"
    else:
        remedy = "the download is broken: run the same command again"
    raise PackageError(f"{name}: `{command[0]}` says: {reason}; {remedy}")


def _licences(name: str, files: Path) -> tuple[list[str], str]:
    path = files / "usr" / "share" / "doc" / name / "copyright"
    if not path.is_file() or path.is_symlink():
        return [], ""
    text = path.read_text(encoding="utf-8", errors="replace")
    return sorted({found.strip() for found in _LICENCE.findall(text)}), f"{name}/usr/share/doc/{name}/copyright"
