from functools import partial

import pytest
from hydra.errors import CompactHydraException
from omegaconf import OmegaConf

from mae_ast_fairseq.errors import ConfigError, ManifestError, UserError
from mae_ast_fairseq.tasks.launch import (
    check_checkpoint,
    check_together,
    data_folders,
    leave_out_former_schedule,
    read_weights,
    schedule_warning,
    settle_data,
    spare_fairseq_the_folders,
)
from mae_ast_fairseq.training_error import TrainingError, without_traceback


def test_a_persons_mistake_is_one_that_hydra_prints_without_a_traceback():
    @without_traceback
    def load():
        raise ManifestError("train.tsv:3: wrong")

    with pytest.raises(TrainingError, match=r"^train\.tsv:3: wrong$") as caught:
        load()
    assert isinstance(caught.value, CompactHydraException)
    assert isinstance(caught.value, UserError)


def test_our_own_mistakes_keep_their_traceback():
    @without_traceback
    def load():
        raise KeyError("bug")

    with pytest.raises(KeyError):
        load()


def test_relative_data_counts_from_where_the_command_was_started(monkeypatch, tmp_path):
    for folder in ("start/data", "more"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "start")
    assert data_folders("data:../more") == [tmp_path / "start" / "data", tmp_path / "start" / ".." / "more"]
    assert data_folders(str(tmp_path)) == [tmp_path]


@pytest.fixture
def dated(tmp_path):
    """A folder with a colon in its path."""
    folder = tmp_path / "2024:11" / "x"
    folder.mkdir(parents=True)
    return folder


def test_a_list_of_folders_may_have_colons_in_their_names(dated, tmp_path):
    assert data_folders([str(dated), str(tmp_path)]) == [dated, tmp_path]
    assert data_folders([str(dated)]) == [dated]


def test_a_folder_with_a_colon_alone_is_taken_as_it_is(dated):
    assert data_folders(str(dated)) == [dated]


def test_where_a_colon_separates_the_message_says_so_and_names_the_list(dated, tmp_path):
    with pytest.raises(ConfigError, match=r"no folder .*/2024;.*separates.*task\.data=\["):
        data_folders(f"{dated}:{tmp_path}")
    with pytest.raises(ConfigError) as caught:
        data_folders([str(tmp_path / "gone")])
    assert "separates folders" not in str(caught.value)


def test_an_empty_name_is_not_the_current_folder(tmp_path):
    for data in (f"{tmp_path}:", [str(tmp_path), ""]):
        with pytest.raises(ConfigError, match=r"task\.data: .* has an empty name"):
            data_folders(data)


def test_names_and_weights_get_one_form_whatever_yaml_reads_them_as(monkeypatch, tmp_path):
    for name in ("20241101", "x"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    for data, weights, expected in (
        (20241101, 1, ("20241101", [1.0])),
        ([20241101, "x"], "1:0.5", (["20241101", "x"], [1.0, 0.5])),
        ([20241101, "x"], ["1", 0.5], (["20241101", "x"], [1.0, 0.5])),
        ("20241101:x", None, ("20241101:x", None)),
    ):
        cfg = OmegaConf.create({"data": data, "data_weights": weights})
        settle_data(cfg)
        assert (cfg.data, cfg.data_weights) == expected


def test_other_sets_for_validation_are_named_in_one_line_whatever_the_form_of_data(tmp_path):
    for name in ("valid", "valid1", "valid2"):
        (tmp_path / f"{name}.tsv").touch()
    dataset = {"valid_subset": "valid,valid2", "ignore_unused_valid_subsets": False}
    dataset |= {"combine_valid_subsets": False, "disable_validation": False}
    for data in (str(tmp_path), [str(tmp_path)]):
        with pytest.raises(ConfigError, match=r"dataset\.valid_subset: .*has valid1 too; .*valid,valid2,valid1"):
            spare_fairseq_the_folders(OmegaConf.create({"task": {"data": data}, "dataset": dataset}))
    for change in ({"valid_subset": "valid2,valid1,valid"}, {"ignore_unused_valid_subsets": True}):
        run = OmegaConf.create({"task": {"data": [str(tmp_path)]}, "dataset": {**dataset, **change}})
        spare_fairseq_the_folders(run)
        assert run.dataset.ignore_unused_valid_subsets


def test_weights_are_one_fraction_a_folder():
    assert read_weights("1:0.25", 2) == [1.0, 0.25]
    assert read_weights([1, 0.25], 2) == [1.0, 0.25]
    assert read_weights(0.5, 1) == [0.5]
    assert read_weights(None, 2) is None


@pytest.mark.parametrize("weights", ["1", "1:0.5:0.5", "1:0", "1:1.5", "1:-1", "1:x", "1:", "", [1], [1, None], 60.25])
def test_weights_that_do_not_match_the_folders_are_an_error(weights):
    with pytest.raises(ConfigError, match=r"task\.data_weights: .* was given; expected 2 fractions"):
        read_weights(weights, 2)


def test_a_missing_checkpoint_is_an_error_that_names_field_and_path(tmp_path):
    with pytest.raises(ConfigError, match=r"checkpoint\.restore_file: there is no file .*gone\.pt"):
        check_checkpoint("checkpoint.restore_file", str(tmp_path / "gone.pt"))


@pytest.mark.parametrize("name", ["me/tiny", "me/tiny-v1.0", "my_model", "tiny"])
def test_of_a_model_on_the_hub_the_command_is_named_that_writes_what_fairseq_reads(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_model").mkdir()
    with pytest.raises(ConfigError, match=rf"`mae-ast export {name} --to released --out FILE`"):
        check_checkpoint("checkpoint.finetune_from_model", name)


POLYNOMIAL = {"_name": "polynomial_decay", "warmup_updates": 2, "total_num_update": 10}
COSINE = {"_name": "cosine", "warmup_updates": 1_000, "max_update": 1_000, "lr_period_updates": -1}


def settings(changes):
    return partial(OmegaConf.select, OmegaConf.create(changes))


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"common": {"fp16": True, "amp": True}}, ["common.amp", "common.fp16"]),
        ({"common": {"log_interval": 0}}, ["common.log_interval: 0", "at least 1"]),
        ({"dataset": {"num_workers": -1}}, ["dataset.num_workers: -1", "at least 0"]),
        ({"checkpoint": {"save_interval": 0}}, ["checkpoint.save_interval: 0"]),
        ({"checkpoint": {"save_dir": ""}}, ["checkpoint.save_dir: it is empty"]),
        ({"optimization": {"lr": []}}, ["optimization.lr: it is empty"]),
        ({"optimization": {"update_freq": [1, 0]}}, ["optimization.update_freq: [1, 0]"]),
        ({"lr_scheduler": {**POLYNOMIAL, "total_num_update": 0}}, ["total_num_update: 0", "optimization.max_update"]),
        ({"lr_scheduler": COSINE}, ["lr_scheduler.warmup_updates", "optimization.max_update"]),
        ({"lr_scheduler": {**COSINE, "max_update": 0}}, ["lr_scheduler.max_update=0"]),
        ({"lr_scheduler": {**COSINE, "max_update": 9}, "optimization": {"max_update": 2_000}}, ["max_update=9"]),
    ],
)
def test_fields_that_exclude_each_other_are_named(changes, fields):
    with pytest.raises(ConfigError) as raised:
        check_together(settings(changes))
    assert all(field in str(raised.value) for field in fields)


def test_another_schedule_leaves_the_fields_of_the_recipes_own():
    schedule = {"_name": "cosine", "warmup_updates": 2, "total_num_update": 9, "power": 2.0}
    cfg = OmegaConf.create({"lr_scheduler": schedule}, flags={"struct": True})
    leave_out_former_schedule(cfg, {"lr_scheduler._name", "lr_scheduler.power"})
    assert set(cfg.lr_scheduler) == {"_name", "warmup_updates", "power"}
    cfg = OmegaConf.create({"lr_scheduler": schedule})
    leave_out_former_schedule(cfg, {"lr_scheduler.power"})  # the recipe's own
    assert cfg.lr_scheduler == schedule


@pytest.mark.parametrize(
    "changes",
    [
        {"common": {"fp16": True, "amp": False, "log_interval": 1}, "dataset": {"num_workers": 0}},
        {"lr_scheduler": POLYNOMIAL, "optimization": {"update_freq": [1, 4], "max_update": 10}},
        {"lr_scheduler": {**COSINE, "warmup_updates": 999}},
        {"lr_scheduler": {**COSINE, "warmup_updates": 1_001}, "optimization": {"max_update": 1_000}},
        {"lr_scheduler": {**COSINE, "lr_period_updates": 10}},
        {"lr_scheduler": {"_name": "fixed", "warmup_updates": 0}},
        {},
    ],
)
def test_others_are_not(changes):
    check_together(settings(changes))


def test_a_missing_folder_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ConfigError, match=r"task\.data: there is no folder .*/gone"):
        data_folders(f"{tmp_path}:{tmp_path / 'gone'}")


@pytest.mark.parametrize(
    ("warmup_updates", "max_update", "word"), [(199, 4_000, "short"), (0, 4_000, "short"), (2_001, 4_000, "long")]
)
def test_a_warm_up_that_does_not_fit_the_run_is_said(warmup_updates, max_update, word):
    warning = schedule_warning(warmup_updates, max_update)
    assert f"lr_scheduler.warmup_updates: {warmup_updates}" in warning
    assert word in warning


@pytest.mark.parametrize(
    ("warmup_updates", "max_update"), [(200, 4_000), (2_000, 4_000), (32_000, 550_000), (None, 4_000), (10, 0)]
)
def test_other_warm_ups_are_not(warmup_updates, max_update):
    assert schedule_warning(warmup_updates, max_update) is None
