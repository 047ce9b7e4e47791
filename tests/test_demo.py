import json
import subprocess
import sys

import pytest

from mae_ast_fairseq import cli, demo
from mae_ast_fairseq.corpus.synthetic import write_corpus
from mae_ast_fairseq.errors import UserError


def run_demo(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "mae_ast_fairseq.demo", *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.slow
def test_the_demo_ends_with_figures_and_pictures_from_before_and_after(tmp_path):
    write_corpus(tmp_path / "sounds", num_clips=60, seconds=(0.5, 1.0))
    done = run_demo("--audio", tmp_path / "sounds", "--updates", 40, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    results = tmp_path / "demo" / "sounds"
    untrained = len(list((results / "run" / "pictures").glob("*_untrained.png")))
    assert untrained >= 1
    assert len(list((results / "run" / "pictures").glob("*.png"))) == 2 * untrained
    page = results / "report" / "report.html"
    assert page.read_text().count("data:image/png") >= 2 * untrained
    assert f"Look at {page}" in done.stdout
    assert (results / "run" / "checkpoints" / "checkpoint_last.pt").is_file()
    assert (results / "data" / "stats.json").is_file()
    before, after = next(line for line in done.stdout.splitlines() if line.startswith("InfoNCE, nats")).split()[-2:]
    assert float(after) < float(before)


@pytest.mark.slow
@pytest.mark.parametrize(("num_clips", "found"), [(0, "no audio files below it"), (1, "none of 1 files fell to valid")])
def test_a_folder_with_too_little_audio_is_said_by_the_command_that_needs_it(tmp_path, num_clips, found):
    (tmp_path / "sounds").mkdir()
    write_corpus(tmp_path / "sounds", num_clips=num_clips)
    done = run_demo("--audio", tmp_path / "sounds", cwd=tmp_path)
    assert done.returncode == 2
    *_, reason, end = done.stderr.splitlines()
    assert found in reason
    assert end == "demo: `mae-ast manifest` failed with exit code 2"
    assert "Traceback" not in done.stderr


def test_recordings_among_the_demo_s_results_are_not_deleted(tmp_path):
    sounds = tmp_path / "demo" / "birds"
    (sounds / "run").mkdir(parents=True)
    (sounds / "run" / "train.log").touch()
    with pytest.raises(UserError, match=r"--audio .*: it lies in .*birds, which .*; expected .*--out"):
        demo.run_demo(sounds, tmp_path / "demo", 1)
    assert (sounds / "run" / "train.log").is_file()


def test_the_probe_s_answer_is_where_the_report_looks_for_it(tmp_path, monkeypatch):
    called = []

    def call(*words, capture=False):
        called.append(list(map(str, words)))
        return '{"results": []}'

    monkeypatch.setattr(demo, "call", call)
    demo.probe(tmp_path / "checkpoint_last.pt", tmp_path / "data", tmp_path / "probe.json")
    assert json.loads((tmp_path / "probe.json").read_text()) == {"results": []}
    args = cli._build_parser(called[0][1:]).parse_args(called[0][1:])
    assert (args.command, args.shots, args.folds) == ("probe", 1, 3)
