"""Whole runs of fairseq's training loop on a small corpus."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mae_ast_fairseq.models.mae_ast import MaeAstModel
from tests.training import EXAMPLES, SMALL, SMALL_ENCODER, config, train

ROOT = EXAMPLES.parent
FLOAT32 = "common.bf16=false"
PRETRAINING_RECIPES = sorted(path.stem for path in EXAMPLES.glob("*ast_*.yaml") if not path.stem.startswith("finetune"))


def test_training_lowers_both_losses_and_beats_chance(corpus):
    settings = ("optimization.max_update=400", "optimization.lr=[0.002]", "lr_scheduler.warmup_updates=20")
    run = train("mae_ast_tiny", f"task.data={corpus}", *SMALL, *settings)

    def at_the_end(name):
        return sum(update[name] for update in run.updates[-20:]) / 20

    assert at_the_end("loss_recon") < 0.75 * run.updates[0]["loss_recon"]
    assert at_the_end("loss_info_nce") < run.updates[0]["loss_info_nce"] - 0.5
    assert at_the_end("info_nce_accuracy") > 1.5 * at_the_end("info_nce_chance")
    assert run.validations[-1]["valid_loss"] < run.validations[0]["valid_loss"]


def test_a_collapse_is_said_once_with_its_mend(corpus, caplog):
    settings = ("model.head_init_scale=1", "optimization.lr=[0.0007]", "lr_scheduler.warmup_updates=150")
    validations = ("optimization.max_update=190", "dataset.validate_interval=3")
    run = train("mae_ast_tiny", f"task.data={corpus}", FLOAT32, *settings, *validations)
    assert run.validations[0]["valid_token_spread"] > 0.4
    assert run.validations[-1]["valid_token_spread"] < 0.2
    assert run.validations[-1]["valid_loss"] < run.validations[0]["valid_loss"]
    assert abs(run.validations[-1]["valid_content_gain"]) < 0.05
    said = [record.getMessage() for record in caplog.records if "collapsed" in record.getMessage()]
    assert len(said) == 1
    assert "token_spread" in said[0]
    assert "model.head_init_scale=0.01" in said[0]


@pytest.mark.parametrize("recipe", PRETRAINING_RECIPES)
@pytest.mark.parametrize("pad_audio", ["true", "false"])
def test_every_recipe_trains_padded_and_cropped(corpus, recipe, pad_audio):
    small = SMALL_ENCODER if recipe.startswith("ssast") else SMALL
    run = train(recipe, f"task.data={corpus}", *small, f"task.pad_audio={pad_audio}", "dataset.max_tokens=300000")
    assert len(run.losses) == 4
    assert run.updates[-1]["num_updates"] == 4
    assert all(0 < update["gnorm"] < 1e4 for update in run.updates)
    assert any(update["padding_share"] > 0 for update in run.updates) == (pad_audio == "true")


@pytest.mark.parametrize("mask_type", ["random_mask", "random_mask_batched", "chunk_mask"])
def test_every_mask_type_trains(corpus, mask_type):
    run = train("mae_ast_tiny", f"task.data={corpus}", *SMALL, f"task.mask_type={mask_type}", "task.pad_audio=false")
    assert all(0 < update["loss_info_nce"] < 20 for update in run.updates)


def test_each_run_of_a_process_has_curves_of_its_own(corpus, tmp_path):
    for name in ("one", "two"):  # as of a sweep
        train("mae_ast_tiny", f"task.data={corpus}", *SMALL, f"common.tensorboard_logdir={tmp_path / name}")
    files = [sorted(path.parent.name for path in (tmp_path / name).rglob("events.*")) for name in ("one", "two")]
    assert files[0] == files[1] == ["train", "train_inner", "valid"]


def test_accumulated_batches_make_one_update(corpus):
    run = train(
        "mae_ast_tiny", f"task.data={corpus}", *SMALL, "optimization.update_freq=[2]", "optimization.max_update=3"
    )
    assert len(run.losses) == 6
    assert run.updates[-1]["num_updates"] == 3


def test_the_model_sees_float32_frames_under_bf16(corpus, monkeypatch):
    seen = []
    forward = MaeAstModel.forward

    def spy(self, source, *args, **kwargs):
        seen.append((source.dtype, self.post_extract_proj.weight.dtype, self.batch_norm.running_mean.dtype))
        return forward(self, source, *args, **kwargs)

    monkeypatch.setattr(MaeAstModel, "forward", spy)
    train("mae_ast_tiny", f"task.data={corpus}", *SMALL, "common.bf16=true")
    assert set(seen) == {(torch.float32, torch.bfloat16, torch.float32)}


@pytest.mark.parametrize("bf16", ["false", "true"])
@pytest.mark.parametrize("optimizer", ["fused_adam", "adam"])
def test_a_resumed_run_repeats_the_uninterrupted_one_to_the_bit(corpus, tmp_path, bf16, optimizer):
    def run(folder, max_update):
        return train(
            "mae_ast_tiny", f"task.data={corpus}", *SMALL, f"common.bf16={bf16}", f"optimizer._name={optimizer}",
            f"checkpoint.save_dir={tmp_path / folder}",
            "checkpoint.no_save=false", "model.encoder_layerdrop=0.3", "model.dropout=0.1",
            f"optimization.max_update={max_update}", "lr_scheduler.total_num_update=100",
        )  # fmt: skip

    uninterrupted = run("one", 22).losses  # some 8 batches an epoch: into the third
    assert run("two", 13).losses + run("two", 22).losses == uninterrupted


def test_checkpoints_hold_tensors_and_plain_values_and_no_positions(corpus, tmp_path):
    train("mae_ast_tiny", f"task.data={corpus}", *SMALL, f"checkpoint.save_dir={tmp_path}", "checkpoint.no_save=false")
    checkpoint = torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)
    assert not [name for name in checkpoint["model"] if "sine_pos" in name]
    assert checkpoint["model"]["batch_norm.running_mean"].dtype is torch.float32
    num_parameters = sum(tensor.numel() for tensor in checkpoint["model"].values())
    size = (tmp_path / "checkpoint_last.pt").stat().st_size
    assert size < 1.05 * num_parameters * 4 * 4 + 100_000  # weights, their float32 masters and two moments


def fairseq_hydra_train(*arguments, cwd=ROOT):
    command = Path(sys.executable).with_name("fairseq-hydra-train")
    environment = {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"}
    return subprocess.run(
        [command, "--config-dir", EXAMPLES, "--config-name", "mae_ast_tiny", *arguments],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.slow
def test_the_command_trains_from_the_clone_with_a_relative_data_folder(corpus, tmp_path):
    done = fairseq_hydra_train(
        f"task.data={os.path.relpath(corpus, ROOT)}", f"hydra.run.dir={tmp_path}", *SMALL, "optimization.max_update=3",
        "common.log_interval=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "update 3, valid: loss" in done.stderr
    assert (tmp_path / "checkpoints" / "checkpoint_last.pt").is_file()
    assert list((tmp_path / "tensorboard").rglob("events.*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["task.data=/no/such/folder"], "/no/such/folder"),
        ([], "task.data: nothing was given"),
        (
            ["task.data={corpus}", "checkpoint.restore_file=gone.pt"],
            "checkpoint.restore_file: there is no file gone.pt",
        ),
        (["task.data={corpus}", "task.mask_type=squares"], "task.mask_type: 'squares' is unknown; expected one of"),
        (["task.data={corpus}", "task.mask_typ=chunk_mask"], "mask_typ"),
    ],
)
def test_a_persons_mistake_ends_the_command_with_its_message_and_no_traceback(corpus, tmp_path, arguments, message):
    arguments = [argument.format(corpus=corpus) for argument in arguments]
    done = fairseq_hydra_train(*arguments, f"hydra.run.dir={tmp_path}")
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_fairseq_validate_reads_a_checkpoint(corpus, tmp_path):
    train("mae_ast_tiny", f"task.data={corpus}", *SMALL, f"checkpoint.save_dir={tmp_path}", "checkpoint.no_save=false")
    done = subprocess.run(
        [
            Path(sys.executable).with_name("fairseq-validate"), corpus, "--user-dir", ROOT / "mae_ast_fairseq", "--cpu",
            "--task", "mae_ast_pretraining", "--path", tmp_path / "checkpoint_last.pt", "--valid-subset", "valid",
            "--max-tokens", "300000", "--num-workers", "0",
        ],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "token_spread" in done.stdout


@pytest.mark.parametrize("recipe", ["mae_ast_patch", "mae_ast_frame"])
def test_full_recipes_are_the_papers(recipe):
    cfg = config(recipe, "task.data=/data")
    assert cfg.model.encoder_layers == 12 and cfg.model.decoder_layers == 2
    assert cfg.model.encoder_embed_dim == cfg.model.decoder_embed_dim == 768
    assert cfg.model.random_mask_prob == 0.75
    assert cfg.task.max_sample_size == 250_000
    assert cfg.optimizer.adam_betas == "(0.9,0.98)" and cfg.optimizer.adam_eps == 1e-6
    assert cfg.optimization.lr == [1e-4] and cfg.optimization.clip_norm == 10
    assert (cfg.criterion.reconstruction_weight, cfg.criterion.classification_weight) == (10, 1)


@pytest.mark.parametrize("kind", ["patch", "frame"])
def test_ssast_is_compared_under_the_same_recipe(kind):
    ours, theirs = config(f"mae_ast_{kind}", "task.data=/data"), config(f"ssast_{kind}", "task.data=/data")
    for part in ("task", "criterion", "optimization", "optimizer", "lr_scheduler", "dataset"):
        assert ours[part] == theirs[part]
    differing = {name for name in theirs.model if theirs.model[name] != ours.model[name]}
    assert differing == {"_name", "max_token_length"}


def weights_of(path):
    return torch.load(path, weights_only=True)["model"]


def test_a_warm_start_takes_the_weights_of_an_own_checkpoint_and_begins_anew(corpus, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    settings = (f"task.data={corpus}", *SMALL, FLOAT32, "checkpoint.no_save=false")
    train("mae_ast_tiny", *settings, f"checkpoint.save_dir={first}")
    run = train(
        "mae_ast_tiny", *settings, f"checkpoint.save_dir={second}", "optimization.lr=[0]", "optimization.max_update=1",
        f"checkpoint.finetune_from_model={first}/checkpoint_last.pt",
    )  # fmt: skip
    assert run.updates[0]["num_updates"] == 1
    taken = weights_of(second / "checkpoint_last.pt")
    for name, weight in weights_of(first / "checkpoint_last.pt").items():
        assert torch.equal(taken[name], weight), name


def test_a_warm_start_takes_a_released_checkpoint_with_its_statistics(golden, corpus, tmp_path):
    released = golden / "released_patch_random.pt"
    train(
        "mae_ast_patch", f"task.data={corpus}", *SMALL, "model.encoder_layers=3", "model.decoder_layers=2",
        "checkpoint.no_save=false", f"checkpoint.save_dir={tmp_path}", "optimization.lr=[0]",
        "optimization.max_update=1", "dataset.max_tokens=300000", f"checkpoint.finetune_from_model={released}",
    )  # fmt: skip
    taken, weights = weights_of(tmp_path / "checkpoint_last.pt"), weights_of(released)
    assert taken["batch_norm.running_mean"].item() == pytest.approx(-4.19)
    for name in taken:
        assert torch.equal(taken[name], weights[name]), name
