"""`manifests/debian.py` on packages that `dpkg-deb` builds here; `apt-get` is a stand-in, so nothing is fetched."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from mae_ast_fairseq.corpus.debian import PackageError, fetch
from mae_ast_fairseq.data.manifest import read_manifest

SCRIPT = Path(__file__).resolve().parents[2] / "manifests" / "debian.py"
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
    build_package(store, "ktuberling-data", [f"{WORDS}/{lang}/{word}.wav" for lang in ("de", "fr") for word in "abcd"]
                  + [f"{WORDS}/de/only.wav"])  # fmt: skip
    stamps = ("animals/cat_desc_el.ogg", "animals/cat_desc.ogg", "food/bite.ogg")
    build_package(store, "tuxpaint-stamps-default", [f"{STAMPS}/{stamp}" for stamp in stamps])
    out = tmp_path / "out"
    done = run(out, "fillets-ng-data-cs", "ktuberling-data", "tuxpaint-stamps-default", "--valid", 0.4)
    assert done.returncode == 0, done.stderr
    return out


def rows_of(path: Path) -> list[str]:
    manifest = read_manifest(path)
    return [manifest.relative_path(row) for row in range(len(manifest))]


def test_all_packages_are_listed_together_and_each_by_itself(corpus):
    together = sorted(rows_of(corpus / "train.tsv") + rows_of(corpus / "valid.tsv"))
    assert len(together) == 12 + 9 + 3
    apart = []
    for folder in (corpus / "by_package").iterdir():
        for path in folder.glob("*.tsv"):
            own = rows_of(path)
            assert {row.split("/")[0] for row in own} == {folder.name}
            apart += own
    assert sorted(apart) == together
    manifest = read_manifest(corpus / "train.tsv")
    assert all(Path(manifest.path(row)).is_file() for row in range(len(manifest)))


@pytest.mark.parametrize(
    ("path", "labels"),
    [
        (f"fillets-ng-data-cs/{FISH}/keys/cs/k-m-1.ogg", {"language": "cs", "speaker": "cs small fish"}),
        (f"fillets-ng-data-nl/{FISH}/keys/nl/k-v-1.ogg", {"language": "nl", "speaker": "nl big fish"}),
        (f"fillets-ng-data-nl/{FISH}/keys/nl/k-x-1.ogg", {"language": "nl"}),
        (f"ktuberling-data/{WORDS}/fr/b.wav", {"language": "fr", "word": "b"}),
        (f"tuxpaint-stamps-default/{STAMPS}/animals/fish/cat_desc_el.ogg", {"language": "el", "kind": "animals"}),
        (f"tuxpaint-stamps-default/{STAMPS}/animals/cat_desc.ogg", {"language": "en", "kind": "animals"}),
        (f"tuxpaint-stamps-default/{STAMPS}/food/bite.ogg", {"kind": "food"}),
        ("hedgewars-data/usr/share/games/hedgewars/Data/Sounds/voices/Mobster/A.ogg", {"speaker": "hedgewars Mobster"}),
        ("any/usr/share/a.ogg", {}),
    ],
)
def test_labels_are_what_names_tell(path: str, labels: dict[str, str]):
    labels_of = runpy.run_path(str(SCRIPT))["labels_of"]
    assert labels_of(path) == labels | {"source": path.split("/")[0]}


def test_label_files_go_with_their_manifests_and_valid_has_no_label_that_train_lacks(corpus):
    folders = {folder.name: folder for folder in (corpus / "labels").iterdir()}
    assert folders.keys() == {"kind", "language", "source", "speaker", "word"}
    for folder in folders.values():
        found = {}
        for path in folder.glob("*.tsv"):
            found[path.stem] = dict(zip(rows_of(path), path.with_suffix(".lbl").read_text().splitlines(), strict=True))
        assert set(found.get("valid", {}).values()) <= set(found["train"].values())
        if folder.name == "word":
            words = {**found["train"], **found.get("valid", {})}
            assert all(path.endswith(f"/{word}.wav") for path, word in words.items())
            assert set(words.values()) < set("abcd")  # `only` is of one language, others are only in valid


def test_packages_are_noted_with_version_licences_and_figures(corpus):
    noted = {entry["name"]: entry for entry in json.loads((corpus / "packages.json").read_text())}
    words = noted["ktuberling-data"]
    assert words["version"] == "1.2-3"
    assert words["licences"] == "CC0, GPL-2+"
    assert (corpus / "packages" / words["copyright"]).read_text() == COPYRIGHT
    assert words["train"] + words["valid"] == 9
    assert words["hours"] == pytest.approx((4 * 8_000 / 16_000 + 5 * 8_000 / 22_050) / 3600)


def test_what_is_there_is_not_fetched_again_and_a_stopped_one_is(corpus, store):
    before = len(asked(store))
    (corpus / "packages" / "ktuberling-data" / ".package.json").unlink()  # as where unpacking was stopped
    (corpus / "packages" / "ktuberling-data.partial").mkdir()
    assert run(corpus, "ktuberling-data", "fillets-ng-data-cs").returncode == 0
    assert asked(store)[before:] == ["download ktuberling-data"]
    assert not (corpus / "packages" / "ktuberling-data.partial").exists()


def test_another_choice_of_packages_leaves_nothing_of_the_first(corpus):
    assert run(corpus, "ktuberling-data").returncode == 0
    assert [folder.name for folder in (corpus / "by_package").iterdir()] == ["ktuberling-data"]
    assert {folder.name for folder in (corpus / "labels").iterdir()} == {"language", "source", "word"}
    assert {row.split("/")[0] for row in rows_of(corpus / "train.tsv")} == {"ktuberling-data"}
    assert run(corpus, "ktuberling-data", "--valid", 0).returncode == 0
    assert not (corpus / "valid.tsv").exists()


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


def test_a_wrong_fraction_is_refused_before_anything_is_fetched(store, tmp_path):
    done = run(tmp_path / "out", "a-package", "--valid", 2)
    assert done.returncode == 2
    assert "--valid: 2 is outside [0, 1)" in done.stderr
    assert not (store / "asked").exists()


def test_packages_without_audio_are_one_line(store, tmp_path):
    build_package(store, "a-package", [])
    done = run(tmp_path / "out", "a-package")
    assert done.returncode == 2
    assert "none of 0 files can be used" in done.stderr
