import csv
import json
import math
import re
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mae_ast_fairseq.report.page import Table, differing_fields, text, write_report
from mae_ast_fairseq.report.results import MAX_PICTURES, Score
from mae_ast_fairseq.report.runs import read_run
from tests.report.folders import COLLAPSED, EVALUATION, PROBE, png, write_json, write_run

SCRIPT = "<script>alert(1)</script>"
VOID = {"meta", "br", "img", "path", "line", "use", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks that elements are closed in order, and keeps what they hold."""

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def attributes(self, *names: str) -> list[str]:
        return [value for _, attributes in self.elements for name, value in attributes.items() if name in names]


def report(out: Path, *folders: Path, problems: tuple[str, ...] = ()) -> tuple[dict, str, Page]:
    out.mkdir()
    result, markdown = write_report(out, [read_run(folder) for folder in folders], problems)
    return result, markdown, Page((out / "report.html").read_text(encoding="utf-8"))


def with_pictures(folder: Path, count: int) -> Path:
    (folder / "pictures").mkdir()
    for number in range(count):
        (folder / "pictures" / f"{number}.png").write_bytes(png())
    return folder


def test_the_page_holds_everything_and_loads_nothing(tmp_path: Path) -> None:
    folder = with_pictures(write_run(tmp_path / "a"), MAX_PICTURES + 2)
    _, _, page = report(tmp_path / "out", folder)
    targets = page.attributes("src", "href", "xlink:href", "action", "data", "poster", "srcset")
    assert all(target.startswith(("#", "data:image/png;base64,")) for target in targets)
    pictures = [target for target in targets if target.startswith("data:")]
    assert [b64decode(picture.partition(",")[2], validate=True) for picture in pictures] == [png()] * MAX_PICTURES
    whole = (tmp_path / "out" / "report.html").read_text()
    assert all(target.startswith("#") for target in re.findall(r"url\(\s*['\"]?([^)]*)", whole))
    assert not {"script", "link", "iframe", "object", "embed"} & {tag for tag, _ in page.elements}
    assert "@import" not in whole
    (policy,) = [each["content"] for tag, each in page.elements if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert any(each.startswith(f"{MAX_PICTURES} of {MAX_PICTURES + 2};") for each in page.texts)


def test_a_page_of_many_runs_shows_fewer_pictures_of_each(tmp_path: Path) -> None:
    runs = [with_pictures(write_run(tmp_path / f"run{number}"), 6) for number in range(12)]
    _, _, page = report(tmp_path / "out", *runs)
    assert len([each for each in page.attributes("src") if each.startswith("data:")]) == 12 * 4


def test_what_people_write_is_text_and_nothing_else(tmp_path: Path) -> None:
    name = SCRIPT.replace("/", "\N{BIG SOLIDUS}") + '"&|`\n'
    folder = with_pictures(write_run(tmp_path / name), 1)
    (folder / "pictures" / "0.png").rename(folder / "pictures" / "<img onerror=x>.png")
    (folder / "pictures" / "\udcff\n.png").write_text("no picture")
    write_json(folder / "evaluate.json", {**EVALUATION, "split": SCRIPT})
    other = write_run(tmp_path / "b", task={"data": SCRIPT})
    result, markdown, page = report(tmp_path / "out", folder, other, problems=(SCRIPT,))
    assert [problem.isprintable() for problem in result["problems"]] == [True, True]
    assert not {"script", "b"} & {tag for tag, _ in page.elements}
    assert not page.attributes("onerror")
    shown = name.replace("\n", "\\n")
    assert any(shown in each for each in page.texts)
    assert any(SCRIPT in each for each in page.texts)
    assert "<" not in markdown
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {3, 4}


def test_figures_are_the_logs_in_every_file(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / "a"), write_run(tmp_path / "b", last=35, health=COLLAPSED)]
    write_json(folders[0] / "probe.json", PROBE)
    result, markdown, page = report(tmp_path / "out", *folders)
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == result
    a, b = result["runs"]
    assert (a["run"], a["state"], a["updates"], a["max_updates"], a["epoch"]) == ("a", "finished", 40, 40, 3)
    assert (b["run"], b["state"], b["updates"]) == ("b", "cut off", 35)
    assert a["validation"]["valid"]["loss"] == 4.5
    assert b["validation"]["valid"]["loss"] == 5.75
    assert (a["hours"], a["updates_per_second"]) == (0.667, 5.0)
    assert a["warnings"] == []
    assert b["warnings"][0].startswith("the encoder has collapsed")
    with (tmp_path / "out" / "report.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["validation.valid.loss"] for row in rows] == ["4.5", "5.75"]
    score = "probe: checkpoint, ridge, mean, layer best"
    assert rows[0][f"scores.{score}.accuracy.value"] == "0.75"
    assert a["scores"][score]["accuracy"] == {"value": 0.75, "deviation": 0.0125}
    assert "0.750 ± 0.013" in "".join(page.texts)
    assert (
        tmp_path / "out" / "report.md"
    ).read_text() == f"# Report\n\n{markdown}\n\n![curves over updates](curves.png)\n"
    assert any(line.startswith("- b: the encoder has collapsed") for line in markdown.splitlines())
    assert (tmp_path / "out" / "curves.png").stat().st_size > 10_000


def test_a_run_without_a_validation_shows_its_training(tmp_path: Path) -> None:
    result, markdown, _ = report(tmp_path / "out", write_run(tmp_path / "a", last=15))
    assert result["runs"][0]["validation"] == {}
    assert result["runs"][0]["training"]["loss"] == 7 - 15 / 16
    assert "a, training" in markdown


def test_fields_that_differ_are_shown_once() -> None:
    configs = [
        {
            "common.seed": seed,
            "optimization.lr": [lr],
            "lr_scheduler.lr": [lr],
            "checkpoint.save_dir": str(lr),
            "model.a": 1,
        }
        for seed, lr in ((1, 0.1), (1, 0.2))
    ]
    assert differing_fields(configs) == {"optimization.lr": [0.1, 0.2]}
    assert differing_fields([*configs, {}])["optimization.lr"][2] is None
    assert differing_fields([{"model.a": 1}, {"task.b": 2}]) == {"model.a": [1, None], "task.b": [None, 2]}
    assert differing_fields(configs[:1]) == {}


def test_the_longer_side_of_a_table_goes_down() -> None:
    long = Table.of("t", {"a": {"x": 1, "y": 2.0, "z": "w"}, "b": {"x": 1000}})
    assert (long.headers, long.rows[0], len(long.rows)) == (["", "a", "b"], ["x", "1", "1,000"], 3)
    assert long.rows[2] == ["z", "w", "-"]
    assert Table.of("t", {"a": {"x": 1}, "b": {"x": 2}}).headers == ["", "x"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        *((None, "-"), (math.nan, "-"), (12_345, "12,345"), (0.123456, "0.1235"), (True, "True"), ("a\nb", r"a\nb")),
        *((Score(0.5), "0.500"), (Score(0.5, deviation=0.25), "0.500 ± 0.250"), (Score(None), "-")),
        (Score(0.5, low=0.25, high=0.75), "0.500 (0.250 to 0.750)"),
    ],
)
def test_values_are_written_for_people(value, shown: str) -> None:
    assert text(value) == shown
