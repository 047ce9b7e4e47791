import json
import logging
import threading
from itertools import chain

import numpy as np
import pytest
import torch

from mae_ast_fairseq.data.masking import STRATEGIES, Mask, Strategy, num_visible
from mae_ast_fairseq.datasets.clips import MAX_REPLACEMENTS
from mae_ast_fairseq.datasets.pretraining import MaskedAudioDataset
from mae_ast_fairseq.errors import UserError
from mae_ast_fairseq.nn import fbank
from mae_ast_fairseq.tasks import base
from tests.datasets.test_pretraining import equal
from tests.training import SMALL, build


def build_task(corpus, *overrides):
    task, model, _ = build("mae_ast_tiny", f"task.data={corpus}", *SMALL, *overrides)
    return task, model


def epochs(task, *, num_workers=0, num_epochs=2, resume_from=None, first_epoch=1):
    """The batches of some epochs, as fairseq's trainer fetches them; `resume_from` is an iterator's state."""
    task.load_dataset("train")
    iterator = task.get_batch_iterator(
        task.dataset("train"),
        max_tokens=60_000,
        seed=1,
        num_workers=num_workers,
        epoch=first_epoch,
        data_buffer_size=2,
    )
    if resume_from is not None:
        iterator.load_state_dict(resume_from)
    return [list(iterator.next_epoch_itr()) for _ in range(num_epochs)]


def same(one, other):
    if [len(epoch) for epoch in one] != [len(epoch) for epoch in other]:
        return False
    return all(equal(*pair) for pair in zip(chain(*one), chain(*other), strict=True))


@pytest.fixture(scope="module")
def batches_without_workers(corpus):
    return epochs(build_task(corpus)[0])


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("persistent", ["true", "false"])
def test_workers_give_the_batches_of_the_main_process(corpus, batches_without_workers, num_workers, persistent):
    task, _ = build_task(corpus, f"task.persistent_workers={persistent}")
    assert same(epochs(task, num_workers=num_workers), batches_without_workers)


def test_without_workers_no_thread_makes_batches_beside_the_training(corpus, monkeypatch):
    threads = set()
    collate = MaskedAudioDataset.collater

    def spy(self, samples):
        threads.add(threading.current_thread())
        return collate(self, samples)

    monkeypatch.setattr(MaskedAudioDataset, "collater", spy)
    epochs(build_task(corpus)[0], num_epochs=1)
    assert threads == {threading.current_thread()}


def test_epochs_differ_in_batches_and_masks(batches_without_workers):
    first, second = batches_without_workers
    clips = [sorted(tuple(batch["id"].tolist()) for batch in epoch) for epoch in (first, second)]
    assert clips[0] != clips[1]
    assert sorted(chain(*clips[0])) == sorted(chain(*clips[1])) == list(range(40))


def test_resuming_within_the_second_epoch_gives_the_batches_of_the_uninterrupted_run(corpus, batches_without_workers):
    state = {"version": 2, "epoch": 2, "iterations_in_epoch": 2, "shuffle": True}
    resumed = epochs(build_task(corpus)[0], num_epochs=1, resume_from=state, first_epoch=2)
    assert same(resumed, [batches_without_workers[1][2:]])


def test_without_rebuild_batches_resuming_does_not(corpus):
    # the guard that the field is what makes it so
    task, _ = build_task(corpus, "task.rebuild_batches=false")
    uninterrupted = epochs(task)
    state = {"version": 2, "epoch": 2, "iterations_in_epoch": 2, "shuffle": True}
    task, _ = build_task(corpus, "task.rebuild_batches=false")
    assert not same(epochs(task, num_epochs=1, resume_from=state, first_epoch=2), [uninterrupted[1][2:]])


def test_masks_change_from_epoch_to_epoch(batches_without_workers):
    def masks(epoch):
        return {row: mask for batch in epoch for row, mask in zip(batch["id"].tolist(), masked(batch), strict=True)}

    def masked(batch):
        return batch["net_input"]["masked"]

    first, second = (masks(epoch) for epoch in batches_without_workers)
    unchanged = [first[row].tolist() == second[row].tolist() for row in range(40)]
    assert np.mean(unchanged) < 0.2  # short clips have few masks to draw from


# --- statistics


def log_mel_values(task):
    dataset = task.dataset("train")
    clips = [dataset[index].waveform for index in range(len(dataset))]
    return torch.cat([fbank.log_mel(torch.from_numpy(clip)).flatten() for clip in clips]).double()


def test_statistics_are_those_of_the_data_where_nothing_else_says(corpus):
    task, model = build_task(corpus)
    task.load_dataset("train")
    task.begin_epoch(1, model)
    values = log_mel_values(task)
    assert float(model.batch_norm.running_mean) == pytest.approx(float(values.mean()), abs=1e-4)
    assert float(model.batch_norm.running_var) == pytest.approx(float(values.var()), rel=1e-4)


def test_statistics_come_from_stats_json_where_there_is_one(corpus, tmp_path):
    (tmp_path / "stats.json").write_text(json.dumps({"mean": -3.5, "std": 4.0}))
    (tmp_path / "train.tsv").write_text((corpus / "train.tsv").read_text())
    task, model = build_task(tmp_path)
    task.load_dataset("train")
    task.begin_epoch(1, model)
    assert float(model.batch_norm.running_mean) == -3.5
    assert float(model.batch_norm.running_var) == 16.0


def test_statistics_of_a_checkpoint_stay(corpus):
    task, model = build_task(corpus)
    state = model.state_dict() | {
        "batch_norm.running_mean": torch.tensor([-4.19]),
        "batch_norm.running_var": torch.tensor([19.7]),
    }
    model.load_state_dict(state)
    task.load_dataset("train")
    task.begin_epoch(1, model)
    assert float(model.batch_norm.running_mean) == pytest.approx(-4.19)


def test_statistics_of_several_folders_are_pooled_by_their_audio(corpus, tmp_path):
    folders = []
    for name, lines, mean in (("a", slice(1, 31), -2.0), ("b", slice(31, 41), -6.0)):
        folders.append(tmp_path / name)
        folders[-1].mkdir()
        rows = (corpus / "train.tsv").read_text().splitlines()
        (folders[-1] / "train.tsv").write_text("\n".join([rows[0], *rows[lines], ""]))
        (folders[-1] / "stats.json").write_text(json.dumps({"mean": mean, "std": 3.0}))
    task, model = build_task(":".join(map(str, folders)))
    task.load_dataset("train")
    task.begin_epoch(1, model)
    sizes = task.dataset("train").sizes
    share = sizes[30:].sum() / sizes.sum()
    mean = -2.0 * (1 - share) - 6.0 * share
    variance = 9.0 + share * (1 - share) * 4.0**2
    assert float(model.batch_norm.running_mean) == pytest.approx(mean, rel=1e-5)
    assert float(model.batch_norm.running_var) == pytest.approx(variance, rel=1e-5)


def test_the_split_to_train_on_may_have_any_name(corpus, tmp_path):
    (tmp_path / "speech.tsv").write_text((corpus / "train.tsv").read_text())
    (tmp_path / "train_dev.tsv").write_text((corpus / "valid.tsv").read_text())
    task, model = build_task(tmp_path, "dataset.train_subset=speech")
    for split in ("train_dev", "speech"):
        task.load_dataset(split)
    assert [task.dataset(split).training for split in ("train_dev", "speech")] == [False, True]
    task.begin_epoch(1, model)
    expected, other = build_task(corpus)
    expected.load_dataset("train")
    expected.begin_epoch(1, other)
    assert float(model.batch_norm.running_mean) == float(other.batch_norm.running_mean)


def test_other_normalisations_measure_nothing(corpus, monkeypatch):
    monkeypatch.setattr(base, "measure_manifest", None)
    task, model = build_task(corpus, "model.normalization=utterance")
    task.load_dataset("train")
    task.begin_epoch(1, model)
    assert float(model.batch_norm.running_mean) == 0


# --- what a person gives


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task.mask_type=chunks", r"task\.mask_type: 'chunks' is unknown; expected one of (?!.*retain).*chunk_mask"),
        ("task.sample_rate=8000", r"task\.sample_rate: 8000 was given; expected 16000"),
        ("task.max_sample_size=0", r"task\.max_sample_size: 0 was given"),
        ("task.max_bad_fraction=2", r"task\.max_bad_fraction: 2.0 was given"),
        ("task.mask_type=random_mask_batched", r"task\.pad_audio: true was given.*random_mask_batched"),
        ("model.random_mask_prob=1.0", r"random_mask_prob: found 1.0, expected"),
        ("model.random_mask_prob=0", r"random_mask_prob: 0.0 was given; expected more than 0"),
        ("model.ast_kernel_size_chan=48", r"ast_kernel_stride_chan: found 16, expected 48"),
        ("task.feature_dim=100", r"ast_kernel_size_chan: found 16, expected a divisor of feature_dim = 100"),
        ("model.ast_kernel_stride_time=8", r"ast_kernel_stride_time: found 8, expected 16"),
        ("model.normalization=layer", r"model\.normalization: 'layer' is unknown; expected one of batch, dataset"),
        ("model.activation_fn=swish", r"model\.activation_fn: 'swish' is unknown; expected one of gelu, relu"),
        ("model.decoder_embed_dim=64", r"model\.decoder_embed_dim: 64 differs .*use_post_enc_proj=true"),
        ("criterion.reconstruction_weight=-1", r"criterion\.reconstruction_weight: -1.0 was given"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_one_error_that_names_it(corpus, override, message):
    with pytest.raises(UserError, match=message):
        build_task(corpus, override)


def test_a_strategy_of_masking_is_a_function_and_an_entry(corpus, monkeypatch):
    def hide_the_end(rows, columns, ratio, rng, span_length):
        return Mask(*np.split(np.arange(rows * columns), [num_visible(rows * columns, ratio)]))

    monkeypatch.setitem(STRATEGIES, "hide_the_end", Strategy(hide_the_end, shared=True))
    task, _ = build_task(corpus, "task.mask_type=hide_the_end", "task.pad_audio=false")
    for batch in epochs(task, num_epochs=1)[0]:
        num_visible_tokens = batch["net_input"]["visible"].shape[1]
        assert (batch["net_input"]["visible"] == torch.arange(num_visible_tokens)).all()
        assert (batch["net_input"]["masked"][:, 0] == num_visible_tokens).all()
    with pytest.raises(UserError, match=r"task\.pad_audio: true .*mask_type=hide_the_end"):
        build_task(corpus, "task.mask_type=hide_the_end", "task.pad_audio=true")


def test_retain_spans_is_known_on_loading_and_refused_for_pretraining(corpus):
    task, _ = build_task(corpus, "task.mask_type=retain_spans")
    with pytest.raises(UserError, match="chunk_mask"):
        task.load_dataset("train")
    task, model = build_task(corpus, "task.mask_type=retain_spans", "model.random_mask_prob=3")
    assert model.grid == task.grid


def test_task_and_criterion_are_built_without_the_data(tmp_path):
    # as whoever evaluates a checkpoint elsewhere needs them
    task, _, criterion = build("mae_ast_tiny", f"task.data={tmp_path}/gone", *SMALL)
    assert criterion.task is task
    with pytest.raises(UserError, match=r"task\.data: there is no folder .*/gone"):
        task.load_dataset("train")


def test_a_split_without_a_manifest_is_an_error_that_names_it(corpus):
    task, _ = build_task(corpus)
    with pytest.raises(UserError, match=r"test\.tsv"):
        task.load_dataset("test")


def test_a_manifest_whose_root_has_gone_is_an_error(corpus, tmp_path):
    rows = (corpus / "train.tsv").read_text().splitlines()
    (tmp_path / "train.tsv").write_text("\n".join(["/moved/away", *rows[1:], ""]))
    task, _ = build_task(tmp_path)
    with pytest.raises(UserError, match=r"train\.tsv:1: there is no folder /moved/away"):
        task.load_dataset("train")


def test_max_tokens_below_the_longest_crop_is_an_error(corpus):
    task, _ = build_task(corpus)
    task.load_dataset("train")
    longest = task.dataset("train").sizes.max()
    with pytest.raises(UserError, match=rf"dataset\.max_tokens: 5000 samples.*{longest} samples"):
        task.get_batch_iterator(task.dataset("train"), max_tokens=5_000)


def test_the_run_stops_where_no_file_can_be_read(corpus, tmp_path):
    names = "".join(f"gone{number}.wav\t16000\n" for number in range(4))
    (tmp_path / "train.tsv").write_text(f"{tmp_path}\n{names}")
    task, model, criterion = build("mae_ast_tiny", f"task.data={tmp_path}", *SMALL, "task.max_bad_fraction=1")
    task.load_dataset("train")
    dataset = task.dataset("train")
    with pytest.raises(UserError, match=r"4 of 4 files \(100\.0%\) are broken"):
        task.train_step(dataset.collater([dataset[0]]), model, criterion, None, 0)


def test_a_large_batch_may_have_many_replaced_files(corpus, tmp_path):
    lines = (corpus / "train.tsv").read_text().splitlines()
    lines[3] = "gone.wav\t16000"
    (tmp_path / "train.tsv").write_text("\n".join([*lines, ""]))
    task, model, criterion = build("mae_ast_tiny", f"task.data={tmp_path}", *SMALL, "task.max_bad_fraction=0.5")
    task.load_dataset("train")
    task.begin_epoch(1, model)
    dataset = task.dataset("train")
    batch = dataset.collater([dataset[2]] * MAX_REPLACEMENTS)
    assert batch["num_bad_files"] >= MAX_REPLACEMENTS
    assert task.valid_step(batch, model, criterion)[1] == batch["ntokens"]


def test_the_data_set_without_a_readable_file_is_the_one_named(corpus, tmp_path):
    lines = (corpus / "train.tsv").read_text().splitlines()
    (tmp_path / "train.tsv").write_text("\n".join([lines[0], "gone.wav\t16000", *lines[1:], ""]))
    (tmp_path / "valid.tsv").write_text(f"{tmp_path}\nlost.wav\t16000\n")
    task, model, criterion = build("mae_ast_tiny", f"task.data={tmp_path}", *SMALL, "task.max_bad_fraction=1")
    for split in ("train", "valid"):
        task.load_dataset(split)
    assert task.dataset("train")[0].num_bad_files > 0
    valid = task.dataset("valid")
    with pytest.raises(UserError, match=r"valid\.tsv: 1 of 1 files .* are broken, the first of them .*lost\.wav"):
        task.valid_step(valid.collater([valid[0]]), model, criterion)


@pytest.mark.parametrize(("max_bad_fraction", "stops"), [(0.02, True), (0.5, False)])
def test_the_run_stops_past_the_share_of_broken_files(corpus, tmp_path, max_bad_fraction, stops, caplog):
    lines = (corpus / "train.tsv").read_text().splitlines()
    lines[3] = "gone.wav\t16000"
    (tmp_path / "train.tsv").write_text("\n".join([*lines, ""]))
    task, model, criterion = build(
        "mae_ast_tiny", f"task.data={tmp_path}", *SMALL, f"task.max_bad_fraction={max_bad_fraction}"
    )
    task.load_dataset("train")
    task.begin_epoch(1, model)
    dataset = task.dataset("train")
    batch = dataset.collater([dataset[index] for index in range(4)])
    with caplog.at_level(logging.WARNING):
        if stops:
            with pytest.raises(UserError, match=r"1 of 40 files \(2\.5%\) are broken, the first of them .*gone\.wav"):
                task.valid_step(batch, model, criterion)
        else:
            assert task.valid_step(batch, model, criterion)[1] == batch["ntokens"]


@pytest.mark.parametrize("field", ["restore_file", "finetune_from_model"])
def test_a_misspelt_checkpoint_to_start_from_is_an_error_at_the_launch_alone(corpus, monkeypatch, field):
    override = f"checkpoint.{field}=/gone.pt"
    task, _ = build_task(corpus, override)
    task.load_dataset("valid")  # as whoever validates later does
    monkeypatch.setattr(base, "is_training_command", lambda: True)
    with pytest.raises(UserError, match=rf"checkpoint\.{field}: there is no file /gone\.pt"):
        build_task(corpus, override)


def test_a_warm_up_that_does_not_fit_the_run_is_said_at_the_launch(corpus, monkeypatch, caplog):
    settings = ("lr_scheduler.warmup_updates=100", "optimization.max_update=4000")
    build_task(corpus, *settings)
    assert "warmup_updates" not in caplog.text
    monkeypatch.setattr(base, "is_training_command", lambda: True)
    build_task(corpus, *settings)
    assert "lr_scheduler.warmup_updates: 100 is 2.5%" in caplog.text


def test_several_folders_are_trained_on_together(corpus, tmp_path):
    (tmp_path / "train.tsv").write_text((corpus / "train.tsv").read_text())
    task, _ = build_task(f"{corpus}:{tmp_path}", "task.data_weights='1:0.5'")
    first, second = epochs(task)
    for epoch in (first, second):
        rows = sorted(chain(*(batch["id"].tolist() for batch in epoch)))
        assert rows[:40] == list(range(40))
        assert len(rows) == 60
    drawn = [{row for batch in epoch for row in batch["id"].tolist() if row >= 40} for epoch in (first, second)]
    assert drawn[0] != drawn[1]
    assert not task.has_sharded_data("train")
