"""What the tests of the scripts share."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from mae_ast_fairseq.data.manifest import read_manifest

SCRIPTS = Path(__file__).resolve().parents[2] / "manifests"
SPLITS = ("train", "valid", "test")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a script on a folder and return {split: {relative path: labels}}."""

    def run_script(name, folder, *options, code=0):
        out = tmp_path / "out"
        monkeypatch.setattr(sys, "argv", [str(name), str(folder), "--out", str(out), "--workers", "1", *options])
        with pytest.raises(SystemExit) as exited:
            runpy.run_path(str(SCRIPTS / name), run_name="__main__")
        assert exited.value.code == code
        return {path.stem: _rows(path) for path in out.glob("*.tsv") if path.stem in SPLITS}

    return run_script


def _rows(path):
    manifest = read_manifest(path)
    labels = path.with_suffix(".lbl")
    labels = labels.read_text().splitlines() if labels.exists() else [None] * len(manifest)
    return {manifest.relative_path(row): label for row, label in zip(range(len(manifest)), labels, strict=True)}


def write_silence(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        sf.write(folder / name, np.zeros(1600), 16000)
    return folder


@pytest.fixture
def warning(capsys):
    """Return what the script that ran last warned of, empty where of nothing."""

    def read():
        err = capsys.readouterr().err.rsplit("\r", 1)[-1].strip()
        assert err.count("\n") == 0
        return err.partition(": warning: ")[2]

    return read


@pytest.fixture
def refusal(run, capsys):
    """A function that runs a script and returns the line with which it refuses."""

    def refuse(name, folder, *options):
        assert run(name, folder, *options, code=2) == {}
        err = capsys.readouterr().err.rsplit("\r", 1)[-1]
        assert err.count("\n") == 1
        return err.removeprefix(f"{name}: ")

    return refuse
