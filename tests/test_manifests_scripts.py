"""The scripts of `manifests/` follow their corpora's own splits."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from mae_ast_fairseq.data.manifest import read_manifest

SCRIPTS = Path(__file__).resolve().parents[1] / "manifests"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a script on a folder and return {split: {relative path: labels}}."""

    def run_script(name, folder, *options, code=0):
        out = tmp_path / "out"
        monkeypatch.setattr(sys, "argv", [name, str(folder), "--out", str(out), "--workers", "1", *options])
        with pytest.raises(SystemExit) as exited:
            runpy.run_path(str(SCRIPTS / name), run_name="__main__")
        assert exited.value.code == code
        return {path.stem: _rows(path) for path in out.glob("*.tsv") if path.stem != "rejected"}

    return run_script


def _rows(path):
    manifest = read_manifest(path)
    labels = path.with_suffix(".lbl")
    labels = labels.read_text().splitlines() if labels.exists() else [None] * len(manifest)
    return {manifest.relative_path(row): label for row, label in zip(range(len(manifest)), labels, strict=True)}


def _corpus(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        sf.write(folder / name, np.zeros(1600), 16000)
    return folder


def test_fsdd_tests_on_takes_0_to_4(run, recordings, tmp_path):
    splits = run("fsdd.py", recordings / "fsdd", "--valid", "0.1")
    assert len(splits["test"]) == 300
    assert {name.rsplit("_")[-1] for name in splits["test"]} == {f"{take}.wav" for take in range(5)}
    assert all(label == name[0] for part in splits.values() for name, label in part.items())
    assert len(splits["train"]) + len(splits["valid"]) == 2700
    assert 200 < len(splits["valid"]) < 340
    assert (tmp_path / "out" / "labels.txt").read_text().split() == list("0123456789")


def test_librispeech_splits_by_subset(run, tmp_path):
    folder = _corpus(
        tmp_path / "LibriSpeech",
        "train-clean-100/19/198/19-198-0000.flac",
        "train-other-500/20/205/20-205-0000.flac",
        "dev-clean/84/121123/84-121123-0000.flac",
        "test-other/61/70968/61-70968-0000.flac",
        "music/a.flac",
    )
    splits = run("librispeech.py", folder)
    assert {split: [name.split("/")[0] for name in part] for split, part in splits.items()} == {
        "train": ["train-clean-100", "train-other-500"],
        "valid": ["dev-clean"],
        "test": ["test-other"],
    }
    assert not (tmp_path / "out" / "labels.txt").exists()


def _esc50(tmp_path):
    folder = _corpus(tmp_path / "ESC-50", "audio/1-1-A-1.wav", "audio/2-2-A-0.wav", "audio/5-3-A-1.wav", "other.wav")
    (folder / "meta").mkdir()
    (folder / "meta" / "esc50.csv").write_text(
        "filename,fold,target,category,esc10,src_file,take\n1-1-A-1.wav,1,1,airplane,True,1,A\n"
        "2-2-A-0.wav,2,0,dog,True,2,A\n5-3-A-1.wav,5,1,airplane,True,3,A\n"
    )
    return folder


def test_esc50_holds_out_a_fold_and_keeps_the_order_of_targets(run, tmp_path):
    splits = run("esc50.py", _esc50(tmp_path), "--fold", "2")
    assert splits == {
        "train": {"audio/1-1-A-1.wav": "airplane", "audio/5-3-A-1.wav": "airplane"},
        "valid": {"audio/2-2-A-0.wav": "dog"},
    }
    assert (tmp_path / "out" / "labels.txt").read_text() == "dog\nairplane\n"


def test_a_corpus_without_its_list_is_an_error(run, tmp_path, capsys):
    folder = _corpus(tmp_path / "ESC-50", "audio/1-1-A-1.wav")
    assert run("esc50.py", folder, code=2) == {}
    assert "esc50.csv" in capsys.readouterr().err


def test_speech_commands_follow_its_lists(run, tmp_path):
    folder = _corpus(tmp_path / "sc", "yes/a.wav", "yes/b.wav", "no/c.wav", "_background_noise_/d.wav")
    (folder / "validation_list.txt").write_text("yes/b.wav\n")
    (folder / "testing_list.txt").write_text("no/c.wav\n")
    assert run("speech_commands.py", folder) == {
        "train": {"yes/a.wav": "yes"},
        "valid": {"yes/b.wav": "yes"},
        "test": {"no/c.wav": "no"},
    }


def test_audioset_finds_files_by_id_in_its_lists(run, tmp_path):
    folder = _corpus(tmp_path / "as", "--PJHxphWEs.wav", "x/Y-0RWZT-miFs.wav", "zF8yoL0rkbI_30.000_40.000.wav", "a.wav")
    head = "# Segments csv created Sun Mar  5 10:54:31 2017\n# YTID, start_seconds, end_seconds, positive_labels\n"
    (folder / "balanced_train_segments.csv").write_text(
        f'{head}--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"\n-0RWZT-miFs, 0.000, 10.000, "/m/012xff"\n'
    )
    (folder / "eval_segments.csv").write_text(f'{head}zF8yoL0rkbI, 30.000, 40.000, "/m/09x0r"\n')
    assert run("audioset.py", folder) == {
        "train": {"--PJHxphWEs.wav": "/m/09x0r,/t/dd00088", "x/Y-0RWZT-miFs.wav": "/m/012xff"},
        "test": {"zF8yoL0rkbI_30.000_40.000.wav": "/m/09x0r"},
    }
    assert (tmp_path / "out" / "labels.txt").read_text().split() == ["/m/012xff", "/m/09x0r", "/t/dd00088"]


@pytest.mark.parametrize("script", sorted(path.name for path in SCRIPTS.glob("*.py")))
def test_a_wrong_fraction_is_refused(run, tmp_path, capsys, script):
    run(script, tmp_path, "--valid", "2", code=2)
    assert "--valid 2.0: outside [0, 1)" in capsys.readouterr().err
