"""The recipes of fine-tuning are the papers', and run."""

import pytest

from tests.finetuning import TINY, finetune, write_tones
from tests.training import EXAMPLES, config

RECIPES = sorted(path.stem for path in EXAMPLES.glob("finetune_*.yaml"))


def test_there_is_one_for_each_of_the_papers_tasks():
    names = ["any", "audioset20k", "esc50", "speech_commands_v1", "speech_commands_v2", "voxceleb1", "iemocap", "fsdd"]
    assert sorted(f"finetune_{name}" for name in names) == RECIPES


@pytest.mark.parametrize(
    ("recipe", "lr", "length", "batch_size", "masks", "mixup", "loss", "metric"),
    [
        ("audioset20k", 5e-5, ("max_epoch", 25), 12, (48, 192), 0.5, "binary_cross_entropy", "mAP"),
        ("esc50", 1e-4, ("max_epoch", 50), 48, (24, 96), 0.0, "cross_entropy", "accuracy"),
        ("speech_commands_v2", 2.5e-4, ("max_epoch", 30), 128, (48, 48), 0.6, "binary_cross_entropy", "accuracy"),
        ("speech_commands_v1", 1e-5, ("max_update", 10_000), 32, (0, 0), 0.0, "cross_entropy", "accuracy"),
        ("voxceleb1", 1e-4, ("max_update", 60_000), 32, (0, 0), 0.0, "cross_entropy", "accuracy"),
        ("iemocap", 1e-4, ("max_update", 30_000), 32, (0, 0), 0.0, "cross_entropy", "accuracy"),
    ],
)
def test_recipes_are_the_papers(recipe, lr, length, batch_size, masks, mixup, loss, metric):
    text = (EXAMPLES / "recipes" / f"finetune_{recipe}.yaml").read_text()
    assert f"  {length[0]}: {length[1]}" in text  # which the quick settings of `config` override
    cfg = config(f"finetune_{recipe}", "task.data=/data")
    assert (list(cfg.optimization.lr), cfg.dataset.batch_size) == ([lr], batch_size)
    assert (cfg.task.frequency_mask, cfg.task.time_mask, cfg.task.mixup) == (*masks, mixup)
    assert (cfg.criterion.loss, cfg.checkpoint.best_checkpoint_metric) == (loss, metric)
    assert cfg.task.multi_label == cfg.model.multi_label == (recipe == "audioset20k")
    assert (cfg.model.encoder_layers, cfg.model.encoder_embed_dim) == (12, 768)


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    data = write_tones(tmp_path_factory.mktemp("tones"))
    for kind in ("tsv", "lbl"):
        (data / f"test.{kind}").write_text((data / f"valid.{kind}").read_text())
    return data


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_trains_as_it_augments(tones, recipe):
    cfg = config(recipe, "task.data=/data")
    own = [f"task.{name}={cfg.task[name]}" for name in ("frequency_mask", "time_mask")]
    run = finetune(tones, *(f"model.{name}={value}" for name, value in TINY.items()), *own, recipe=recipe)
    assert len(run.losses) == 4
    assert all(0 < update["gnorm"] < 1e3 for update in run.logged["train_inner"])
    assert run.logged[cfg.dataset.valid_subset][0][cfg.checkpoint.best_checkpoint_metric] > 0
