"""`mae-ast reconstruct` from checkpoint and clips to pictures and scores, and its errors."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from mae_ast_fairseq import extras
from mae_ast_fairseq.checkpoints.read import build_model, read_checkpoint
from mae_ast_fairseq.cli import main
from mae_ast_fairseq.data.audio import load_audio
from mae_ast_fairseq.data.masking import Masking, chunk_mask
from mae_ast_fairseq.evaluation import plots
from mae_ast_fairseq.inference.reconstruct import reconstruct
from mae_ast_fairseq.nn import fbank
from mae_ast_fairseq.rng import Stream, generator
from tests.checkpoints.test_read import save_checkpoint, save_tiny_checkpoint
from tests.test_layers import HIDE_FAIRSEQ
from tests.tiny import FRAME, load_autoencoder

pytest.importorskip("matplotlib")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save_tiny_checkpoint(tmp_path / "tiny.pt", mask_type="chunk_mask", random_mask_prob=0.6)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What is drawn, in place of the pictures, which take a second each."""
    pictures: list[dict] = []
    monkeypatch.setattr(plots, "save_reconstruction", lambda path, **shown: pictures.append({"path": path, **shown}))
    return pictures


@pytest.fixture
def run(capsys, tmp_path: Path, drawn):
    """A function that runs the command with --json and returns what it printed."""

    def summary(*argv: object, code: int = 0) -> dict:
        assert main(["reconstruct", *map(str, argv), "--out", str(tmp_path / "out"), "--json"]) == code
        return json.loads(capsys.readouterr().out)

    return summary


@pytest.fixture
def message(refusal, tmp_path: Path):
    """A function that runs the command and returns the one line with which it refuses, having written nothing."""

    def run(*argv: object) -> str:
        text = refusal("reconstruct", *argv, "--out", tmp_path / "out")
        assert not (tmp_path / "out").exists()
        return text

    return run


def test_each_clip_gives_a_picture_and_a_row(corpus, checkpoint, tmp_path: Path, capsys) -> None:
    files = [corpus / "00.wav", corpus / "01.wav"]
    assert main(["reconstruct", str(checkpoint), *map(str, files), "--out", str(tmp_path / "new" / "out")]) == 0
    names = ["01_00.png", "02_01.png"]
    assert sorted(picture.name for picture in (tmp_path / "new" / "out").iterdir()) == names
    assert all((tmp_path / "new" / "out" / name).read_bytes().startswith(b"\x89PNG") for name in names)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "model trained for 1,234 updates; chunk_mask, 60% masked, seed 1337"
    assert lines[1].split() == ["file", "seconds", "mse", "baseline", "info_nce", "accuracy", "chance"]
    assert [line.split()[0] for line in lines[2:5]] == [*map(str, files), "mean"]
    assert lines[5] == f"pictures (2 PNG) in {tmp_path / 'new' / 'out'}"


def test_scores_and_pictures_are_the_librarys(corpus, checkpoint, run, drawn) -> None:
    summary = run(checkpoint, corpus / "00.wav", corpus / "03.wav", "--seed", 7)
    model = load_autoencoder(checkpoint)
    for index, (clip, picture) in enumerate(zip(summary["clips"], drawn, strict=True)):
        frames = fbank.log_mel(torch.from_numpy(load_audio(clip["file"], expect_rate=None)))
        rng = generator(7, Stream.MASK, index=index)
        expected = reconstruct(model, frames, Masking("chunk_mask", 0.6), rng)
        assert {name: clip[name] for name in summary["mean"]} == {
            name: getattr(expected, name) for name in ("mse", "baseline", "info_nce", "accuracy", "chance")
        }
        np.testing.assert_array_equal(picture["reconstructed"], expected.reconstructed)
        np.testing.assert_array_equal(picture["visible"], expected.visible)
        assert clip["seconds"] == len(expected.original) / 100
    assert summary["mean"]["mse"] == pytest.approx(np.mean([clip["mse"] for clip in summary["clips"]]))


def test_the_title_tells_the_scores(corpus, checkpoint, run, drawn) -> None:
    clip = run(checkpoint, corpus / "00.wav")["clips"][0]
    assert drawn[0]["title"].startswith("00.wav: model trained for 1,234 updates\n")
    assert f"MSE {clip['mse']:.4f} (always guessing the mean: {clip['baseline']:.4f})" in drawn[0]["title"]
    assert f"InfoNCE accuracy {clip['accuracy']:.1%} (chance {clip['chance']:.1%})" in drawn[0]["title"]


@pytest.mark.parametrize("changes", [{}, FRAME], ids=["patch", "frame"])
def test_ratio_and_mask_type_can_be_chosen(corpus, tmp_path: Path, run, drawn, changes) -> None:
    checkpoint = save_tiny_checkpoint(tmp_path / "a.pt", mask_type="retain_spans", mask_length=3, **changes)
    for mask_type in ("random_mask", "chunk_mask"):
        summary = run(checkpoint, corpus / "00.wav", "--ratio", 0.5, "--mask-type", mask_type)
        assert (summary["ratio"], summary["mask_type"]) == (0.5, mask_type)
        assert drawn[-1]["visible"].mean() == pytest.approx(0.5, abs=0.05)
    assert (drawn[0]["visible"] != drawn[1]["visible"]).any()


def test_the_models_own_span_length_is_used(corpus, tmp_path: Path, run, drawn) -> None:
    checkpoint = save_tiny_checkpoint(tmp_path / "a.pt", mask_type="chunk_mask", mask_length=3, **FRAME)
    run(checkpoint, corpus / "00.wav")
    seen = drawn[0]["visible"][::2, 0]  # of a token's two frames one
    masks = [chunk_mask(1, len(seen), 0.75, generator(1337, Stream.MASK), span) for span in (3, 10)]
    assert [np.array_equal(np.flatnonzero(seen), mask.visible) for mask in masks] == [True, False]


def test_a_seed_gives_the_same_everything(corpus, checkpoint, run, drawn) -> None:
    argv = [checkpoint, "--manifest", corpus / "train.tsv", "--clips", 2, "--untrained"]
    first, again, other = (run(*argv, "--seed", seed) for seed in (3, 3, 4))
    assert first == again
    assert all(
        np.array_equal(drawn[i][name], drawn[i + 2][name]) for i in (0, 1) for name in ("visible", "reconstructed")
    )
    assert first["clips"] != other["clips"]


def test_clips_of_a_manifest_are_different_ones_of_all_lengths(corpus, checkpoint, run) -> None:
    clips = run(checkpoint, "--manifest", corpus / "train.tsv", "--clips", 6)["clips"]
    seconds = [clip["seconds"] for clip in clips]
    assert len({clip["file"] for clip in clips}) == 6
    assert seconds == sorted(seconds)
    assert seconds[0] < 0.8
    assert seconds[-1] > 1.2


def test_one_long_clip_is_drawn_once(corpus, checkpoint, run, tmp_path: Path) -> None:
    sf.write(tmp_path / "long.wav", 0.1 * np.ones(160_000), 16_000)
    rows = [*(corpus / "valid.tsv").read_text().splitlines()[1:4], f"{tmp_path}/long.wav\t160000"]
    rows = [row if row.startswith("/") else f"{corpus}/{row}" for row in rows]
    (tmp_path / "a.tsv").write_text("\n".join(["/", *rows]))
    for count in (2, 3, 4, 9):
        clips = run(checkpoint, "--manifest", tmp_path / "a.tsv", "--clips", count)["clips"]
        assert len({clip["file"] for clip in clips}) == min(count, 4)


def test_clips_too_short_are_not_drawn_from_a_manifest(corpus, checkpoint, run, tmp_path: Path) -> None:
    sf.write(tmp_path / "short.wav", np.zeros(300), 16_000)
    lines = (corpus / "valid.tsv").read_text().splitlines()
    (tmp_path / "a.tsv").write_text("\n".join(["/", f"{tmp_path}/short.wav\t300", f"{corpus}/{lines[1]}"]))
    names = [lines[1].split("\t")[0]]
    drawn, every = (run(checkpoint, "--manifest", tmp_path / "a.tsv", "--clips", n, code=n > 1) for n in (1, 2))
    assert [[Path(clip["file"]).name for clip in some["clips"]] for some in (drawn, every)] == [names, names]
    assert [len(drawn["broken"]), len(every["broken"])] == [0, 1]


def test_a_manifests_clip_has_its_validation_mask(corpus, checkpoint, run, drawn) -> None:
    lines = (corpus / "valid.tsv").read_text().splitlines()[1:]
    clip = run(checkpoint, "--manifest", corpus / "valid.tsv", "--clips", 1, "--seed", 5)["clips"][0]
    row = [line.split("\t")[0] for line in lines].index(Path(clip["file"]).name)
    frames = fbank.log_mel(torch.from_numpy(load_audio(clip["file"], expect_rate=None)))
    rng = generator(5, Stream.MASK, epoch=0, index=row)
    expected = reconstruct(load_autoencoder(checkpoint), frames, Masking("chunk_mask", 0.6), rng)
    np.testing.assert_array_equal(drawn[0]["visible"], expected.visible)


def test_long_clips_are_cut_to_their_start(corpus, checkpoint, run, drawn) -> None:
    file = next(path for path in sorted(corpus.glob("*.wav")) if sf.info(path).duration > 1)
    run(checkpoint, file)
    assert run(checkpoint, file, "--max-seconds", 0.5)["clips"][0]["seconds"] == 0.48  # whole tokens
    np.testing.assert_allclose(drawn[1]["original"], drawn[0]["original"][:48], atol=1e-3)


def test_untrained_has_other_weights_the_same_masks_and_its_own_names(corpus, checkpoint, run, drawn) -> None:
    trained = run(checkpoint, corpus / "00.wav")
    untrained = run(checkpoint, corpus / "00.wav", "--untrained")
    np.testing.assert_array_equal(drawn[0]["visible"], drawn[1]["visible"])
    assert [Path(s["clips"][0]["picture"]).name for s in (trained, untrained)] == ["01_00.png", "01_00_untrained.png"]
    assert trained["clips"][0]["baseline"] == untrained["clips"][0]["baseline"]
    assert trained["clips"][0]["mse"] != untrained["clips"][0]["mse"]
    assert untrained["weights"] == "untrained model, initial weights"


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_precision_changes_scores_a_little(corpus, checkpoint, run, precision: str) -> None:
    exact, rounded = (
        run(checkpoint, corpus / "00.wav", "--precision", name)["clips"][0]["mse"] for name in ("float32", precision)
    )
    assert exact != rounded
    assert exact == pytest.approx(rounded, rel=0.05)


def test_it_works_without_fairseq(corpus, checkpoint, tmp_path: Path) -> None:
    argv = ["reconstruct", str(checkpoint), str(corpus / "00.wav"), "--out", str(tmp_path / "out")]
    code = f"{HIDE_FAIRSEQ}\nfrom mae_ast_fairseq.cli import main\nsys.exit(main({argv!r}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out" / "01_00.png").exists()


# --- bad input


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--ratio=0", "--ratio: 0 was given; expected a fraction"),
        ("--ratio=1", "--ratio: 1 was given; expected a fraction"),
        ("--ratio=nan", "--ratio: nan was given; expected a fraction"),
        ("--mask-type=checkers", "--mask-type: invalid choice: 'checkers' (choose from "),
        ("--clips=0", "--clips: 0 was given; expected a whole number of at least 1"),
        ("--seed=-1", "--seed: -1 was given; expected a whole number from 0"),
        ("--max-seconds=0", "--max-seconds: 0 was given; expected seconds above 0"),
        ("--max-seconds=inf", "--max-seconds: inf was given; expected seconds above 0"),
        ("--precision=int8", "--precision: invalid choice: 'int8' (choose from "),
        ("--device=abacus", "--device abacus: cannot be used ("),
        ("--device=meta", "--device meta: cannot be used ("),
    ],
)
def test_a_bad_option_is_named(corpus, checkpoint, message, option: str, expected: str) -> None:
    assert message(checkpoint, "--manifest", corpus / "valid.tsv", option).startswith(expected)


def test_a_checkpoint_of_another_kind_is_named(corpus, checkpoint, message) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["cfg"]["model"]["_name"] = "wav2vec2"
    torch.save(content, checkpoint)
    assert message(checkpoint, corpus / "00.wav").startswith(f"{checkpoint}: cfg.model._name is 'wav2vec2'")


def test_a_strategy_that_only_loads_asks_for_another(corpus, tmp_path: Path, message) -> None:
    checkpoint = save_tiny_checkpoint(tmp_path / "a.pt", mask_type="retain_spans")
    text = message(checkpoint, corpus / "00.wav")
    assert text.startswith(f"{checkpoint}: its mask type 'retain_spans' cannot be drawn")
    assert "--mask-type chunk_mask" in text


def test_a_missing_file_is_named_and_nothing_written(checkpoint, message, tmp_path: Path) -> None:
    text = message(checkpoint, tmp_path / "no.wav")
    assert text.startswith(f"{tmp_path / 'no.wav'}: ")
    assert "there is no such file" in text


def test_a_file_that_is_no_audio_is_named(checkpoint, message) -> None:
    text = message(checkpoint, checkpoint)
    assert text.startswith(f"{checkpoint}: ")
    assert "cannot be decoded" in text


@pytest.mark.parametrize(("changes", "enough"), [({}, 2_800), (FRAME, 880)], ids=["patch", "frame"])
def test_a_clip_shorter_than_two_tokens_is_named_with_what_is_enough(
    tmp_path: Path, message, run, changes, enough: int
) -> None:
    checkpoint = save_tiny_checkpoint(tmp_path / "a.pt", **changes)
    sf.write(tmp_path / "long.wav", np.zeros(enough), 16_000)
    sf.write(tmp_path / "short.wav", np.zeros(enough - 1), 16_000)
    text = message(checkpoint, tmp_path / "short.wav")
    assert text.startswith(f"{tmp_path / 'short.wav'}: ")
    assert f"expected at least 2 ({enough / 16_000:.3f} s)" in text
    assert len(run(checkpoint, tmp_path / "long.wav")["clips"]) == 1


def test_a_manifest_without_usable_clips_is_named(corpus, checkpoint, message) -> None:
    text = message(checkpoint, "--manifest", corpus / "valid.tsv", "--max-seconds", 0.1)
    assert text.startswith(f"{corpus / 'valid.tsv'}: none of its 8 clips has 2 tokens")


def test_an_out_that_is_a_file_is_named(corpus, checkpoint, capsys) -> None:
    assert main(["reconstruct", str(checkpoint), str(corpus / "00.wav"), "--out", str(checkpoint)]) == 2
    assert f"--out {checkpoint}: cannot be made" in capsys.readouterr().err


def test_without_matplotlib_it_says_how_to_install_it(corpus, checkpoint, message, monkeypatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    assert "pip install 'mae_ast_fairseq[plot]'" in message(checkpoint, corpus / "00.wav")


def test_ssast_is_drawn_too_and_a_classifier_is_refused(corpus, tmp_path, run, message) -> None:
    assert "fills in nothing; expected a checkpoint of pretraining" in message(
        save_checkpoint(tmp_path / "classifier.pt", "mae_ast_classifier"), corpus / "00.wav"
    )
    path = save_checkpoint(tmp_path / "ssast.pt", "ssast")
    (clip,) = run(path, corpus / "00.wav", "--seed", 7)["clips"]
    frames = fbank.log_mel(torch.from_numpy(load_audio(clip["file"], expect_rate=None)))
    rng = generator(7, Stream.MASK, index=0)
    expected = reconstruct(build_model(read_checkpoint(path)), frames, Masking("random_mask", 0.75), rng)
    assert (clip["mse"], clip["info_nce"]) == (expected.mse, expected.info_nce)
