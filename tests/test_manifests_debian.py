"""`manifests/debian.py` on packages that `dpkg-deb` builds here; `apt-get` is a stand-in, so nothing is fetched."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from mae_ast_fairseq.data.debian import PackageError, fetch
from mae_ast_fairseq.data.manifest import read_manifest

SCRIPT = Path(__file__).resolve().parents[1] / "manifests" / "debian.py"
COPYRIGHT = "Files: *\nLicense: CC0\n\nFiles: debian/*\nLicense: GPL-2+\n"
APT_GET = """#!/bin/sh
echo "$@" >> "{store}/asked"
[ "$1" = download ] || exit 9
if [ -f "{store}/$2.deb" ]; then cp "{store}/$2.deb" "$2_1.2-3_all.deb"; exit 0; fi
echo "W: a warning" >&2
echo "E: Unable to locate package $2" >&2
exit 100
"""

pytestmark = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="there is no dpkg-deb")


@pytest.fixture
def store(tmp_path, monkeypatch) -> Path:
    """A folder of packages, from which a stand-in for apt-get downloads."""
    folder = tmp_path / "store"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "apt-get").write_text(APT_GET.format(store=folder))
    (folder / "bin" / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return folder


def build_package(store: Path, name: str, paths: list[str]) -> None:
    tree = store / f"{name}.tree"
    for number, path in enumerate(paths):
        file = tree / path
        file.parent.mkdir(parents=True, exist_ok=True)
        waveform = 0.3 * np.sin(np.arange(8_000) * (0.1 + 0.01 * number))
        sf.write(file, waveform, 16_000 if number % 2 else 22_050)
    documents = tree / "usr/share/doc" / name
    documents.mkdir(parents=True)
    (documents / "copyright").write_text(COPYRIGHT)
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN" / "control").write_text(
        f"Package: {name}\nVersion: 1.2-3\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: sounds\n"
    )
    subprocess.run(["dpkg-deb", "-b", str(tree), str(store / f"{name}.deb")], check=True, capture_output=True)


def run(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments), "--workers", "1"], capture_output=True, text=True
    )


def asked(store: Path) -> list[str]:
    return (store / "asked").read_text().splitlines()


FISH = "usr/share/games/fillets-ng/sound"
WORDS = "usr/share/ktuberling/sounds"
STAMPS = "usr/share/tuxpaint/stamps"


@pytest.fixture
def corpus(store, tmp_path) -> Path:
    build_package(store, "fillets-ng-data-cs", [f"{FISH}/keys/cs/k-{who}-{n}.ogg" for who in "mvx" for n in range(4)])
    build_package(store, "ktuberling-data", [f"{WORDS}/{lang}/{word}.wav" for lang in ("de", "fr") for word in "abcd"])
    build_package(store, "tuxpaint-stamps-default", [f"{STAMPS}/animals/cat_desc_el.ogg", f"{STAMPS}/food/bite.ogg"])
    out = tmp_path / "out"
    done = run(out, "fillets-ng-data-cs", "ktuberling-data", "tuxpaint-stamps-default", "--valid", 0.4)
    assert done.returncode == 0, done.stderr
    return out


def rows_of(path: Path) -> list[str]:
    manifest = read_manifest(path)
    return [manifest.relative_path(row) for row in range(len(manifest))]


def test_all_packages_are_listed_together_and_each_by_itself(corpus):
    together = sorted(rows_of(corpus / "train.tsv") + rows_of(corpus / "valid.tsv"))
    assert len(together) == 12 + 8 + 2
    apart = []
    for folder in (corpus / "by_package").iterdir():
        for path in folder.glob("*.tsv"):
            own = rows_of(path)
            assert {row.split("/")[0] for row in own} == {folder.name}
            apart += own
    assert sorted(apart) == together
    manifest = read_manifest(corpus / "train.tsv")
    assert all(Path(manifest.path(row)).is_file() for row in range(len(manifest)))


def test_labels_are_what_the_names_tell(corpus):
    def labels(kind: str) -> dict[str, str]:
        found = {}
        for split in ("train", "valid"):
            rows = rows_of(corpus / "labels" / kind / f"{split}.tsv")
            found |= dict(zip(rows, (corpus / "labels" / kind / f"{split}.lbl").read_text().splitlines(), strict=True))
        return found

    assert sorted(path.name for path in (corpus / "labels").iterdir()) == [
        "kind",
        "language",
        "source",
        "speaker",
        "word",
    ]
    speakers = labels("speaker")
    assert {path.rsplit("/", 1)[1][:3]: name for path, name in speakers.items()} == {
        "k-m": "cs small fish",
        "k-v": "cs big fish",
    }
    assert labels("word")[f"ktuberling-data/{WORDS}/fr/b.wav"] == "b"
    languages = labels("language")
    assert languages[f"ktuberling-data/{WORDS}/fr/b.wav"] == "fr"
    assert languages[f"tuxpaint-stamps-default/{STAMPS}/animals/cat_desc_el.ogg"] == "el"
    assert f"tuxpaint-stamps-default/{STAMPS}/food/bite.ogg" not in languages
    assert labels("source")[f"tuxpaint-stamps-default/{STAMPS}/food/bite.ogg"] == "tuxpaint-stamps-default"


def test_packages_are_noted_with_version_licences_and_figures(corpus):
    noted = {entry["name"]: entry for entry in json.loads((corpus / "packages.json").read_text())}
    words = noted["ktuberling-data"]
    assert words["version"] == "1.2-3"
    assert words["licences"] == "CC0, GPL-2+"
    assert (corpus / "packages" / words["copyright"]).read_text() == COPYRIGHT
    assert words["train"] + words["valid"] == 8
    assert words["hours"] == pytest.approx(4 * (8_000 / 16_000 + 8_000 / 22_050) / 3600)


def test_what_is_there_is_not_fetched_again_and_a_stopped_one_is(corpus, store):
    before = len(asked(store))
    (corpus / "packages" / "ktuberling-data" / ".package.json").unlink()  # as where unpacking was stopped
    (corpus / "packages" / "ktuberling-data.partial").mkdir()
    assert run(corpus, "ktuberling-data", "fillets-ng-data-cs").returncode == 0
    assert asked(store)[before:] == ["download ktuberling-data"]
    assert not (corpus / "packages" / "ktuberling-data.partial").exists()


def test_a_package_that_is_gone_is_one_line_and_the_others_are_written(store, tmp_path):
    build_package(store, "ktuberling-data", [f"{WORDS}/de/{word}.wav" for word in "abcd"])
    done = run(tmp_path / "out", "gone", "ktuberling-data")
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("debian.py: ")]
    assert len(lines) == 1
    assert "gone: `apt-get` says: Unable to locate package gone; " in lines[0]
    assert len(rows_of(tmp_path / "out" / "train.tsv")) >= 1


def test_a_broken_download_is_one_line_and_leaves_nothing_that_counts_as_whole(store, tmp_path):
    build_package(store, "a-package", [f"{WORDS}/de/a.wav"])
    whole = (store / "a-package.deb").read_bytes()
    (store / "a-package.deb").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PackageError, match=r"^a-package: `dpkg-deb` says: .*; the download is broken: run "):
        fetch("a-package", tmp_path / "packages")
    (store / "a-package.deb").write_bytes(whole)
    assert fetch("a-package", tmp_path / "packages").version == "1.2-3"


@pytest.mark.parametrize("name", ["../up", "--option", "A", "a b", ""])
def test_what_is_no_packages_name_never_reaches_apt_get(store, tmp_path, name):
    with pytest.raises(PackageError, match="no name of a Debian package"):
        fetch(name, tmp_path / "packages")
    assert not (store / "asked").exists()


def test_without_apt_get_it_is_one_line_and_exit_code_2(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    done = run(tmp_path / "out")
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if "apt-get: there is no such command" in line]
    assert "Traceback" not in done.stderr


def test_packages_without_audio_are_one_line(store, tmp_path):
    build_package(store, "a-package", [])
    done = run(tmp_path / "out", "a-package")
    assert done.returncode == 2
    assert "none of 0 files can be used" in done.stderr
