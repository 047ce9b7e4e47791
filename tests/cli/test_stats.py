"""`mae-ast stats` from manifests to stats.json, and its errors."""

import json
import shutil
from functools import partial

import pytest
import torch

from mae_ast_fairseq.cli import main
from mae_ast_fairseq.corpus.statistics import NUM_CLIPS, SEED, measure_manifest, pool_measurements, read_statistics
from mae_ast_fairseq.data.manifest import read_manifest
from mae_ast_fairseq.tasks import base
from tests.training import SMALL, build


@pytest.fixture
def folder(corpus, tmp_path):
    """A folder of its own with the manifests of the corpus."""
    for name in ("train.tsv", "valid.tsv"):
        shutil.copyfile(corpus / name, tmp_path / name)
    return tmp_path


def _run(capsys, *argv):
    assert main(["stats", *map(str, argv)]) == 0
    return capsys.readouterr().out


def test_the_file_lies_beside_the_manifest_and_says_what_was_measured(folder, capsys):
    _run(capsys, folder / "train.tsv")
    content = json.loads((folder / "stats.json").read_text())
    measured = measure_manifest(read_manifest(folder / "train.tsv"), num_clips=40, seed=1, max_sample_size=250_000)
    assert (content["mean"], content["std"]) == measured.statistics
    assert (content["num_clips"], content["num_frames"], content["feature_dim"]) == (40, measured.num_frames, 128)
    assert [part["path"] for part in content["manifests"]] == [str(folder / "train.tsv")]


def test_the_task_reads_what_was_written(folder, capsys):
    _run(capsys, folder / "train.tsv", "--bands", "40")
    content = json.loads((folder / "stats.json").read_text())
    assert read_statistics(folder / "stats.json", feature_dim=40) == (content["mean"], content["std"])


def test_it_draws_and_measures_what_the_task_does_whatever_common_seed(folder, capsys, monkeypatch):
    monkeypatch.setattr(base, "measure_manifest", partial(measure_manifest, num_clips=7))
    task, model, _ = build("mae_ast_tiny", f"task.data={folder}", "common.seed=5", *SMALL)
    task.load_dataset("train")
    task.begin_epoch(1, model)
    seconds = task.dataset("train").max_sample_size / 16_000
    argv = [folder / "train.tsv", "--clips", 7, "--max-seconds", seconds]
    content = json.loads(_run(capsys, *argv, "--json"))
    assert float(model.batch_norm.running_mean) == torch.tensor(content["mean"]).item()
    assert float(model.batch_norm.running_var) == pytest.approx(content["std"] ** 2, rel=1e-6)


def test_help_does_not_promise_that_common_seed_draws_what_training_draws(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["stats", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "common.seed" not in text
    assert f"default: {SEED}, by which training draws" in text
    assert f"(default: {NUM_CLIPS})" in text


def test_another_seed_draws_other_clips(folder, capsys):
    one, other = (
        json.loads(_run(capsys, folder / "train.tsv", "--clips", 7, "--seed", seed, "--json")) for seed in (1, 2)
    )
    assert one["mean"] != other["mean"]


def test_twice_the_same_gives_the_same_file(folder, capsys):
    files = [folder / name for name in ("a.json", "b.json")]
    for file in files:
        _run(capsys, folder / "train.tsv", "--clips", 7, "--out", file)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_several_manifests_count_by_the_frames_they_have_in_all(folder, capsys):
    content = json.loads(_run(capsys, folder / "train.tsv", folder / "valid.tsv", "--clips", 5, "--json"))
    parts = [
        measure_manifest(read_manifest(folder / name), num_clips=5, seed=1337, max_sample_size=250_000)
        for name in ("train.tsv", "valid.tsv")
    ]
    assert (content["mean"], content["std"]) == pool_measurements(parts).statistics
    assert [part["mean"] for part in content["manifests"]] == [part.statistics.mean for part in parts]
    assert parts[0].num_usable_frames > 2 * parts[1].num_usable_frames


def test_the_table_has_a_row_for_each_manifest_and_one_for_all(folder, capsys):
    lines = _run(capsys, folder / "train.tsv", folder / "valid.tsv").splitlines()
    content = json.loads((folder / "stats.json").read_text())
    rows = [line.split() for line in lines[1:4]]
    assert [row[0] for row in rows] == [str(folder / "train.tsv"), str(folder / "valid.tsv"), "overall"]
    assert rows[2][1:] == [
        f"{content['mean']:.4f}",
        f"{content['std']:.4f}",
        "48",
        str(content["num_frames"]),
        "0",
    ]
    assert lines[4] == f"written to {folder / 'stats.json'}"


def test_json_prints_what_was_written(folder, capsys):
    out = _run(capsys, folder / "train.tsv", "--json")
    assert json.loads(out) == json.loads((folder / "stats.json").read_text())


def test_broken_files_are_counted_and_named_on_stderr(folder, capsys):
    path = folder / "train.tsv"
    path.write_text(path.read_text().replace("00.wav\t", "gone.wav\t"))
    assert main(["stats", str(path)]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[1].split()[-1] == "1"
    assert f"mae-ast stats: {path}:2: " in err


def test_manifests_of_several_folders_need_an_out(folder, corpus, capsys, refusal):
    manifests = [folder / "train.tsv", corpus / "train.tsv"]
    assert "lie in 2 folders" in refusal("stats", *manifests)
    _run(capsys, *manifests, "--out", folder / "both.json")
    assert len(json.loads((folder / "both.json").read_text())["manifests"]) == 2


def test_nothing_readable_is_an_error_and_writes_nothing(folder, refusal):
    (folder / "bad.tsv").write_text(f"{folder}\na.wav\t16000\n")
    assert "none of its 1 clips can be measured" in refusal("stats", folder / "bad.tsv")
    assert not (folder / "stats.json").exists()


def test_a_missing_manifest_is_named(folder, refusal):
    assert f"{folder / 'none.tsv'}: there is no such file" in refusal("stats", folder / "none.tsv")


@pytest.mark.parametrize("out", ["", "none/stats.json"])
def test_an_out_that_cannot_be_written_is_refused(folder, refusal, out):
    assert f"--out {folder / out}: " in refusal("stats", folder / "train.tsv", "--out", folder / out)


@pytest.mark.parametrize(
    "option", ["--clips=0", "--bands=0", "--seed=-1", "--max-seconds=0", "--max-seconds=nan", "--max-seconds=inf"]
)
def test_numbers_out_of_range_are_refused(folder, capsys, option):
    with pytest.raises(SystemExit, match="2"):
        main(["stats", str(folder / "train.tsv"), option])
    assert f"{option.partition('=')[0]}: " in capsys.readouterr().err


@pytest.mark.parametrize("bands", ["0", "10001", str(2**63)])
def test_bands_that_no_memory_holds_are_refused(folder, capsys, bands):
    with pytest.raises(SystemExit, match="2"):
        main(["stats", str(folder / "train.tsv"), "--bands", bands])
    assert f"--bands: {bands} was given; expected 1 to 10,000 bands" in capsys.readouterr().err
