"""`mae-ast report`: runs that are good, bad and both, as a person gives them."""

import json
from pathlib import Path

from mae_ast_fairseq.cli import main
from tests.report.folders import write_json, write_run

FILES = {"report.html", "report.md", "report.csv", "report.json", "curves.png"}


def test_a_report_of_several_runs_is_written_and_its_tables_printed(tmp_path: Path, capsys) -> None:
    runs = [str(write_run(tmp_path / name)) for name in ("a", "b")]
    out = tmp_path / "some" / "report"
    assert main(["report", *runs, "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == FILES
    printed, err = capsys.readouterr()
    assert printed.startswith("**Runs**\n\n|")
    assert printed.endswith(f"The page: {out / 'report.html'}\n")
    assert err == ""


def test_the_json_is_what_the_file_has_and_where_it_lies(tmp_path: Path, capsys) -> None:
    write_run(tmp_path / "sweep" / "0")
    write_run(tmp_path / "sweep" / "1")
    out = tmp_path / "out"
    assert main(["report", str(tmp_path / "sweep"), str(tmp_path / "sweep" / "1"), "--out", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [run["run"] for run in printed["runs"]] == ["0", "1"]
    assert printed == {**json.loads((out / "report.json").read_text()), "out": str(out)}


def test_it_goes_on_past_bad_runs_and_lists_them(tmp_path: Path, capsys) -> None:
    good, bad = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    (bad / "log.jsonl").write_text("")
    write_json(good / "probe.json", ["other"])
    missing = tmp_path / "c"
    out = tmp_path / "out"
    assert main(["report", *map(str, (good, bad, missing)), "--out", str(out)]) == 1
    lines = capsys.readouterr().err.splitlines()
    found = [bad / "log.jsonl", missing, good / "probe.json"]
    assert [line.partition(": ")[2].partition(": ")[0] for line in lines] == [str(path) for path in found]
    result = json.loads((out / "report.json").read_text())
    assert (len(result["runs"]), len(result["problems"])) == (1, 3)
    assert "log.jsonl" in (out / "report.html").read_text()


def test_where_no_run_is_good_one_line_says_why(tmp_path: Path, refusal) -> None:
    (tmp_path / "checkpoint_best.pt").touch()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / ".hydra").mkdir()
    out = tmp_path / "out"
    assert "this is a file; expected the folder of a run" in refusal(
        "report", tmp_path / "checkpoint_best.pt", "--out", out
    )
    line = refusal("report", tmp_path / "old", tmp_path / "missing", "--out", out)
    assert line.startswith(f"{tmp_path / 'old'}: no log.jsonl in it or below, but .hydra; expected")
    assert line.endswith("(and 1 more that cannot be read)\n")
    assert not list(out.iterdir())


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, refusal) -> None:
    (tmp_path / "file").touch()
    assert "--out" in refusal("report", write_run(tmp_path / "a"), "--out", tmp_path / "file")
