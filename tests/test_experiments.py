"""The paper's experiments: what their recipes sweep over, which cells are run, and the tables of what is done."""

import json
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mae_ast_fairseq.errors import UserError
from tests.test_recipes import EXAMPLES, composed

FOLDER, ROOT = EXAMPLES / "experiments", EXAMPLES.parent

pytestmark = pytest.mark.filterwarnings(r"ignore:\s*'\w+' is validated against ConfigStore schema")


@pytest.fixture
def experiments(monkeypatch):
    """The modules of examples/experiments, as their script sees them."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import cells
    import downstream
    import run
    import tables

    class Experiments:
        pass

    found = Experiments()
    found.cells, found.downstream, found.run, found.tables = cells, downstream, run, tables
    return found


def result_of(cell, accuracy=0.5, **more):
    worth = {"probes": {"words": {"mean": accuracy, "best": 0.9}}, "fine_tuned": {"digits": 0.75}}
    return {**cell._asdict(), **worth, "curve": [{"num_updates": 250, "loss_recon": 0.1}], **more}


def test_a_cell_that_tables_share_is_one(experiments):
    cells_of = experiments.cells.cells_of
    ssast, masking, pretext = (set(cells_of(table, "cpu")) for table in experiments.cells.TABLES)
    assert (len(ssast), len(masking), len(pretext)) == (12, 12, 18)
    assert len(ssast & pretext) == 6 and len(ssast & masking) == 1
    assert len({cell.name for cell in ssast | masking | pretext}) == 35
    assert {cell.seed for cell in ssast | pretext} == {1, 2, 3}


@pytest.mark.parametrize("scale", ["cpu", "paper"])
@pytest.mark.parametrize("table", ["ssast", "masking", "pretext"])
def test_a_cell_is_the_model_that_its_name_says(experiments, table, scale):
    cell = experiments.cells.cells_of(table, scale)[-1]
    name = experiments.cells.recipes_of(table, scale)[-1].stem
    config = composed(name, f"hydra.searchpath=[{EXAMPLES}]", *cell.overrides, folder=FOLDER)
    assert config.model._name == {"SSAST": "ssast", "MAE-AST": "mae_ast"}[cell.model]
    assert config.model.ast_kernel_size_chan == {"patch": 16, "frame": 128}[cell.tokens]
    assert (config.model.encoder_layers, config.model.random_mask_prob) == (cell.layers, cell.ratio)
    assert (config.task.mask_type, config.common.seed) == (cell.mask_type, cell.seed)
    weights = {"both": (10.0, 1.0), "reconstruction": (10.0, 0.0), "classification": (0.0, 1.0)}[cell.pretext]
    assert (config.criterion.reconstruction_weight, config.criterion.classification_weight) == weights
    assert config.optimization.max_update == {"cpu": 1500, "paper": 550_000}[scale]


FAKE = """
import json, sys
from pathlib import Path
cell, place = json.loads(sys.argv[1]), json.loads(sys.argv[2])
ran = Path(place[0]) / "ran.txt"
before = ran.read_text().splitlines() if ran.is_file() else []
ran.write_text("\\n".join([*before, json.dumps(cell)]) + "\\n")
if json.dumps(cell) == {failing!r} and json.dumps(cell) not in before:
    sys.exit("the disk is full")
names = "scale recipe pretext layers mask_type ratio seed".split()
print(json.dumps(dict(zip(names, cell)) | {{"probes": {{}}, "curve": [{{"num_updates": 250, "loss_recon": 0.1}}]}}))
"""


@pytest.fixture
def argv(experiments, monkeypatch, tmp_path):
    """The command, with a program for a cell that fails once for one of them, and notes which it ran."""
    failing = json.dumps(experiments.cells.cells_of("ssast", "cpu")[2])
    (tmp_path / "fake.py").write_text(FAKE.format(failing=failing))
    monkeypatch.setattr(experiments.run, "ONE_CELL", tmp_path / "fake.py")
    monkeypatch.setattr(experiments.run, "PAUSE", 0.01)
    monkeypatch.setattr(experiments.run, "probe_names", lambda place: set())
    monkeypatch.setattr(experiments.run, "probe_sets", lambda place: {})
    monkeypatch.setattr(experiments.run, "measure_costs", lambda scale, out, path: True)
    (tmp_path / "train.tsv").touch()
    return ["ssast", "--out", str(tmp_path), "--data", str(tmp_path), "--workers", "2"]


def test_what_failed_is_run_again_and_what_is_done_is_not(experiments, argv, tmp_path, capsys):
    wanted = experiments.cells.cells_of("ssast", "cpu")

    def ran():
        return [experiments.cells.Cell(*json.loads(line)) for line in (tmp_path / "ran.txt").read_text().splitlines()]

    assert experiments.run.main([*argv, "--workers", "1"]) == 1
    assert sorted(ran()) == sorted(wanted)
    assert "the disk is full" in capsys.readouterr().err
    assert experiments.run.main(argv) == 0
    assert ran()[len(wanted) :] == [wanted[2]]
    assert set(experiments.cells.read_results(tmp_path / "results.jsonl")) == set(wanted)
    assert (tmp_path / "ssast_cpu.png").stat().st_size > 10_000


def test_what_a_cell_was_not_asked_for_is_measured_when_it_is(experiments):
    place = experiments.run.Place("out", None, None, None, {})
    done = {"probes": {"words": {}}, "fine_tuned": {"esc50": 0.5}}
    assert experiments.run.is_done(done, place, "cpu", {"words"})
    assert not experiments.run.is_done(done, place, "cpu", {"words", "drums"})
    assert not experiments.run.is_done(done, place._replace(fsdd="fsdd"), "cpu", {"words"})
    assert experiments.run.is_done(done, place._replace(corpora={"esc50": "a"}), "paper", set())
    assert not experiments.run.is_done(done, place._replace(corpora={"iemocap": "a"}), "paper", set())
    assert not experiments.run.is_done({}, place, "paper", set())


def test_what_ends_the_command_ends_its_cells(experiments, monkeypatch, tmp_path):
    def interrupt(seconds):
        raise KeyboardInterrupt

    start, started = experiments.run.start, []
    (tmp_path / "sleep.py").write_text("import time; time.sleep(60)")
    monkeypatch.setattr(experiments.run, "ONE_CELL", tmp_path / "sleep.py")
    monkeypatch.setattr(experiments.run, "start", lambda *given: started.append(start(*given)) or started[-1])
    monkeypatch.setattr(experiments.run, "time", SimpleNamespace(sleep=interrupt))
    monkeypatch.setattr(experiments.run, "probe_names", lambda place: set())
    monkeypatch.setattr(experiments.run, "probe_sets", lambda place: {})
    (tmp_path / "train.tsv").touch()
    assert experiments.run.main(["ssast", "--out", str(tmp_path), "--data", str(tmp_path), "--workers", "3"]) == 130
    assert [process.wait(timeout=20) for process in started] == [-signal.SIGTERM] * 3


@pytest.mark.parametrize("text", ["{", '{"seed": 1}\n', "<<<<<<< HEAD\n"])
def test_a_line_of_results_that_is_none_is_named(experiments, tmp_path, text):
    first, *_ = experiments.cells.cells_of("ssast", "cpu")
    path = tmp_path / "results.jsonl"
    experiments.cells.write_results(path, [result_of(first)])
    assert experiments.cells.read_results(path) == {first: result_of(first)}
    path.write_text(path.read_text() + text)
    with pytest.raises(UserError, match=r"results\.jsonl:2: "):
        experiments.cells.read_results(path)


def test_a_table_has_means_over_seeds_what_was_not_run_and_what_was_published(experiments):
    cells = experiments.cells.cells_of("pretext", "cpu")
    done = [cell for cell in cells if (cell.model, cell.pretext) == ("SSAST", "both")][:2]
    results = {cell: result_of(cell, accuracy) for cell, accuracy in zip(done, (0.4, 0.5), strict=True)}
    bare = next(cell for cell in cells if cell.pretext == "classification")
    results[bare] = {**bare._asdict(), "curve": []}  # of a machine without the sets
    text = experiments.tables.as_markdown(["pretext"], "cpu", results, {})
    (learnt,) = [line for line in text.split("At the end")[1].splitlines() if "SSAST, both" in line]
    assert "0.1 ± 0" in learnt
    (unlearnt,) = [line for line in text.split("At the end")[1].splitlines() if "MAE-AST, classification" in line]
    assert [word.strip() for word in unlearnt.split("|")[2:4]] == ["1 of 3", "-"]
    assert "2 of 3" in text and "45.0 ± 7.1" in text and "75.0 ± 0.0" in text
    assert "not run" in text.split("best readout")[0].split("MAE-AST, reconstruction")[1].splitlines()[0]
    (published,) = [line for line in text.splitlines() if "MAE-AST patch, 12" in line]
    assert [cell.strip() for cell in published.split("|")[2:8]] == ["30.6", "90.0", "97.9", "95.8", "", "59.8"]


def test_the_page_of_tables_is_that_of_the_results_that_are_kept(experiments):
    kept = ROOT / "docs" / "experiments"
    results = experiments.cells.read_results(kept / "results.jsonl")
    costs = kept / "costs_cpu.json"
    benchmark = json.loads(costs.read_text()) if costs.is_file() else {}
    page = (kept / "tables_cpu.md").read_text(encoding="utf-8")
    text = experiments.tables.as_markdown(experiments.cells.TABLES, "cpu", results, benchmark)
    assert page == f"# What was measured\n\n{text}\n"


def test_published_figures_stand_below_their_models(experiments):
    cells = experiments.cells.cells_of("ssast", "paper")
    assert {cell.tokens for cell in cells} == {"patch", "frame"}
    results = {cell: result_of(cell, fine_tuned={"esc50": 0.875, "voxceleb1": 0.5}) for cell in cells}
    lines = experiments.tables.as_markdown(["ssast"], "paper", results, {}).splitlines()
    assert not any(line.startswith("| random weights") for line in lines)  # which were measured of tiny networks
    place = next(number for number, line in enumerate(lines) if line.startswith("| SSAST frame, 12 layers"))
    header, ours, published = ([word.strip() for word in lines[row].split("|")[2:5]] for row in (4, place, place + 1))
    assert header == ["seeds", "ESC-50", "SID"]
    assert (ours, published) == (["1 of 1", "87.5", "50.0"], ["", "85.9", "80.8"])


def write_folds(folder, number):
    for fold in range(1, number + 1):
        (folder / str(fold)).mkdir(parents=True)
        for name in ("train.tsv", "train.lbl", "valid.tsv", "valid.lbl", "labels.txt"):
            (folder / str(fold) / name).touch()


@pytest.mark.parametrize(
    "given", ["esc50", "esc51=data", "esc50=nowhere", "esc50={four}", "voxceleb1={four}", "iemocap={five}"]
)
def test_a_corpus_that_is_not_there_is_one_line(experiments, tmp_path, capsys, given):
    given = given.format(four=tmp_path / "four", five=tmp_path / "five")
    write_folds(tmp_path / "four", 4)
    write_folds(tmp_path / "five", 5)
    (tmp_path / "five" / "2" / "valid.tsv").unlink()
    argv = ["ssast", "--scale", "paper", "--out", str(tmp_path), "--data", str(tmp_path / "four" / "1"), "--corpora"]
    assert experiments.run.main([*argv, given]) == 2
    assert capsys.readouterr().err.startswith(f"run.py: --corpora {given}: ")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--scale", "paper"], "--scale paper: expected --data, "),
        (["--data", "gone"], "--data gone: no train.tsv there; "),
        (["--print"], "results.jsonl: there are no results; "),
    ],
)
def test_what_a_table_lacks_is_one_line(experiments, tmp_path, capsys, argv, message):
    assert experiments.run.main(["ssast", "--out", str(tmp_path), *argv]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("name", "metric"), [("esc50", "accuracy"), ("audioset20k", "mAP")])
def test_corpora_are_fine_tuned_by_their_recipes_as_they_are_published(
    experiments, monkeypatch, tmp_path, name, metric
):
    num_folds = experiments.downstream.CORPORA[name].num_folds
    write_folds(tmp_path / "data", num_folds)
    called = []

    def run_command(command, *arguments, log):
        called.append((command, str(arguments[0])))
        if command == "train":
            composed(arguments[0], *map(str, arguments[1:]))
            (log.parent / "checkpoints").mkdir(parents=True)
            for epoch in ("5", "6", "_best"):
                (log.parent / "checkpoints" / f"checkpoint{epoch}.pt").touch()
        return json.dumps({"metrics": {metric: {"value": 0.1 * len(called)}}})

    monkeypatch.setattr(experiments.downstream, "run_command", run_command)
    score = experiments.downstream.fine_tune_corpus(Path("a.pt"), name, tmp_path / "data", tmp_path / "out")
    run = tmp_path / "out" / name / "1"
    steps = [("train", f"finetune_{name}"), ("evaluate", str(run / "checkpoints" / "checkpoint_best.pt"))]
    if name == "audioset20k":
        averaging = ("average", str(run / "checkpoints" / "checkpoint5.pt"))
        steps = [steps[0], averaging, ("evaluate", str(run / "averaged.pt"))]
    assert called[: len(steps)] == steps
    assert len(called) == num_folds * len(steps)
    assert score == pytest.approx(np.mean([0.1 * len(steps) * fold for fold in range(1, num_folds + 1)]))


def test_recordings_that_are_not_there_are_one_line(experiments, tmp_path, capsys):
    assert experiments.run.main(["ssast", "--out", str(tmp_path), "--fsdd", str(tmp_path / "gone")]) == 2
    assert capsys.readouterr().err == f"run.py: --fsdd {tmp_path / 'gone'}: there is no such folder\n"


def test_fine_tuning_on_digits_tests_speakers_that_it_did_not_hear(experiments, monkeypatch, tmp_path):
    names = [f"{digit}~{speaker}~{take}.wav" for speaker in "abcdef" for digit in range(2) for take in range(12)]
    targets = np.array([int(name[0]) for name in names])
    sets = experiments.downstream.sets
    speakers = np.array([name[2] for name in names])
    digits = sets.ProbeSet(FakeManifest(names), sets.splits.ProbeData(targets, ["0", "1"], speakers))
    monkeypatch.setattr(experiments.downstream, "run_command", lambda *arguments, **more: None)
    monkeypatch.setattr(experiments.downstream, "evaluate", lambda *arguments: 0.5)
    heard = {}
    for seed in (1, 2, 3):
        folder = tmp_path / str(seed)
        assert experiments.downstream.fine_tune_digits(Path("a.pt"), digits, folder, seed) == 0.5
        by_split = {split: (folder / f"{split}.tsv").read_text().splitlines()[1:] for split in ("train", "test")}
        speakers = {split: {line[2] for line in lines} for split, lines in by_split.items()}
        assert not speakers["train"] & speakers["test"]
        assert len(by_split["train"]) == 4 * 2 * 10 and len(by_split["test"]) == 2 * 2 * 12
        heard[seed] = frozenset(speakers["test"])
    assert frozenset.union(*heard.values()) == set("abcdef")


class FakeManifest:
    def __init__(self, names):
        self.names, self.root, self.num_samples = names, Path("/data"), np.full(len(names), 8_000)

    def __len__(self):
        return len(self.names)

    def relative_path(self, row):
        return self.names[row]

    path = relative_path
