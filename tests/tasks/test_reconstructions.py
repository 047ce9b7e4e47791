"""`task.log_reconstructions`: pictures at each validation, those of `mae-ast reconstruct`, which change nothing."""

import json
import random

import numpy as np
import pytest
import soundfile as sf
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mae_ast_fairseq import extras
from mae_ast_fairseq.cli import main
from mae_ast_fairseq.config.classification import ClassificationTaskFields
from mae_ast_fairseq.config.pretraining import PretrainingTaskFields
from mae_ast_fairseq.errors import UserError
from mae_ast_fairseq.evaluation import plots
from mae_ast_fairseq.tasks.reconstructions import MAX_TRIES, Reconstructions
from tests.processes import run_two
from tests.training import SMALL, SMALL_ENCODER, build, config, train

pytest.importorskip("matplotlib")

DRAWN_IN_TRAINING = ("model.dropout=0.1", "model.encoder_layerdrop=0.3", "model.dropout_input=0.1")
RECIPES = {
    "mae_ast_tiny": (*SMALL, "common.bf16=false"),
    "ssast_frame": (*SMALL_ENCODER, "common.bf16=true", "dataset.max_tokens=300000"),
}
OF_SPEED = {"wps", "ups", "train_wall", "wall", "gb_free"}


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn, in place of the pictures, which take a second each."""
    pictures = []

    def keep(path, **shown):
        pictures.append({"path": path, **shown})
        path.write_bytes(b"")

    monkeypatch.setattr(plots, "save_reconstruction", keep)
    return pictures


def pretrain(corpus, folder, *overrides, recipe="mae_ast_tiny", settings=RECIPES["mae_ast_tiny"]):
    """Train for 8 updates with a validation after every 4."""
    return train(
        recipe, f"task.data={corpus}", *settings, *DRAWN_IN_TRAINING, f"checkpoint.save_dir={folder}",
        "checkpoint.no_save=false", "optimization.max_update=8", "dataset.validate_interval_updates=4",
        "dataset.validate_interval=100", *overrides,
    )  # fmt: skip


def without_speed(lines):
    return [{name: value for name, value in line.items() if name.split("_", 1)[-1] not in OF_SPEED} for line in lines]


def state_of(run, folder):
    """Return all that a run has come to: figures, weights, and where its random draws stand."""
    checkpoint = torch.load(folder / "checkpoint_last.pt", weights_only=True)
    optimizer = checkpoint["last_optimizer_state"]["state"]
    moments = [value for state in optimizer.values() for value in state.values() if torch.is_tensor(value)]
    states = [*checkpoint["model"].values(), *moments, torch.get_rng_state()]
    figures = [run.losses, without_speed(run.updates), without_speed(run.validations)]
    return json.dumps(figures), [state.clone() for state in states], random.getstate(), np.random.get_state()  # noqa: NPY002


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_is_the_same_to_the_bit_with_and_without_pictures(corpus, tmp_path, recipe):
    found = []
    for count in (0, 1):
        folder = tmp_path / str(count)
        random.seed(0)
        overrides = f"task.log_reconstructions={count}", f"common.tensorboard_logdir={folder}/curves"
        run = pretrain(corpus, folder, *overrides, recipe=recipe, settings=RECIPES[recipe])
        found.append(state_of(run, folder))
        assert len(list(folder.glob("pictures/*.png"))) == 2 * count
    (figures, states, python, numpy), (others, other_states, other_python, other_numpy) = found
    assert figures == others
    assert len(states) > 20
    assert all(torch.equal(*pair) for pair in zip(states, other_states, strict=True))
    assert python == other_python
    assert all(np.array_equal(*pair) for pair in zip(numpy, other_numpy, strict=True))


@pytest.mark.parametrize("recipe", RECIPES)
def test_pictures_are_those_of_the_command(corpus, tmp_path, drawn, capsys, recipe):
    pretrain(corpus, tmp_path, "task.log_reconstructions=3", recipe=recipe, settings=RECIPES[recipe])
    in_training, drawn[:] = drawn[3:], []
    precision = "bfloat16" if "common.bf16=true" in RECIPES[recipe] else "float32"
    argv = ["reconstruct", tmp_path / "checkpoint_last.pt", "--manifest", corpus / "valid.tsv", "--clips", 3]
    capsys.readouterr()
    assert main([*map(str, argv), "--out", str(tmp_path / "out"), "--json", "--precision", precision]) == 0
    scores = json.loads(capsys.readouterr().out)["clips"]
    assert len(scores) == len(drawn) == len(in_training) == 3
    for one, other in zip(in_training, drawn, strict=True):
        assert one.pop("path").name == other.pop("path").name.replace(".png", "_update0000008.png")
        assert one.pop("title") == other.pop("title")
        assert all(np.array_equal(one[name], other[name]) for name in one)


def test_each_validation_adds_a_picture_of_each_clip_to_the_folder_and_the_curves(corpus, tmp_path, caplog):
    caplog.set_level("INFO")
    pretrain(corpus, tmp_path, "task.log_reconstructions=2", f"common.tensorboard_logdir={tmp_path}/curves")
    names = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert [name.split("_")[0] for name in names] == ["01", "01", "02", "02"]
    assert [name.split("_")[-1] for name in names] == ["update0000004.png", "update0000008.png"] * 2
    assert all((tmp_path / "pictures" / name).read_bytes().startswith(b"\x89PNG") for name in names)
    events = EventAccumulator(str(tmp_path / "curves" / "valid")).Reload()
    tags = events.Tags()["images"]
    assert tags == sorted({name.rsplit("_", 1)[0] for name in names})
    for tag in tags:
        images = events.Images(tag)
        assert [image.step for image in images] == [4, 8]
        assert images[0].width > 500
        assert images[0].encoded_image_string != images[1].encoded_image_string
    assert "loss_recon" in events.Tags()["scalars"]
    said = [record.getMessage() for record in caplog.records if "drawing 2 clips" in record.getMessage()]
    assert len(said) == 1
    assert str(tmp_path / "pictures") in said[0]


def test_only_the_first_of_several_sets_is_drawn(corpus, tmp_path, drawn):
    other = tmp_path / "other.tsv"
    other.write_text((corpus / "valid.tsv").read_text())
    for name in ("train.tsv", "valid.tsv"):
        (tmp_path / name).write_text((corpus / name).read_text())
    run = pretrain(tmp_path, tmp_path, "task.log_reconstructions=1", "dataset.valid_subset='valid,other'")
    assert len(run.validations) == 2  # as fairseq names those of the first
    assert [picture["path"].name.split("_")[-1] for picture in drawn] == ["update0000004.png", "update0000008.png"]


def reconstructions(corpus, tmp_path, count, *overrides):
    """Return those of the validation clips with the model that draws them."""
    task, model, _ = build("mae_ast_tiny", f"task.data={corpus}", *SMALL, *overrides)
    task.load_dataset("valid")
    model.batch_norm.set_statistics(-6.0, 3.0)
    return Reconstructions(task.dataset("valid"), count, tmp_path / "pictures"), model


def write_manifest(folder, corpus, lines):
    (folder / "valid.tsv").write_text("\n".join(["/", *lines, ""]))
    (folder / "train.tsv").write_text((corpus / "train.tsv").read_text())


def test_a_broken_clip_is_passed_over_with_the_next_and_counts_nowhere(corpus, tmp_path, drawn, caplog):
    sf.write(tmp_path / "good.wav", 0.1 * np.random.default_rng(0).standard_normal(17_000), 16_000)
    gone = [f"{tmp_path}/gone{number}.wav\t16000" for number in range(6)]
    write_manifest(tmp_path, corpus, [*gone, f"{tmp_path}/good.wav\t17000"])
    found, model = reconstructions(tmp_path, tmp_path, count=1)
    for num_updates in (5, 6):
        assert list(found.draw(model, num_updates)) == ["01_good"]
    assert len(drawn) == 2
    said = [record.getMessage() for record in caplog.records if "drawn in its place" in record.getMessage()]
    assert 1 <= len(said) <= 6  # read once
    assert f"{tmp_path}/valid.tsv:" in said[0]
    assert not found.dataset.is_bad.any()


def test_where_all_clips_are_broken_nothing_is_drawn_and_not_all_are_read(corpus, tmp_path, drawn, caplog):
    write_manifest(tmp_path, corpus, [f"{tmp_path}/gone{number}.wav\t16000" for number in range(40)])
    found, model = reconstructions(tmp_path, tmp_path, count=1)
    assert found.draw(model, 5) == {}
    assert caplog.text.count("drawn in its place") <= MAX_TRIES


def test_long_clips_are_drawn_from_their_start_up_to_the_longest_crop(corpus, tmp_path, drawn):
    rng = np.random.default_rng(0)
    for seconds in (3, 12):
        sf.write(tmp_path / f"{seconds}.wav", 0.1 * rng.standard_normal(seconds * 16_000), 16_000)
    write_manifest(tmp_path, corpus, [f"{tmp_path}/{seconds}.wav\t{seconds * 16_000}" for seconds in (3, 12)])
    for limit, expected in ((200_000, 998), (32_000, 198)):  # frames, of 10 and 2 seconds
        found, _ = reconstructions(tmp_path, tmp_path, 2, f"task.max_sample_size={limit}")
        assert max(len(clip.frames) for clip in found.clips) == expected


def test_a_full_disk_is_warned_of_once_and_ends_no_run(corpus, tmp_path, monkeypatch, caplog):
    def full(path, **shown):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(plots, "save_reconstruction", full)
    run = pretrain(corpus, tmp_path, "task.log_reconstructions=2", f"common.tensorboard_logdir={tmp_path}/curves")
    assert len(run.losses) == 8
    said = [record.getMessage() for record in caplog.records if "pictures will be missing" in record.getMessage()]
    assert len(said) == 1
    assert "No space left on device" in said[0]


def test_a_model_that_has_diverged_is_drawn(corpus, tmp_path):
    found, model = reconstructions(corpus, tmp_path, count=1)
    with torch.no_grad():
        model.final_proj_reconstruction.bias.fill_(float("nan"))
    (picture,) = found.draw(model, 5).values()
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_it_is_off_by_default_and_no_field_of_classification(corpus, tmp_path, drawn):
    pretrain(corpus, tmp_path)
    assert not drawn
    assert PretrainingTaskFields.log_reconstructions == 0
    assert "log_reconstructions" not in ClassificationTaskFields.__dataclass_fields__


def test_a_number_below_0_is_an_error(corpus):
    with pytest.raises(UserError, match=r"task\.log_reconstructions: -1 was given; expected 0 to 64"):
        build("mae_ast_tiny", f"task.data={corpus}", *SMALL, "task.log_reconstructions=-1")


def test_without_matplotlib_a_run_that_wants_them_does_not_begin_and_others_do(corpus, monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    build("mae_ast_tiny", f"task.data={corpus}", *SMALL)
    with pytest.raises(UserError, match=r"task\.log_reconstructions needs the extra 'plot' .*pip install"):
        build("mae_ast_tiny", f"task.data={corpus}", *SMALL, "task.log_reconstructions=1")


def test_without_matplotlib_its_checkpoint_is_loaded(corpus, monkeypatch):
    from fairseq import tasks

    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    cfg = config("mae_ast_tiny", f"task.data={corpus}", *SMALL, "task.log_reconstructions=1")
    assert tasks.setup_task(cfg.task, from_checkpoint=True).cfg.log_reconstructions == 1


@pytest.mark.slow
def test_of_two_processes_the_first_alone_draws(corpus, tmp_path):
    codes, outputs = run_two(
        "mae_ast_tiny", corpus, tmp_path, *SMALL, "common.bf16=false", "common.cpu=true", "dataset.max_tokens=100000",
        "optimization.max_update=4", "task.max_bad_fraction=0.2", "lr_scheduler.warmup_updates=2",
        "task.log_reconstructions=1",
    )  # fmt: skip
    assert codes == [0, 0], outputs
    assert [path.name.split("_")[-1] for path in tmp_path.glob("0/pictures/*")] == ["update0000004.png"]
    assert not list(tmp_path.glob("1/pictures"))
