"""The scripts of `manifests/` follow their corpora's own splits."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from mae_ast_fairseq.data.labels import find_vocabulary, read_labels
from mae_ast_fairseq.data.manifest import read_manifest

SCRIPTS = Path(__file__).resolve().parents[1] / "manifests"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a script on a folder and return {split: {relative path: labels}}."""

    def run_script(name, folder, *options, code=0):
        out = tmp_path / "out"
        monkeypatch.setattr(sys, "argv", [str(name), str(folder), "--out", str(out), "--workers", "1", *options])
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


def test_fsdd_tests_on_one_speaker(run, recordings):
    splits = run("fsdd.py", recordings / "fsdd", "--test-speaker", "jackson")
    speakers = {split: {name.split("_")[1] for name in part} for split, part in splits.items()}
    assert speakers["test"] == {"jackson"}
    assert len(speakers["train"]) == 5
    assert "jackson" not in speakers["train"]
    assert len(splits["train"]) + len(splits["test"]) == 3000


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


def test_speech_commands_of_ten_words_have_unknown_words_and_silence(run, tmp_path):
    folder = _corpus(tmp_path / "sc", "yes/a.wav", "bed/b.wav", "bed/c.wav", "_background_noise_/d.wav")
    (folder / "validation_list.txt").write_text("bed/b.wav\n")
    (folder / "testing_list.txt").write_text("")
    assert run("speech_commands.py", folder, "--ten-words") == {
        "train": {"yes/a.wav": "yes", "bed/c.wav": "_unknown_", "_background_noise_/d.wav": "_silence_"},
        "valid": {"bed/b.wav": "_unknown_"},
    }
    test_set = _corpus(tmp_path / "test_set", "go/a.wav", "_unknown_/b.wav", "_silence_/c.wav")
    splits = run("speech_commands.py", test_set, "--ten-words", "--all-test")
    assert splits["test"] == {"go/a.wav": "go", "_unknown_/b.wav": "_unknown_", "_silence_/c.wav": "_silence_"}
    assert set(splits) == {"train", "valid", "test"}
    labels = (tmp_path / "out" / "labels.txt").read_text().split()
    assert labels == ["yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go", "_unknown_", "_silence_"]


def test_voxceleb1_follows_its_list_below_any_folders(run, tmp_path):
    folder = _corpus(tmp_path / "vox", "dev/wav/id10001/abc/00001.wav", "dev/wav/id10002/abc/00001.wav", "other.wav")
    _corpus(folder, "test/wav/id10270/x-y/00002.wav", "test/wav/id10271/not/00001.wav")
    (folder / "iden_split.txt").write_text(
        "3 id10001/abc/00001.wav\n1 id10002/abc/00001.wav\n2 id10270/x-y/00002.wav\n1 id10009/gone/00001.wav\n"
    )
    assert run("voxceleb1.py", folder) == {
        "test": {"dev/wav/id10001/abc/00001.wav": "id10001"},
        "train": {"dev/wav/id10002/abc/00001.wav": "id10002"},
        "valid": {"test/wav/id10270/x-y/00002.wav": "id10270"},
    }


def test_a_line_of_voxceleb1s_list_that_is_none_is_named(run, tmp_path, capsys):
    folder = _corpus(tmp_path / "vox", "dev/wav/id10001/abc/00001.wav")
    (tmp_path / "some.txt").write_text("3 id10001/abc/00001.wav\n4 id10001/abc/00002.wav\n")
    assert run("voxceleb1.py", folder, "--list", str(tmp_path / "some.txt"), code=2) == {}
    assert "some.txt:2: '4 id10001/abc/00002.wav'; expected 1, 2 or 3" in capsys.readouterr().err


def _iemocap(tmp_path):
    sentences = {"Ses01F_impro01": ("F000", "F001", "M000"), "Ses05M_script01_1": ("F000", "M000")}
    emotions = iter(["neu", "exc", "xxx", "sad", "ang"])
    for dialog, utterances in sentences.items():
        session = tmp_path / "IEMOCAP" / f"Session{int(dialog[3:5])}"
        _corpus(session / "sentences" / "wav" / dialog, *(f"{dialog}_{utterance}.wav" for utterance in utterances))
        _corpus(session / "dialog" / "wav", f"{dialog}.wav")
        (session / "dialog" / "EmoEvaluation").mkdir()
        (session / "dialog" / "EmoEvaluation" / f"{dialog}.txt").write_text(
            "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
            + "".join(
                f"[6.2901 - 8.2357]\t{dialog}_{utterance}\t{next(emotions)}\t[2.5000, 2.5000, 2.5000]\n"
                "C-E2:\tNeutral;\t()\n"
                for utterance in utterances
            )
        )
    return tmp_path / "IEMOCAP"


def test_iemocap_tests_on_a_session_and_keeps_four_emotions(run, tmp_path):
    splits = run("iemocap.py", _iemocap(tmp_path), "--fold", "5")
    assert {split: {name.split("/")[-1]: label for name, label in part.items()} for split, part in splits.items()} == {
        "train": {"Ses01F_impro01_F000.wav": "neu", "Ses01F_impro01_F001.wav": "hap"},
        "test": {"Ses05M_script01_1_F000.wav": "sad", "Ses05M_script01_1_M000.wav": "ang"},
    }
    assert (tmp_path / "out" / "labels.txt").read_text().split() == ["neu", "hap", "ang", "sad"]


def test_a_folder_that_is_not_iemocap_is_refused(run, tmp_path, capsys):
    assert run("iemocap.py", _corpus(tmp_path / "other", "a.wav"), code=2) == {}
    assert "expected IEMOCAP_full_release" in capsys.readouterr().err


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


def test_audioset_20k_is_the_balanced_list_alone(run, tmp_path):
    folder = _corpus(tmp_path / "as", "--PJHxphWEs.wav", "-0RWZT-miFs.wav")
    (folder / "balanced_train_segments.csv").write_text('--PJHxphWEs, 30.000, 40.000, "/m/09x0r"\n')
    (folder / "unbalanced_train_segments.csv").write_text('-0RWZT-miFs, 0.000, 10.000, "/m/012xff"\n')
    assert run("audioset.py", folder, "--balanced") == {"train": {"--PJHxphWEs.wav": "/m/09x0r"}}
    assert set(run("audioset.py", folder)["train"]) == {"--PJHxphWEs.wav", "-0RWZT-miFs.wav"}


def test_what_a_script_writes_is_read_as_labels(run, tmp_path):
    run("esc50.py", _esc50(tmp_path), "--fold", "2")
    vocabulary = find_vocabulary([tmp_path / "out"], "train")
    labels = read_labels(tmp_path / "out" / "train.lbl", vocabulary, 2, multi_label=False)
    assert vocabulary.names == ("dog", "airplane")
    assert labels.targets(range(2)).tolist() == [[0, 1], [0, 1]]


@pytest.mark.parametrize("script", sorted({path.name for path in SCRIPTS.glob("*.py")} - {"debian.py"}))  # its own test
def test_a_wrong_fraction_is_refused(run, tmp_path, capsys, script):
    run(script, tmp_path, "--valid", "2", code=2)
    assert "--valid: 2 is outside [0, 1)" in capsys.readouterr().err


SCRIPT = '''
"""Manifests and labels of a corpus of instruments: the second take is the test part."""
import sys
from pathlib import PurePosixPath

from mae_ast_fairseq.corpus.script import corpus_parser, run_corpus


def describe(args):
    def place(relative_path):
        instrument, _, take = PurePosixPath(relative_path).stem.partition("-")
        return ("test" if take == args.test_take else "train", instrument) if take else None

    return place, ["violin", "flute"]


if __name__ == "__main__":
    parser = corpus_parser(__doc__)
    parser.add_argument("--test-take", default="2")
    sys.exit(run_corpus(parser, describe))
'''


def test_a_corpus_script_is_under_thirty_lines(run, tmp_path):
    (tmp_path / "instruments.py").write_text(SCRIPT)
    folder = _corpus(tmp_path / "corpus", "a/violin-1.wav", "a/violin-2.wav", "flute-1.wav", "notes.wav")
    assert SCRIPT.count("\n") < 30
    assert run(tmp_path / "instruments.py", folder) == {
        "train": {"a/violin-1.wav": "violin", "flute-1.wav": "flute"},
        "test": {"a/violin-2.wav": "violin"},
    }
    assert (tmp_path / "out" / "labels.txt").read_text() == "violin\nflute\n"
