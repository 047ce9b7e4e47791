"""From labelled clips to a classifier that needs nothing but its checkpoint."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from fairseq import checkpoint_utils
from sklearn.metrics import average_precision_score

from mae_ast_fairseq.checkpoints.folder import export_folder
from mae_ast_fairseq.checkpoints.read import build_model, read_checkpoint
from mae_ast_fairseq.errors import UserError
from mae_ast_fairseq.evaluation.metrics import METRICS, Metric, accuracy
from tests.finetuning import PITCHES, RECIPE, finetune, pretrained, set_up, validate, write_tones
from tests.tiny import PATCH, padded_batch
from tests.training import config


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    return write_tones(tmp_path_factory.mktemp("tones"))


def copied(tones, folder):
    """A copy of the manifests and labels, to be spoilt."""
    folder.mkdir(exist_ok=True)
    for file in tones.iterdir():
        if file.is_file():
            shutil.copy(file, folder)
    return folder


def saving(folder):
    return "checkpoint.no_save=false", f"checkpoint.save_dir={folder}"


# --- a whole run


@pytest.fixture(scope="module")
def finetuned(tones, tmp_path_factory):
    """The folder of a run from a pretrained checkpoint, which is gone, and what happened in it."""
    folder = tmp_path_factory.mktemp("run")
    data = copied(tones, folder / "data")
    file = pretrained(folder / "pretrained.pt", encoder_layers=3)
    run = finetune(
        data, *saving(folder), f"model.pretrained={file}", "optimization.max_update=40", "optimization.lr=[0.003]",
        "checkpoint.best_checkpoint_metric=mAP",
    )  # fmt: skip
    file.unlink()
    shutil.rmtree(data)
    return folder, run


def test_fine_tuning_learns_the_pitch(finetuned):
    _, run = finetuned
    assert run.logged["valid"][-1]["accuracy"] == 1.0
    assert run.logged["valid"][-1]["loss"] < run.logged["valid"][0]["loss"] - 0.2
    assert run.logged["valid"][-1]["best_mAP"] == max(one["mAP"] for one in run.logged["valid"])


def test_every_metric_is_logged_from_the_first_validation_on(finetuned):
    _, run = finetuned
    assert set(METRICS) <= set(run.logged["valid"][0])


def test_balanced_classes_in_batches_limited_by_their_samples(tones):
    run = finetune(tones, "task.balanced=true", "dataset.max_tokens=100000", "dataset.batch_size=null")
    assert len(run.logged["train_inner"]) == 4


def test_the_checkpoint_says_all_about_itself(finetuned):
    folder, _ = finetuned
    content = torch.load(folder / "checkpoint_best.pt", weights_only=True)
    assert content["cfg"]["model"]["labels"] == list(PITCHES)
    assert content["cfg"]["model"]["encoder_layers"] == 3  # the pretrained model's, not the recipe's 2
    checkpoint = read_checkpoint(folder / "checkpoint_best.pt")
    assert (checkpoint.kind, checkpoint.model.labels) == ("mae_ast_classifier", list(PITCHES))


CODE = """
import json, sys, torch
import mae_ast_fairseq
from fairseq import checkpoint_utils
torch.set_num_threads(1)
models, cfg, task = checkpoint_utils.load_model_ensemble_and_task([sys.argv[1]])
batch = torch.load(sys.argv[2], weights_only=True)
with torch.no_grad():
    logits = models[0].eval()(**batch)
print(json.dumps({"labels": list(cfg.model.labels), "logits": logits.tolist()}))
"""


def test_a_fresh_process_gives_the_logits_to_the_bit_with_neither_data_nor_pretrained_file(finetuned, tmp_path):
    folder, _ = finetuned
    path = str(folder / "checkpoint_last.pt")
    batch = padded_batch([80, 50, 33])
    torch.save(batch, tmp_path / "batch.pt")
    models, _, _ = checkpoint_utils.load_model_ensemble_and_task([path])
    with torch.no_grad():
        ours, plain = models[0].eval()(**batch), build_model(read_checkpoint(path))(**batch)
    done = subprocess.run(
        [sys.executable, "-c", CODE, path, tmp_path / "batch.pt"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    fresh = json.loads(done.stdout.splitlines()[-1])
    assert fresh["labels"] == list(PITCHES)
    assert torch.equal(torch.tensor(fresh["logits"]), ours)
    assert torch.equal(plain, ours)


def test_the_figures_are_scikit_learns_over_the_reloaded_models_scores(finetuned, tones):
    folder, run = finetuned
    task, _, _ = set_up(tones)
    task.load_dataset("valid")
    dataset = task.dataset("valid")
    model = build_model(read_checkpoint(folder / "checkpoint_last.pt"))
    with torch.no_grad():
        batches = [dataset.collater([dataset[index]]) for index in range(len(dataset))]
        scores = torch.cat([model(**batch["net_input"]).softmax(dim=1) for batch in batches])
    targets = torch.cat([batch["target"].plain for batch in batches])
    expected = average_precision_score(targets, scores, average="macro")
    assert run.logged["valid"][-1]["mAP"] == pytest.approx(expected, abs=1e-5)


def test_the_file_that_a_run_began_with_may_have_gone(finetuned, tones):
    path = str(finetuned[0] / "checkpoint_last.pt")
    gone = {"restore_file": "/gone.pt", "data": str(tones)}
    _, _, task = checkpoint_utils.load_model_ensemble_and_task([path], arg_overrides=gone)
    task.load_dataset("valid")
    assert len(task.dataset("valid")) == 9


def test_fairseqs_validation_command_shows_every_metric_of_the_whole_set(finetuned, tones):
    folder, run = finetuned
    subsets = ("dataset.valid_subset='valid,train'", "dataset.batch_size=4")  # three batches of 9 clips, and six of 24
    shown = validate(folder / "checkpoint_last.pt", tones, *subsets)
    expected = {name: pytest.approx(run.logged["valid"][-1][name], abs=1e-5) for name in METRICS}
    assert {name: shown["valid"].get(name) for name in METRICS} == expected
    assert set(METRICS) <= set(shown["train"])


def test_a_validation_of_a_few_batches_shows_the_metrics_of_these(tones):
    run = finetune(tones, "optimization.max_update=1", "dataset.batch_size=4", "++dataset.max_valid_steps=1")
    assert set(METRICS) <= set(run.logged["valid"][0])


# --- how it trains


@pytest.mark.parametrize("metric", METRICS)
def test_any_metric_chooses_the_best_checkpoint(tones, tmp_path, metric):
    run = finetune(
        tones, *saving(tmp_path), f"checkpoint.best_checkpoint_metric={metric}", "optimization.max_update=1",
        "checkpoint.no_last_checkpoints=true",
    )  # fmt: skip
    saved = torch.load(tmp_path / "checkpoint_best.pt", weights_only=True)
    assert saved["extra_state"]["best"] == pytest.approx(run.logged["valid"][0][metric], abs=1e-5)


def test_a_metric_is_added_by_an_entry_and_chooses_the_best_checkpoint(tones, tmp_path, monkeypatch):
    def error_rate(scores, has_label):
        return 1 - accuracy(scores, has_label)

    monkeypatch.setitem(METRICS, "error_rate", Metric(error_rate, maximize=False))
    run = finetune(
        tones, *saving(tmp_path), "checkpoint.best_checkpoint_metric=error_rate", "optimization.max_update=1",
    )  # fmt: skip
    (logged,) = run.logged["valid"]
    assert logged["error_rate"] == pytest.approx(1 - logged["accuracy"], abs=1e-5)
    saved = torch.load(tmp_path / "checkpoint_best.pt", weights_only=True)
    assert saved["extra_state"]["best"] == pytest.approx(logged["error_rate"], abs=1e-5)


def test_a_run_forgets_the_best_of_the_one_before(tones):
    checkpoint_utils.save_checkpoint.best = 2.0  # as hydra's multirun leaves it
    run = finetune(tones, "optimization.max_update=6")
    assert "best_accuracy" not in run.logged["valid"][0]


def test_a_resumed_run_repeats_the_uninterrupted_one_to_the_bit(tones, tmp_path):
    file = pretrained(tmp_path / "pretrained.pt")

    def run(folder, max_update):
        return finetune(
            tones, *saving(tmp_path / folder), f"model.pretrained={file}", f"optimization.max_update={max_update}",
            "lr_scheduler.max_update=100", "task.mixup=0.5", "task.time_mask=8", "model.dropout=0.1",
            "model.freeze_finetune_updates=2",
        ).losses  # fmt: skip

    uninterrupted = run("one", 8)
    first = run("two", 5)
    file.unlink()  # which a run that is continued does not need
    assert first + run("two", 8) == uninterrupted


@pytest.mark.parametrize("precision", ["common.bf16=false", "common.bf16=true"])
def test_a_linear_probe_leaves_the_encoder_as_it_was(tones, tmp_path, precision):
    file = pretrained(tmp_path / "pretrained.pt")
    before = read_checkpoint(file).state
    run = finetune(
        tones, *saving(tmp_path), f"model.pretrained={file}", "model.freeze_finetune_updates=1000000000",
        "optimization.max_update=10", "optimization.lr=[0.01]", "optimizer.weight_decay=0.1", precision,
    )  # fmt: skip
    after = read_checkpoint(tmp_path / "checkpoint_last.pt").state
    for name in after.keys() & before.keys():
        trained_as = torch.bfloat16 if "true" in precision and "batch_norm" not in name else before[name].dtype
        assert torch.equal(after[name].to(trained_as), before[name].to(trained_as)), name
    assert run.logged["valid"][-1]["loss"] < run.logged["valid"][0]["loss"]


def test_every_layer_has_its_learning_rate(tones):
    _, model, _ = set_up(tones, "model.layer_decay=0.5", "model.head_lr_scale=3")
    scales = {name: each.optim_overrides["optimizer"]["lr_scale"] for name, each in model.named_parameters()}
    assert scales["head.weight"] == 3.0
    assert scales["encoder.layers.1.fc1.weight"] == 0.5
    assert scales["encoder.layers.0.fc1.weight"] == 0.25
    assert scales["post_extract_proj.weight"] == 0.125


def test_statistics_come_from_the_checkpoint_or_the_data(tones, tmp_path):
    task, model, _ = set_up(tones, f"model.pretrained={pretrained(tmp_path / 'a.pt')}")
    assert float(model.batch_norm.running_mean) == -6.0
    task, model, _ = set_up(tones)
    assert not model.batch_norm.is_set
    task.load_dataset("train")
    task.begin_epoch(1, model)
    assert model.batch_norm.is_set


@pytest.mark.parametrize("kind", ["mae_ast", "ssast", "mae_ast_classifier"])
def test_the_encoder_of_any_of_our_models_is_taken(tones, tmp_path, kind):
    changes = {"labels": ["x", "y"]} if kind == "mae_ast_classifier" else {}
    file = pretrained(tmp_path / "a.pt", kind, encoder_layers=3, layer_norm_first=True, **changes)
    _, model, cfg = set_up(tones, f"model.pretrained={file}", "model.dropout=0.25")
    state, expected = model.state_dict(), read_checkpoint(file).state
    assert all(torch.equal(state[name], expected[name]) for name in state if not name.startswith("head."))
    assert cfg.model.positions == ("learned" if kind == "ssast" else "sinusoidal")
    assert (cfg.model.encoder_layers, cfg.model.layer_norm_first, cfg.model.dropout) == (3, True, 0.25)


def test_labels_that_are_given_too_leave_the_pretrained_weights_in_place(tones, tmp_path):
    file = pretrained(tmp_path / "a.pt")
    _, model, _ = set_up(tones, f"model.pretrained={file}", "model.labels=[low,middle,high]")
    weight = read_checkpoint(file).state["encoder.layers.0.fc1.weight"]
    assert torch.equal(model.state_dict()["encoder.layers.0.fc1.weight"], weight)


def test_what_the_checkpoint_overrides_is_logged(tones, tmp_path, caplog):
    file = pretrained(tmp_path / "a.pt", encoder_layers=3)
    with caplog.at_level("INFO"):
        set_up(tones, f"model.pretrained={file}")
    assert "a.pt sets model.encoder_layers=3 (not 2)" in caplog.text


def test_a_released_checkpoint_is_taken(golden, tones):
    file = golden / "released_patch_random.pt"
    _, model, _ = set_up(tones, f"model.pretrained={file}")
    weights = torch.load(file, weights_only=True)["model"]
    assert torch.equal(model.state_dict()["encoder.layers.0.fc1.weight"], weights["encoder.layers.0.fc1.weight"])


def test_a_folder_for_the_hub_is_taken(tones, tmp_path):
    file, folder = pretrained(tmp_path / "a.pt", encoder_layers=3), tmp_path / "model"
    folder.mkdir()
    export_folder(read_checkpoint(file), folder)
    _, model, _ = set_up(tones, f"model.pretrained={folder}")
    weights = torch.load(file, weights_only=True)["model"]
    assert torch.equal(model.state_dict()["encoder.layers.2.fc1.weight"], weights["encoder.layers.2.fc1.weight"])


def test_overlapping_patches_train_after_ssast(tones, tmp_path):
    strides = ("model.ast_kernel_stride_chan=8", "model.ast_kernel_stride_time=8")
    file = pretrained(tmp_path / "a.pt", "ssast")
    run = finetune(tones, *saving(tmp_path), f"model.pretrained={file}", *strides, "optimization.max_update=3")
    assert len(run.losses) == 3
    assert read_checkpoint(tmp_path / "checkpoint_last.pt").state["positions.table"].shape == (225, 48)


def test_the_sets_of_several_folders_are_joined(tones, tmp_path):
    task, _, _ = set_up(f"{tones}:{copied(tones, tmp_path)}")
    task.load_dataset("train")
    assert len(task.dataset("train")) == 48


# --- what a person gives


def spoilt(tones, folder, name, change):
    data = copied(tones, folder)
    lines = (data / name).read_text().splitlines()
    change(lines)
    (data / name).write_text("\n".join([*lines, ""]))
    return data


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("train.lbl", lambda lines: lines.pop(), r"train\.lbl:24: .*24"),
        ("train.lbl", lambda lines: lines.__setitem__(4, "shrill"), r"train\.lbl:5: .*shrill"),
        ("train.lbl", lambda lines: lines.__setitem__(4, ""), r"train\.lbl:5: "),
        ("train.lbl", lambda lines: lines.__setitem__(4, "low,high"), r"train\.lbl:5: .*task\.multi_label=true"),
        ("labels.txt", lambda lines: lines.append("shrill"), r"labels\.txt:4: .*shrill"),
        ("labels.txt", lambda lines: lines.append("low"), r"labels\.txt:4: .*low"),
    ],
)
def test_wrong_labels_are_named_with_their_line(tones, tmp_path, name, change, message):
    data = spoilt(tones, tmp_path / "data", name, change)
    with pytest.raises(UserError, match=message):
        set_up(data)[0].load_dataset("train")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task.data=/gone"], r"task\.data: there is no folder /gone"),
        (["model.pretrained=gone.pt"], r"model\.pretrained: there is no file gone\.pt"),
        (["checkpoint.finetune_from_model=a.pt"], r"checkpoint\.finetune_from_model: .*model\.pretrained=a\.pt"),
        (["task.sample_rate=8000"], r"task\.sample_rate: 8000 was given"),
        (["model.labels=[low,high]"], r"model\.labels: low, high was given; expected .* low, middle, high"),
        (["task.mixup=2"], r"task\.mixup: 2"),
        (["task.label_smoothing=1"], r"task\.label_smoothing: 1"),
        (["task.max_bad_fraction=2"], r"task\.max_bad_fraction: 2"),
        (["task.fixed_size=0"], r"task\.fixed_size: 0"),
        (["task.fixed_size=16000"], r"task\.fixed_size: 16000 was given with task\.max_sample_size=32000"),
        (["model.positions=learned", "model.max_token_length=100"], r"model\.max_token_length: 100"),
    ],
)
def test_a_wrong_field_is_named(tones, tmp_path, monkeypatch, overrides, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pt").touch()
    with pytest.raises(UserError, match=message):
        set_up(tones, *overrides)


def test_overlap_after_mae_ast_is_refused(tones, tmp_path):
    file = pretrained(tmp_path / "a.pt")
    with pytest.raises(UserError, match="make patches overlap"):
        set_up(tones, f"model.pretrained={file}", "model.ast_kernel_stride_time=8")


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04"])
def test_a_pretrained_file_that_is_no_checkpoint_is_refused(tones, tmp_path, content):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.pt: "):
        set_up(tones, f"model.pretrained={tmp_path / 'a.pt'}")


def test_a_run_is_not_continued_with_other_labels(finetuned, tones, tmp_path):
    data = spoilt(tones, tmp_path / "data", "labels.txt", lambda lines: lines.append("shrill"))
    last = f"checkpoint.restore_file={finetuned[0] / 'checkpoint_last.pt'}"
    with pytest.raises(UserError, match=r"its 4 labels are not the 3 of .*shrill not in its head"):
        set_up(data, last)
    data = spoilt(tones, tmp_path / "data", "labels.txt", lambda lines: lines.reverse())
    with pytest.raises(UserError, match="the order differs"):
        set_up(data, last)


def test_a_checkpoint_of_another_kind_is_not_continued(tones, tmp_path):
    file = pretrained(tmp_path / "a.pt", "ssast")
    with pytest.raises(UserError, match=r"is a checkpoint of ssast; expected .*set model\.pretrained=.*a\.pt"):
        set_up(tones, f"checkpoint.restore_file={file}")
    shutil.copy(file, tmp_path / "checkpoint_last.pt")
    with pytest.raises(UserError, match=r"^hydra\.run\.dir: .*is a checkpoint of ssast; .*another folder by hydra"):
        set_up(tones, f"checkpoint.save_dir={tmp_path}")


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("model.encoder_attention_heads=2", r"model\.encoder_attention_heads: 2 was given; expected 4"),
        ("model.positions=none", r"model\.positions: 'none' was given; expected 'sinusoidal'"),
        ("model.readout=mean+max", r"model\.readout: 'mean\+max' was given; expected 'mean'"),
        ("model.readout_layers=all", r"model\.readout_layers: 'all' was given; expected 'last'"),
        ("task.multi_label=true", r"task\.multi_label: True was given; expected False"),
    ],
)
def test_a_run_from_scratch_is_not_continued_in_another_network(tones, tmp_path, override, line):
    finetune(tones, *saving(tmp_path), "optimization.max_update=1")
    last = f"checkpoint.restore_file={tmp_path / 'checkpoint_last.pt'}"
    with pytest.raises(UserError, match=line + r".*checkpoint_last\.pt.*leave out checkpoint\.restore_file"):
        set_up(tones, last, override)


def test_a_readout_stays_that_of_the_run_whose_encoder_was_pretrained(finetuned, tones):
    with pytest.raises(UserError, match=r"model\.readout: 'mean\+max' was given; expected 'mean'"):
        set_up(tones, f"checkpoint.restore_file={finetuned[0] / 'checkpoint_last.pt'}", "model.readout=mean+max")


def test_what_a_checkpoint_sets_is_not_given_otherwise_on_the_command_line(finetuned, tones, tmp_path, monkeypatch):
    starts = f"model.pretrained={pretrained(tmp_path / 'a.pt', encoder_layers=3)}"
    goes_on = f"checkpoint.restore_file={finetuned[0] / 'checkpoint_last.pt'}"
    given = {"model.encoder_layers", "model.encoder_embed_dim", "model.max_token_length"}
    monkeypatch.setattr("mae_ast_fairseq.tasks.classification.is_on_command_line", given.__contains__)
    for start in (starts, goes_on):
        with pytest.raises(UserError, match=r"encoder_layers: 2 was given on the command line; expected 3, which"):
            set_up(tones, start)
        assert set_up(tones, start, "model.encoder_layers=3", "model.max_token_length=96")[0].grid.kernel[0] == 16


def test_the_config_of_a_stored_model_is_taken_as_it_is(tones):
    cfg = config(RECIPE, "task.data=/gone", "model.labels=[x,y]", "model.pretrained=/gone.pt")
    task, _, _ = set_up(tones)
    assert task.build_model(cfg.model, from_checkpoint=True).head.out_features == 2
    assert PATCH["ast_kernel_size_chan"] == task.grid.kernel[0]
