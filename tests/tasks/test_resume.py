"""A run that goes on is the run that was begun, or says in one line what is not."""

import logging
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from mae_ast_fairseq.checkpoints.export import export
from mae_ast_fairseq.checkpoints.read import read_checkpoint
from mae_ast_fairseq.checkpoints.version import FORMAT, KEY
from mae_ast_fairseq.config.continuing import BATCHES, DATA, FREE, NETWORK, network
from mae_ast_fairseq.config.pretraining import MaeAstFields, PretrainingCriterionFields, PretrainingTaskFields
from mae_ast_fairseq.errors import UserError
from tests.checkpoints.released.make import DECODER, MODEL
from tests.finetuning import finetune, set_up, write_tones
from tests.processes import run_two
from tests.tiny import PATCH
from tests.training import EXAMPLES, train

FAST = ("common.bf16=false", "dataset.max_tokens=20000", "checkpoint.no_save=false")
SMALL = (*(f"model.{name}={value}" for name, value in PATCH.items()), *MODEL[4:], *DECODER)
LOGGER = "mae_ast_fairseq.tasks.resume"

NETWORK_CHANGES = {
    "ast_kernel_size_chan": 8, "ast_kernel_size_time": 2, "ast_kernel_stride_chan": 8, "ast_kernel_stride_time": 8,
    "encoder_layers": 2, "encoder_embed_dim": 16, "encoder_ffn_embed_dim": 32, "encoder_attention_heads": 4,
    "activation_fn": "relu", "layer_norm_first": "true", "normalization": "utterance",
    "decoder_type": "other", "decoder_layers": 2, "decoder_embed_dim": 16, "decoder_ffn_embed_dim": 32,
    "decoder_attention_heads": 4, "use_post_enc_proj": "true", "enc_sine_pos": "false", "dec_sine_pos": "false",
}  # fmt: skip
DATA_CHANGES = {"sample_rate": 8000, "feature_dim": 64, "normalize": "true"}
FREE_CHANGES = {
    "model": {
        "dropout": 0.3, "attention_dropout": 0.3, "activation_dropout": 0.3, "dropout_input": 0.3,
        "encoder_layerdrop": 0.3, "decoder_layerdrop": 0.3, "checkpoint_activations": "true", "random_mask_prob": 0.5,
        "mask_length": 5, "head_init_scale": 0.5, "max_token_length": 512,
    },
    "task": {
        "mask_type": "random_mask", "random_crop": "false", "max_bad_fraction": 0.5, "max_skipped_updates": 3,
        "persistent_workers": "false",
        "on_changed_data": "refuse", "read_timeout_seconds": 60, "log_reconstructions": 1,
    },
    "criterion": {"reconstruction_weight": 1, "classification_weight": 2},
    "optimizer": {"adam_betas": "'(0.5,0.6)'", "adam_eps": 0.01, "weight_decay": 0.5},
    "lr_scheduler": {
        "warmup_updates": 2, "total_num_update": 9, "end_learning_rate": 1e-9, "power": 2, "force_anneal": 1,
    },
}  # fmt: skip
BATCH_CHANGES = {
    "task.seed": 5, "task.data_weights": "'0.5'", "task.max_sample_size": 8000, "task.min_sample_size": 5000,
    "task.max_keep_size": 9500, "task.pad_audio": "false", "task.rebuild_batches": "false",
    "dataset.max_tokens": 30000, "dataset.batch_size": 1, "dataset.required_batch_size_multiple": 2,
}  # fmt: skip


def pretrain(data: Path, folder: Path, *overrides: str):
    return train("mae_ast_tiny", f"task.data={data}", f"checkpoint.save_dir={folder}", *SMALL, *FAST, *overrides)


@pytest.fixture(scope="module")
def tones(tmp_path_factory) -> Path:
    return write_tones(tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="module")
def begun(tones, tmp_path_factory) -> Path:
    """A run that was stopped within its first epoch, after three batches of more."""
    folder = tmp_path_factory.mktemp("begun")
    pretrain(tones, folder, "optimization.max_update=3")
    return folder


@pytest.fixture
def resume(begun, tones, tmp_path, caplog):
    """Go on from a copy of the run for two updates; return what its checkpoint says then, and what was logged."""

    def go_on(*overrides: str, data: Path = tones, change=None) -> tuple[dict, str]:
        folder = shutil.copytree(begun, tmp_path / "resumed")
        if change is not None:
            change(folder / "checkpoint_last.pt")
        with caplog.at_level(logging.INFO, logger=LOGGER):
            pretrain(data, folder, "optimization.max_update=5", *overrides)
        said = [record.getMessage() for record in caplog.records if record.name == LOGGER]
        return torch.load(folder / "checkpoint_last.pt", weights_only=True), "\n".join(said)

    return go_on


def place(checkpoint: dict) -> tuple[int, int]:
    state = checkpoint["extra_state"]["train_iterator"]
    return state["epoch"], state["iterations_in_epoch"]


# --- the network and the meaning of the data


def test_every_field_of_pretraining_is_tried():
    model = set(MaeAstFields.__dataclass_fields__)
    assert NETWORK_CHANGES.keys() == network(MaeAstFields()).keys()
    assert NETWORK_CHANGES.keys() | FREE_CHANGES["model"].keys() == model
    assert model & set(NETWORK) - NETWORK_CHANGES.keys() == {"max_token_length"}
    task = set(PretrainingTaskFields.__dataclass_fields__)
    tried = {name.removeprefix("task.") for name in BATCH_CHANGES}
    assert DATA_CHANGES.keys() == task & set(DATA)
    assert task & set(BATCHES) <= tried
    assert FREE_CHANGES["task"].keys() == task & set(FREE) - {"data"}
    assert FREE_CHANGES["criterion"].keys() == set(PretrainingCriterionFields.__dataclass_fields__)
    recipe = OmegaConf.load(EXAMPLES / "base" / "pretraining.yaml")
    for part in ("optimizer", "lr_scheduler"):
        assert FREE_CHANGES[part].keys() == recipe[part].keys() - {"_name"}


@pytest.mark.parametrize("name", NETWORK_CHANGES)
def test_another_network_is_one_line(resume, name):
    with pytest.raises(UserError, match=rf"model\.{name}: .* was given; expected .*checkpoint_last\.pt.*hydra\.run"):
        resume(f"model.{name}={NETWORK_CHANGES[name]}")


def test_patches_of_as_many_values_are_another_network(resume):
    with pytest.raises(UserError, match=r"ast_kernel_size_chan: 128 was given; expected 16, .*ast_kernel_size_time"):
        resume(
            *("model.ast_kernel_size_chan=128", "model.ast_kernel_stride_chan=128"),
            *("model.ast_kernel_size_time=2", "model.ast_kernel_stride_time=2"),
        )


@pytest.mark.parametrize("name", ["feature_dim"])
def test_another_meaning_of_the_data_is_one_line(resume, name):
    with pytest.raises(UserError, match=rf"task\.{name}: {DATA_CHANGES[name]} was given; expected .*last\.pt"):
        resume(f"task.{name}={DATA_CHANGES[name]}")


@pytest.mark.parametrize("name", ["sample_rate", "normalize"])
def test_other_values_of_these_are_refused_at_any_launch(resume, name):
    with pytest.raises(UserError, match=rf"task\.{name}: "):
        resume(f"task.{name}={DATA_CHANGES[name]}")


@pytest.mark.parametrize(
    "override", [f"{part}.{name}={value}" for part, each in FREE_CHANGES.items() for name, value in each.items()]
)
def test_what_is_free_goes_on_in_its_place(resume, override):
    checkpoint, said = resume(override)
    assert place(checkpoint) == (1, 5)
    assert "starts anew" not in said


def test_the_optimisers_settings_are_those_given(resume):
    checkpoint, _ = resume(*(f"optimizer.{name}={value}" for name, value in FREE_CHANGES["optimizer"].items()))
    for group in checkpoint["last_optimizer_state"]["param_groups"]:
        assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.5, 0.6), 0.01, 0.5)


def test_settings_that_an_optimiser_of_fairseq_would_bring_back_are_one_line(tones, tmp_path):
    settings = (tones, tmp_path, "optimizer._name=adam", "optimization.max_update=1")
    pretrain(*settings)
    with pytest.raises(UserError, match=r"optimizer\.weight_decay: 0\.5 was given; expected 0\.01.*reset_optimizer"):
        pretrain(*settings, "optimizer.weight_decay=0.5")


@pytest.mark.parametrize("field", ["restore_file", "finetune_from_model"])
@pytest.mark.parametrize("override", ["model.activation_fn=relu", "model.encoder_layers=2"])
def test_a_file_to_start_from_is_of_the_same_network(begun, tones, tmp_path, field, override):
    with pytest.raises(UserError, match=rf"model\.\w+: .*leave out checkpoint\.{field}"):
        pretrain(tones, tmp_path, f"checkpoint.{field}={begun}/checkpoint_last.pt", override)


def test_a_warm_start_takes_another_criterion_precision_and_schedule(begun, tones, tmp_path):
    run = pretrain(
        tones, tmp_path, f"checkpoint.finetune_from_model={begun}/checkpoint_last.pt", "common.bf16=true",
        "criterion.reconstruction_weight=0", "optimization.max_update=1",
    )  # fmt: skip
    assert run.updates[0]["num_updates"] == 1


@pytest.mark.parametrize("field", ["restore_file", "finetune_from_model"])
@pytest.mark.parametrize("precision", ["true", "false"])
def test_an_exported_checkpoint_is_gone_on_from(begun, tones, tmp_path, field, precision, caplog):
    caplog.set_level(logging.INFO, logger=LOGGER)
    export(read_checkpoint(begun / "checkpoint_last.pt"), "released", tmp_path / "start.pt")
    settings = (f"checkpoint.{field}={tmp_path}/start.pt", f"common.bf16={precision}", "optimization.max_update=1")
    assert pretrain(tones, tmp_path / "run", *settings).updates[0]["num_updates"] == 1
    assert "changed since" not in caplog.text  # of batches it says nothing


@pytest.mark.parametrize("layout", ["s3prl", "safetensors"])
def test_a_layout_that_fairseq_does_not_load_is_one_line(begun, tones, tmp_path, layout):
    export(read_checkpoint(begun / "checkpoint_last.pt"), layout, tmp_path / "start.pt")
    with pytest.raises(UserError, match=r"start\.pt: fairseq cannot start from this layout; .*--to released"):
        pretrain(tones, tmp_path / "run", f"checkpoint.finetune_from_model={tmp_path}/start.pt")


def test_another_kind_of_model_is_one_line(begun, tones):
    last = f"checkpoint.finetune_from_model={begun}/checkpoint_last.pt"
    with pytest.raises(UserError, match=r"model\._name: 'ssast' was given; expected 'mae_ast'"):
        train("ssast_patch", f"task.data={tones}", *MODEL, last)


def test_learned_positions_keep_their_number(tones, tmp_path):
    settings = (f"task.data={tones}", f"checkpoint.save_dir={tmp_path}", *MODEL, *FAST)
    train("ssast_patch", *settings, "optimization.max_update=1")
    with pytest.raises(UserError, match=r"model\.max_token_length: 256 was given; expected 128"):
        train("ssast_patch", *settings, "model.max_token_length=256")


def test_another_optimiser_is_one_line_unless_it_is_reset(resume):
    with pytest.raises(UserError, match=r"common\.bf16: True was given; expected False.*checkpoint\.reset_optimizer"):
        resume("common.bf16=true")


def test_the_command_that_started_from_another_file_goes_on_from_its_own_last(begun, tones, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="mae_ast_fairseq.tasks.patches")
    start = shutil.copytree(begun, tmp_path / "former") / "checkpoint_last.pt"
    run = (tones, tmp_path / "run", f"checkpoint.restore_file={start}")
    for last, first in ((4, 4), (6, 5)):
        assert pretrain(*run, f"optimization.max_update={last}").updates[0]["num_updates"] == first
    assert "was for the first start" in caplog.text
    start.unlink()
    assert pretrain(*run, "optimization.max_update=7").updates[0]["num_updates"] == 7
    back = shutil.copy(begun / "checkpoint_last.pt", tmp_path / "run" / "checkpoint_1_3.pt")
    run = (tones, tmp_path / "run", f"checkpoint.restore_file={back}")
    assert pretrain(*run, "optimization.max_update=4").updates[0]["num_updates"] == 4


def test_a_run_without_its_optimisers_state_is_not_begun_anew_unasked(resume):
    def drop(path):
        torch.save({**torch.load(path, weights_only=True), "last_optimizer_state": None}, path)

    with pytest.raises(UserError, match=r"last\.pt: .*no_save_optimizer_state.*hydra\.run\.dir.*reset_optimizer=true"):
        resume(change=drop)


def test_a_field_that_is_missing_or_interpolated_has_the_default(resume):
    def spoil(path):
        content = torch.load(path, weights_only=True)
        del content["cfg"]["model"]["activation_fn"]
        content["cfg"]["task"]["seed"] = "${common.seed}"
        content["cfg"]["task"]["train_subset"] = "train"
        torch.save(content, path)

    checkpoint, said = resume(change=spoil)
    assert (place(checkpoint), said) == ((1, 5), "")


def test_what_a_later_version_wrote_is_not_gone_on_from(resume):
    def write_newer(path):
        content = torch.load(path, weights_only=True)
        content["task_state"][KEY]["format"] = FORMAT + 1
        torch.save(content, path)

    with pytest.raises(UserError, match="update the package"):
        resume(change=write_newer)


@pytest.mark.parametrize(
    ("override", "line"),
    [("model.layer_decay=0.5", "model.layer_decay: 0.5 was given; expected 1.0"),
     ("model.head_lr_scale=2", "model.head_lr_scale: 2.0 was given; expected 1.0")],
)  # fmt: skip
def test_learning_rates_that_the_optimiser_holds_are_not_ignored(tones, tmp_path, override, line):
    saving = ("checkpoint.no_save=false", f"checkpoint.save_dir={tmp_path}", "optimization.max_update=1")
    finetune(tones, *saving, "model.layer_decay=1", "model.head_lr_scale=1")
    with pytest.raises(UserError, match=line):
        set_up(tones, *saving, "model.layer_decay=1", "model.head_lr_scale=1", override)


# --- the place in an epoch


@pytest.mark.parametrize("name", BATCH_CHANGES)
def test_other_batches_start_the_epoch_anew(resume, name):
    checkpoint, said = resume(f"{name}={BATCH_CHANGES[name]}")
    assert f"{name}: " in said
    assert "epoch 1, which it left after 3 batches, starts anew" in said
    assert place(checkpoint) == (1, 2)


@pytest.mark.parametrize("num_train", [5, 40])
def test_another_corpus_starts_the_epoch_anew(resume, tmp_path, num_train):
    checkpoint, said = resume(data=write_tones(tmp_path / "other", num_train=num_train))
    assert f"corpus: 24 -> {num_train} clips in train.tsv" in said
    assert "starts anew" in said
    assert place(checkpoint) in [(1, 2), (2, 0)]


def test_another_order_of_the_corpus_is_another_corpus(resume, tones, tmp_path):
    for name in ("train.tsv", "valid.tsv"):
        root, *rows = (tones / name).read_text().splitlines()
        (tmp_path / name).write_text("\n".join([root, *(reversed(rows) if name == "train.tsv" else rows), ""]))
    assert "24 clips in train.tsv, but other files, lengths, labels or order" in resume(data=tmp_path)[1]


def test_the_same_corpus_elsewhere_is_the_same(resume, tones, tmp_path):
    for name in ("train.tsv", "valid.tsv"):
        shutil.copy(tones / name, tmp_path)
    checkpoint, said = resume(data=tmp_path)
    assert (place(checkpoint), said) == ((1, 5), "")


def test_a_changed_corpus_is_refused_where_that_was_chosen(resume, tmp_path):
    data = write_tones(tmp_path / "other", num_train=40)
    with pytest.raises(UserError, match=r"24 -> 40 clips in train\.tsv.*set task\.on_changed_data=restart"):
        resume("task.on_changed_data=refuse", data=data)


def test_a_smaller_corpus_of_an_older_run_starts_the_epoch_anew(resume, tmp_path):
    _, said = resume(data=write_tones(tmp_path / "other", num_train=5), change=of_former_version)
    assert "batches in epoch 1: more than 3 -> " in said


def of_former_version(path):
    content = torch.load(path, weights_only=True)
    content["task_state"] = {}
    torch.save(content, path)


def test_the_same_data_and_weights_written_otherwise_are_the_same(tones, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(shutil.copytree(tones, tmp_path / "20241101").parent)
    folder = tmp_path / "run"
    pretrain(20241101, folder, "task.data_weights=1", "optimization.max_update=1")
    task = torch.load(folder / "checkpoint_last.pt", weights_only=True)["cfg"]["task"]
    assert (task["data"], task["data_weights"]) == ("20241101", [1.0])
    with caplog.at_level(logging.INFO, logger=LOGGER):
        pretrain("[20241101]", folder, "task.data_weights=['1']", "optimization.max_update=2")
    content = torch.load(folder / "checkpoint_last.pt", weights_only=True)
    assert place(content) == (1, 2)
    content["cfg"]["task"] |= {"data": [20241101], "data_weights": "1.0"}  # as a former version wrote them
    torch.save(content, folder / "checkpoint_last.pt")
    read_checkpoint(folder / "checkpoint_last.pt")
    with caplog.at_level(logging.INFO, logger=LOGGER):
        pretrain(f"{tmp_path}/20241101/", folder, "task.data_weights=[1]", "optimization.max_update=3")
    assert place(torch.load(folder / "checkpoint_last.pt", weights_only=True)) == (1, 3)
    assert "starts anew" not in caplog.text
    assert "chosen anew" not in caplog.text


def test_notes_of_clips_in_another_form_are_not_read(resume):
    def write_otherwise(path):
        content = torch.load(path, weights_only=True)
        content["task_state"][KEY]["clips"] = {"train": {"num_clips": "24"}, "valid": None, "test": {"new": 1}}
        torch.save(content, path)

    checkpoint, said = resume(change=write_otherwise)
    assert (place(checkpoint), said) == ((1, 5), "")


def test_another_subset_is_named_by_its_field(resume):
    _, said = resume("dataset.train_subset=valid")
    assert "dataset.train_subset: train -> valid" in said
    assert "train.tsv" not in said


def test_between_epochs_a_changed_corpus_is_mentioned(tones, tmp_path, caplog):
    pretrain(tones, tmp_path / "run", "optimization.max_update=100", "optimization.max_epoch=1")
    data = write_tones(tmp_path / "other", num_train=40)
    with caplog.at_level(logging.INFO, logger=LOGGER):
        pretrain(data, tmp_path / "run", "optimization.max_update=100", "optimization.max_epoch=2")
    said = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert any("24 -> 40 clips in train.tsv; epoch 2 begins with it" in line for line in said)


# --- the best score


def best_of(folder: Path) -> float:
    return torch.load(folder / "checkpoint_last.pt", weights_only=True)["extra_state"]["best"]


def with_unbeatable_best(begun, folder: Path) -> Path:
    content = torch.load(begun / "checkpoint_last.pt", weights_only=True)
    content["extra_state"]["best"] = 1e-9
    torch.save(content, folder / "start.pt")
    return folder / "start.pt"


@pytest.mark.parametrize("changed", ["nothing", "data", "metric", "weight"])
def test_the_best_is_chosen_anew_where_it_cannot_be_compared(begun, tones, tmp_path, changed):
    start, data, override = with_unbeatable_best(begun, tmp_path), tones, []
    if changed == "data":
        data = write_tones(tmp_path / "other", num_train=40, num_valid=6)
    elif changed == "metric":
        override = ["checkpoint.best_checkpoint_metric=loss_recon"]
    elif changed == "weight":
        override = ["criterion.reconstruction_weight=1"]
    pretrain(data, tmp_path / "run", f"checkpoint.restore_file={start}", "optimization.max_update=5", *override)
    assert (tmp_path / "run" / "checkpoint_best.pt").is_file() == (changed != "nothing")
    assert (best_of(tmp_path / "run") == 1e-9) == (changed == "nothing")


@pytest.mark.parametrize("field", ["restore_file", "finetune_from_model"])
def test_flipped_bits_of_a_file_to_start_from_are_found(begun, tones, tmp_path, field):
    content = bytearray((begun / "checkpoint_last.pt").read_bytes())
    content[len(content) // 2] ^= 4
    (tmp_path / "flipped.pt").write_bytes(content)
    with pytest.raises(UserError, match=rf"checkpoint\.{field}: {tmp_path}/flipped\.pt: its record .* is damaged"):
        pretrain(tones, tmp_path / "run", f"checkpoint.{field}={tmp_path}/flipped.pt")


# --- several processes


@pytest.mark.slow
def test_another_number_of_processes_starts_the_epoch_anew(begun, tones, tmp_path):
    codes, outputs = run_two(
        "mae_ast_tiny", tones, tmp_path, *SMALL, "common.bf16=false", "dataset.max_tokens=20000", "common.cpu=true",
        "common.log_interval=1", "optimization.max_update=5", "task.max_bad_fraction=0.2",
        f"checkpoint.restore_file={begun}/checkpoint_last.pt",
    )  # fmt: skip
    assert codes == [0, 0], outputs[0][-2000:] + outputs[1][-2000:]
    line = "distributed_training.distributed_world_size: 1 -> 2; epoch 1, which it left after 3 batches, starts anew"
    assert [line in output for output in outputs] == [True, False]
