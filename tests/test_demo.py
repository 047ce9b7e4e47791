import json
import subprocess
import sys

import pytest

from mae_ast_fairseq import cli, demo
from mae_ast_fairseq.corpus.synthetic import write_corpus
from mae_ast_fairseq.demo import choose_held_out
from mae_ast_fairseq.errors import ConfigError


def run_demo(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "mae_ast_fairseq.demo", *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_a_tenth_of_the_files_is_held_out_whatever_their_order(tmp_path):
    paths = [f"{number}.wav" for number in range(60)]
    held_out = choose_held_out(paths, tmp_path)
    assert len(set(held_out)) == 6
    assert set(held_out) < set(paths)
    assert choose_held_out(paths[::-1], tmp_path) == held_out


@pytest.mark.parametrize("paths", [[], ["one.wav"]])
def test_too_few_files_are_an_error(tmp_path, paths):
    with pytest.raises(ConfigError, match=f"{len(paths)} audio files were found; expected at least 2"):
        choose_held_out(paths, tmp_path)


def test_two_files_leave_one_to_train_on(tmp_path):
    assert len(choose_held_out(["a.wav", "b.wav"], tmp_path)) == 1


@pytest.mark.slow
def test_the_demo_ends_with_figures_and_pictures_from_before_and_after(tmp_path):
    write_corpus(tmp_path / "sounds", num_clips=20, seconds=(0.5, 1.0))
    done = run_demo("--audio", tmp_path / "sounds", "--updates", 40, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    results = tmp_path / "demo" / "sounds"
    assert len(list((results / "run" / "pictures").glob("*_untrained.png"))) == 2
    assert len(list((results / "run" / "pictures").glob("*.png"))) == 4
    page = results / "report" / "report.html"
    assert page.read_text().count("data:image/png") >= 4
    assert f"Look at {page}" in done.stdout
    assert (results / "run" / "checkpoints" / "checkpoint_last.pt").is_file()
    assert (results / "data" / "stats.json").is_file()
    errors = next(line for line in done.stdout.splitlines() if line.startswith("reconstruction error")).split()[-2:]
    assert float(errors[1]) < float(errors[0])


@pytest.mark.slow
@pytest.mark.parametrize("num_clips", [0, 1])
def test_a_folder_with_too_little_audio_is_one_line_and_exit_code_2(tmp_path, num_clips):
    (tmp_path / "sounds").mkdir()
    write_corpus(tmp_path / "sounds", num_clips=num_clips)
    done = run_demo("--audio", tmp_path / "sounds", cwd=tmp_path)
    assert done.returncode == 2
    message = [line for line in done.stderr.splitlines() if line.startswith("demo: ")]
    assert len(message) == 1
    assert f"{num_clips} audio files were found" in message[0]
    assert "Traceback" not in done.stderr


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
