"""The scripts of `manifests/` follow their corpora's own splits."""

import shutil

import pytest

from mae_ast_fairseq.cli import main
from mae_ast_fairseq.data.labels import find_vocabulary, read_labels
from tests.manifests.conftest import SCRIPTS, write_silence

SHAPES = {
    "audioset.py": "AudioSet's lists; name their folder by --lists",
    "esc50.py": "audio/1-100032-A-0.wav and meta/esc50.csv",
    "fsdd.py": "recordings/0_jackson_12.wav",
    "iemocap.py": "IEMOCAP_full_release, with Session1/sentences/wav",
    "librispeech.py": "train-clean-100/19/198/19-198-0000.flac",
    "speech_commands.py": "yes/0a7c2a8d_nohash_0.wav",
    "voxceleb1.py": "the list that VoxCeleb1's page has, or --list FILE",
    "folder.py": "LABEL/clip.wav or train/LABEL/clip.wav",
}


@pytest.mark.parametrize("script", SHAPES)
def test_a_folder_of_another_shape_is_refused_by_what_is_there_and_what_is_expected(refusal, tmp_path, script):
    message = refusal(script, write_silence(tmp_path / "other", "some.wav"))
    assert "'some.wav'" in message
    assert SHAPES[script] in message.partition("; expected ")[2]


@pytest.mark.parametrize("script", SHAPES)
def test_a_folder_that_is_not_there_is_refused(refusal, tmp_path, script):
    assert refusal(script, tmp_path / "none").startswith(f"{tmp_path / 'none'}: ")


def test_fsdd_tests_on_takes_0_to_4(run, recordings, tmp_path, warning):
    splits = run("fsdd.py", recordings / "fsdd", "--valid", "0.1")
    assert warning() == ""
    assert len(splits["test"]) == 300
    assert {name.rsplit("_")[-1] for name in splits["test"]} == {f"{take}.wav" for take in range(5)}
    assert all(label == name[0] for part in splits.values() for name, label in part.items())
    assert len(splits["train"]) + len(splits["valid"]) == 2700
    assert 200 < len(splits["valid"]) < 340
    assert (tmp_path / "out" / "labels.txt").read_text().split() == list("0123456789")


def test_fsdd_tests_on_one_speaker(run, recordings, refusal, warning):
    message = refusal("fsdd.py", recordings / "fsdd", "--test-speaker", "jakson")
    assert "--test-speaker 'jakson'; expected one of george, jackson, lucas" in message
    splits = run("fsdd.py", recordings / "fsdd", "--test-speaker", "jackson")
    assert warning() == ""
    speakers = {split: {name.split("_")[1] for name in part} for split, part in splits.items()}
    assert speakers["test"] == {"jackson"}
    assert len(speakers["train"]) == 5
    assert "jackson" not in speakers["train"]
    assert len(splits["train"]) + len(splits["test"]) == 3000


def test_a_split_of_an_earlier_run_is_not_left_beside_others(run, tmp_path, capsys):
    folder = write_silence(tmp_path / "LibriSpeech", *(f"train-clean-100/1/2/1-2-{n:04}.flac" for n in range(20)))
    assert {"train", "valid"} <= set(run("librispeech.py", folder, "--valid", "0.5"))
    capsys.readouterr()
    run("librispeech.py", folder, code=2)
    assert f"{tmp_path / 'out' / 'valid.tsv'}: there from an earlier run" in capsys.readouterr().err


def test_librispeech_splits_by_subset(run, tmp_path, warning):
    folder = write_silence(
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
    assert warning() == (
        "a part of what was published: train-clean-100 1 of 28,539, train-clean-360 0 of 104,014, train-other-500 1 of "
        "148,688, dev-clean 1 of 2,703, dev-other 0 of 2,864, test-clean 0 of 2,620, test-other 1 of 2,939 files"
    )
    assert not (tmp_path / "out" / "labels.txt").exists()


def _esc50(tmp_path):
    folder = write_silence(
        tmp_path / "ESC-50", "audio/1-1-A-1.wav", "audio/2-2-A-0.wav", "audio/5-3-A-1.wav", "other.wav"
    )
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


def test_esc50s_other_folds_are_400_clips_each(run, tmp_path, warning):
    run("esc50.py", _esc50(tmp_path), "--fold", "2")
    assert warning() == "a part of what was published: train 2 of 1,600, valid 1 of 400 files"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("fold", "part", "esc50.csv:1: no column 'fold' among 'filename', 'part'"),
        (",1,1,airplane", ",6,1,airplane", "esc50.csv:2: fold '6' and target '1'; expected 1 to 5"),
        (",1,1,airplane", ",1,x,airplane", "esc50.csv:2: fold '1' and target 'x'"),
        (",1,1,airplane", ",1,1", "esc50.csv:2: 6 columns; expected 7"),
    ],
)
def test_a_bad_table_of_esc50_is_refused_with_its_line(refusal, tmp_path, old, new, message):
    table = _esc50(tmp_path) / "meta" / "esc50.csv"
    table.write_text(table.read_text().replace(old, new))
    assert message in refusal("esc50.py", tmp_path / "ESC-50")


def test_speech_commands_follow_its_lists(run, tmp_path):
    folder = write_silence(tmp_path / "sc", "yes/a.wav", "yes/b.wav", "no/c.wav", "_background_noise_/d.wav")
    (folder / "validation_list.txt").write_text("yes/b.wav\n")
    (folder / "testing_list.txt").write_text("no/c.wav\n")
    assert run("speech_commands.py", folder) == {
        "train": {"yes/a.wav": "yes"},
        "valid": {"yes/b.wav": "yes"},
        "test": {"no/c.wav": "no"},
    }


# Speakers at the head of version 1's lists.
VALID = ["026290a7", "060cd039", "099d52ad", "0e17f595"]
TEST = ["0c40e715", "0ea0e2f4", "105a0eea", "1528225c"]


def test_speech_commands_without_lists_are_divided_as_the_lists_were_made(run, tmp_path, warning):
    train = ["bed/0a7c2a8d_nohash_0.wav", "yes/0a7c2a8d_nohash_1.wav"]
    names = {split: [f"bed/{name}_nohash_0.wav" for name in part] for split, part in [("valid", VALID), ("test", TEST)]}
    folder = write_silence(
        tmp_path / "sc", *train, *names["valid"], *names["test"], "bed/other.wav", "a/b/c_nohash_0.wav"
    )
    splits = run("speech_commands.py", folder)
    assert {split: list(part) for split, part in splits.items()} == names | {"train": train}
    assert warning() == "a part of what was published: train 2 of 51,088, valid 4 of 6,798, test 4 of 6,835 files"
    write_silence(folder, "visual/0a7c2a8d_nohash_0.wav")
    run("speech_commands.py", folder)
    assert warning() == "a part of what was published: train 3 of 84,843, valid 4 of 9,981, test 4 of 11,005 files"


@pytest.mark.parametrize(
    ("validation", "testing", "message"),
    [
        ("yes/a.wav\n", None, "testing_list.txt: not there, but 'validation_list.txt', 'yes' in"),
        ("yes/a.wav\n", "<html>\n", "testing_list.txt:1: '<html>'; expected WORD/SPEAKER"),
        ("yes/a.wav\r\n", "yes/b.wav\n\n", "testing_list.txt:2: ''; expected WORD/SPEAKER"),
    ],
)
def test_lists_that_are_none_of_speech_commands_are_refused(refusal, tmp_path, validation, testing, message):
    folder = write_silence(tmp_path / "sc", "yes/a.wav")
    (folder / "validation_list.txt").write_text(validation)
    if testing is not None:
        (folder / "testing_list.txt").write_text(testing)
    assert message in refusal("speech_commands.py", folder)


def test_speech_commands_of_ten_words_have_unknown_words_and_silence(run, tmp_path, warning):
    folder = write_silence(tmp_path / "sc", "yes/a.wav", "bed/b.wav", "bed/c.wav", "_background_noise_/d.wav")
    (folder / "validation_list.txt").write_text("bed/b.wav\n")
    (folder / "testing_list.txt").write_text("")
    assert run("speech_commands.py", folder, "--ten-words") == {
        "train": {"yes/a.wav": "yes", "bed/c.wav": "_unknown_", "_background_noise_/d.wav": "_silence_"},
        "valid": {"bed/b.wav": "_unknown_"},
    }
    assert "train 3 of 51,094," in warning()
    test_set = write_silence(tmp_path / "test_set", "go/a.wav", "_unknown_/b.wav", "_silence_/c.wav")
    splits = run("speech_commands.py", test_set, "--ten-words", "--all-test")
    assert splits["test"] == {"go/a.wav": "go", "_unknown_/b.wav": "_unknown_", "_silence_/c.wav": "_silence_"}
    assert set(splits) == {"train", "valid", "test"}
    assert warning() == "a part of what was published: test 3 of 3,081 files"
    labels = (tmp_path / "out" / "labels.txt").read_text().split()
    assert labels == ["yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go", "_unknown_", "_silence_"]


def test_voxceleb1_follows_its_list_below_any_folders(run, tmp_path, warning):
    folder = write_silence(
        tmp_path / "vox", "dev/wav/id10001/abc/00001.wav", "dev/wav/id10002/abc/00001.wav", "other.wav"
    )
    write_silence(folder, "test/wav/id10270/x-y/00002.wav", "test/wav/id10271/not/00001.wav")
    (folder / "iden_split.txt").write_text(
        "3 id10001/abc/00001.wav\n1 id10002/abc/00001.wav\n2 id10270/x-y/00002.wav\n1 id10009/gone/00001.wav\n"
    )
    assert run("voxceleb1.py", folder) == {
        "test": {"dev/wav/id10001/abc/00001.wav": "id10001"},
        "train": {"dev/wav/id10002/abc/00001.wav": "id10002"},
        "valid": {"test/wav/id10270/x-y/00002.wav": "id10270"},
    }
    assert warning() == "a part of what was published: train 1 of 138,361, valid 1 of 6,904, test 1 of 8,251 files"


def test_a_line_of_voxceleb1s_list_that_is_none_is_named(run, tmp_path, capsys):
    folder = write_silence(tmp_path / "vox", "dev/wav/id10001/abc/00001.wav")
    (tmp_path / "some.txt").write_text("3 id10001/abc/00001.wav\n4 id10001/abc/00002.wav\n")
    assert run("voxceleb1.py", folder, "--list", str(tmp_path / "some.txt"), code=2) == {}
    assert "some.txt:2: '4 id10001/abc/00002.wav'; expected 1, 2 or 3" in capsys.readouterr().err


def _iemocap(tmp_path):
    sentences = {"Ses01F_impro01": ("F000", "F001", "M000"), "Ses05M_script01_1": ("F000", "M000")}
    emotions = iter(["neu", "exc", "xxx", "sad", "ang"])
    for dialog, utterances in sentences.items():
        session = tmp_path / "IEMOCAP" / f"Session{int(dialog[3:5])}"
        write_silence(
            session / "sentences" / "wav" / dialog, *(f"{dialog}_{utterance}.wav" for utterance in utterances)
        )
        write_silence(session / "dialog" / "wav", f"{dialog}.wav")
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


def test_iemocap_tests_on_a_session_and_keeps_four_emotions(run, tmp_path, warning):
    splits = run("iemocap.py", _iemocap(tmp_path), "--fold", "5")
    assert {split: {name.split("/")[-1]: label for name, label in part.items()} for split, part in splits.items()} == {
        "train": {"Ses01F_impro01_F000.wav": "neu", "Ses01F_impro01_F001.wav": "hap"},
        "test": {"Ses05M_script01_1_F000.wav": "sad", "Ses05M_script01_1_M000.wav": "ang"},
    }
    assert (tmp_path / "out" / "labels.txt").read_text().split() == ["neu", "hap", "ang", "sad"]
    assert warning() == "a part of what was published: train 2 of 4,290, test 2 of 1,241 files"


def _by_label(folder):
    return write_silence(folder, *(f"{label}/{index}/{index}.wav" for label in ("dog", "train") for index in range(10)))


def test_a_folder_a_class_is_divided_as_the_command_does_it(run, tmp_path):
    folder, options = _by_label(tmp_path / "corpus"), ["--valid", "0.2", "--test", "0.1"]
    splits = run("folder.py", folder, *options)
    assert {split: len(part) for split, part in splits.items()} == {"train": 14, "valid": 4, "test": 2}
    main(["manifest", str(folder), "--out", str(tmp_path / "other"), "--label-folder", "1", *options])
    for file in sorted((tmp_path / "other").iterdir()):
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()


def test_folders_that_are_splits_stay_so(run, refusal, tmp_path):
    folder = write_silence(tmp_path / "corpus", "more/dog/1.wav")
    for split in ("train", "val", "test"):
        write_silence(folder, f"{split}/dog/{split}.wav", f"{split}/cat/deep/{split}.wav")
    message = refusal("folder.py", folder)
    assert "--split-folder 1: 'more/dog/1.wav' is in no folder of a split there; expected one of train" in message
    shutil.rmtree(folder / "more")
    assert run("folder.py", folder) == {
        split: {f"{name}/cat/deep/{name}.wav": "cat", f"{name}/dog/{name}.wav": "dog"}
        for split, name in [("train", "train"), ("valid", "val"), ("test", "test")]
    }


def test_a_class_may_be_called_train(run, tmp_path):
    splits = run("folder.py", _by_label(tmp_path / "corpus"), "--valid", "0.2")
    assert {label for part in splits.values() for label in part.values()} == {"dog", "train"}


def test_what_a_script_writes_is_read_as_labels(run, tmp_path):
    run("esc50.py", _esc50(tmp_path), "--fold", "2")
    vocabulary = find_vocabulary([tmp_path / "out"], "train")
    labels = read_labels(tmp_path / "out" / "train.lbl", vocabulary, 2, multi_label=False)
    assert vocabulary.names == ("dog", "airplane")
    assert labels.targets(range(2)).tolist() == [[0, 1], [0, 1]]


@pytest.mark.parametrize("script", sorted({path.name for path in SCRIPTS.glob("*.py")} - {"debian.py", "folder.py"}))
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
    folder = write_silence(tmp_path / "corpus", "a/violin-1.wav", "a/violin-2.wav", "flute-1.wav", "notes.wav")
    assert SCRIPT.count("\n") < 30
    assert run(tmp_path / "instruments.py", folder) == {
        "train": {"a/violin-1.wav": "violin", "flute-1.wav": "flute"},
        "test": {"a/violin-2.wav": "violin"},
    }
    assert (tmp_path / "out" / "labels.txt").read_text() == "violin\nflute\n"
