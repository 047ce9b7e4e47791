"""The authors' checkpoints in use: README's commands, end to end, on small files of the same layout."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from mae_ast_fairseq.checkpoints.read import read_checkpoint
from mae_ast_fairseq.cli import main
from mae_ast_fairseq.cli.train import as_list
from mae_ast_fairseq.inference.encoder import load_pretrained
from tests.documented import commands_of
from tests.finetuning import finetune, write_tones
from tests.training import train

README = Path(__file__).parents[1] / "README.md"
RELEASED = {"patch": "chunk_patch_75_12LayerEncoder.pt", "frame": "random_frame_75_12LayerEncoder.pt"}
SIZES = {
    "encoder_layers": 3,
    "encoder_embed_dim": 48,
    "encoder_ffn_embed_dim": 96,
    "encoder_attention_heads": 4,
    "decoder_layers": 2,
    "decoder_embed_dim": 48,
}
"""Of the files that stand for the released ones, where the recipe has the authors'."""


def adapted(words: Sequence[str], kind: str, file: Path, data: Path) -> tuple[str, list[str]]:
    """Return the recipe and the overrides of a training command, on another file and data."""
    recipe = words[2].replace("patch", kind)
    overrides = [word for word in words if "=" in word and not word.startswith(("task.data=", "hydra.run.dir="))]
    return recipe, [
        *(word.replace(RELEASED["patch"], str(file)) for word in map(as_list, overrides)),
        f"task.data={data}",
    ]


def saving(folder: Path) -> list[str]:
    return ["checkpoint.no_save=false", f"checkpoint.save_dir={folder}"]


@pytest.mark.parametrize("kind", RELEASED)
def test_what_the_readme_shows_of_released_files(golden, corpus, tmp_path, capsys, kind) -> None:
    file = golden / f"released_{kind}_random.pt"
    shown = [each.words for each in commands_of(README) if any(RELEASED["patch"] in word for word in each.words)]
    extract, fine_tune, go_on = sorted(shown, key=lambda words: words[1:3])
    assert [words[1:4] for words in (fine_tune, go_on)] == [
        ("train", "finetune_any", "task.data=labelled"),
        ("train", "mae_ast_patch", "task.data=data"),
    ]

    recordings = [str(corpus / "00.wav"), str(corpus / "01.wav")]
    given = {RELEASED["patch"]: [str(file)], "recordings/": recordings}
    given[extract[extract.index("--out") + 1]] = [str(tmp_path / "features")]
    assert main([part for word in extract[1:] for part in given.get(word, [word])]) == 0
    features = [np.load(path) for path in (tmp_path / "features").glob("*.npy")]
    assert [each.shape for each in features] == [(2 * SIZES["encoder_embed_dim"],)] * 2

    recipe, overrides = adapted(go_on, kind, file, corpus)
    sizes = [f"model.{name}={value}" for name, value in SIZES.items()]
    run = train(recipe, *overrides, *sizes, *saving(tmp_path / "d"), "dataset.max_tokens=300000")
    continued = tmp_path / "d" / "checkpoint_last.pt"
    before, after = read_checkpoint(file).state, read_checkpoint(continued).state
    assert len(run.losses) == 4
    assert after["batch_norm.running_mean"].equal(before["batch_norm.running_mean"])
    weight = "encoder.layers.0.fc1.weight"
    assert 0 < (after[weight] - before[weight]).abs().max() < 0.01
    assert load_pretrained(continued)(torch.zeros(1, 16_000)).isfinite().all()

    tones = write_tones(tmp_path / "tones")
    for start in (file, continued):
        folder = tmp_path / f"c_{start.stem}"
        recipe, overrides = adapted(fine_tune, kind, start, tones)
        # Its sizes, and not those of the quick settings, follow from the checkpoint.
        short = ("optimization.max_update=2", "lr_scheduler.warmup_updates=1")
        assert finetune(tones, *overrides, *saving(folder), *short, recipe=recipe).losses
        assert read_checkpoint(folder / "checkpoint_last.pt").model.encoder_layers == SIZES["encoder_layers"]
        assert main(["predict", str(folder / "checkpoint_last.pt"), recordings[0], "--top", "1"]) == 0
    assert capsys.readouterr().err == ""


def test_readme_links_both_with_what_the_authors_report() -> None:
    rows = [line for line in README.read_text(encoding="utf-8").splitlines() if line.startswith("| [")]
    host = "https://www.cs.utexas.edu/~harwath/model_checkpoints/mae_ast"
    for name, figures in zip(RELEASED.values(), ("| 90.0 | 97.9 |", "| 88.9 | 98.0 |"), strict=True):
        assert [row for row in rows if f"({host}/{name})" in row and figures in row]
