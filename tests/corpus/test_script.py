"""How the scripts of `manifests/` divide files, and what they write."""

import pytest

from mae_ast_fairseq.corpus.script import split_side, write_splits
from mae_ast_fairseq.data.manifest import read_manifest
from mae_ast_fairseq.errors import AudioError
from tests.corpus.test_scan import write_noise


def test_sides_have_their_golden_values():
    names = [f"folder/{i}.flac" for i in range(40)]
    assert [i for i, name in enumerate(names) if split_side(name, 0.2, 1337) == "valid"] == [
        10,
        15,
        21,
        23,
        24,
        27,
        37,
        38,
    ]


def test_sides_have_the_fraction_asked_for():
    sides = [split_side(f"{i}.wav", 0.05, 1337) for i in range(20_000)]
    assert abs(sides.count("valid") - 1000) < 4 * (20_000 * 0.05 * 0.95) ** 0.5


def test_sides_depend_on_the_seed():
    valid = [{i for i in range(1000) if split_side(f"{i}.wav", 0.5, seed) == "valid"} for seed in (1, 2)]
    assert 150 < len(valid[0] & valid[1]) < 350


def test_a_larger_fraction_holds_the_smaller():
    names = [f"{i}.wav" for i in range(1000)]
    small, large = ({n for n in names if split_side(n, fraction, 5) == "valid"} for fraction in (0.1, 0.3))
    assert small < large


def test_no_file_is_valid_at_fraction_0():
    assert {split_side(f"{i}.wav", 0.0, 1337) for i in range(1000)} == {"train"}


def test_splits_are_written_with_labels_in_line(tmp_path):
    for name in ("dog_0.wav", "cat_0.wav", "dog_1.wav", "noise.wav"):
        write_noise(tmp_path / "corpus" / name)
    out = tmp_path / "out"

    def place(name):
        label, _, take = name.removesuffix(".wav").partition("_")
        return ("train" if take == "0" else "valid", label) if take else None

    assert write_splits(tmp_path / "corpus", out, place) == {"train": 2, "valid": 1}
    manifest = read_manifest(out / "train.tsv")
    assert [manifest.relative_path(row) for row in range(2)] == ["cat_0.wav", "dog_0.wav"]
    assert (out / "train.lbl").read_text() == "cat\ndog\n"
    assert (out / "valid.lbl").read_text() == "dog\n"
    assert (out / "labels.txt").read_text() == "cat\ndog\n"


def test_a_corpus_that_is_another_is_an_error(tmp_path):
    write_noise(tmp_path / "a.wav")
    with pytest.raises(AudioError, match="none of 1 audio files"):
        write_splits(tmp_path, tmp_path / "out", lambda name: None)
