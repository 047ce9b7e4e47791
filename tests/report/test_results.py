import json
from pathlib import Path

import pytest

from mae_ast_fairseq.report.results import Score, read_results
from tests.report.folders import EVALUATION, PROBE, png, write_json


def test_what_commands_printed_is_read_by_what_was_measured(tmp_path: Path) -> None:
    write_json(tmp_path / "probe.json", PROBE)
    write_json(tmp_path / "probe-digits.json", PROBE)
    write_json(tmp_path / "evaluate.json", EVALUATION)
    found = read_results(tmp_path)
    assert found.problems == []
    scores = {"accuracy": Score(0.75, 0.0125), "macro_auc": Score(0.875)}
    assert found.scores == {
        "probe-digits: checkpoint, ridge, mean, layer best": scores,
        "probe: checkpoint, ridge, mean, layer best": scores,
        "evaluate: test, 1,200 clips": {"accuracy": Score(0.5, None, 0.25, 0.625), "mAP": Score(None)},
    }


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "3", "{}", '{"results": [{}]}', '{"results": 3}', '{"results": [{"a": {}}]}']
)
def test_other_content_is_a_problem_and_not_the_end(tmp_path: Path, content: str) -> None:
    for name in ("probe.json", "evaluate.json"):
        (tmp_path / name).write_text(content)
    found = read_results(tmp_path)
    assert found.scores == {}
    assert [problem.partition(": ")[0] for problem in found.problems] == [
        str(tmp_path / "probe.json"),
        str(tmp_path / "evaluate.json"),
    ]


def test_commands_still_print_what_is_read_here(tmp_path: Path) -> None:
    # Of a value that is no number, as where the one command's file got the other's name.
    write_json(tmp_path / "probe.json", EVALUATION)
    wrong = json.loads(json.dumps(PROBE).replace("0.75", '"many"'))
    write_json(tmp_path / "probe-b.json", wrong)
    (tmp_path / "probe-c.json").write_text(json.dumps(PROBE).replace("0.75", "1" + 400 * "0"))
    assert len(read_results(tmp_path).problems) == 3


def test_pictures_are_found_below_their_folder(tmp_path: Path) -> None:
    (tmp_path / "pictures" / "later").mkdir(parents=True)
    for name in ("pictures/10.png", "pictures/2.png", "pictures/later/1.png", "outside.png"):
        (tmp_path / name).write_bytes(png())
    (tmp_path / "pictures" / "text.png").write_text("<svg>")
    (tmp_path / "pictures" / "folder.png").mkdir()
    found = read_results(tmp_path)
    assert list(found.pictures) == ["2.png", "10.png", "later/1.png"]
    assert found.pictures["2.png"] == png()
    assert [Path(problem.partition(": ")[0]).name for problem in found.problems] == ["folder.png", "text.png"]


def test_of_a_clip_that_each_validation_drew_the_first_and_the_last_are_shown(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for name in ("01_a_update0000039", "01_a_update0000078", "01_a_update0000117", "02_b_update0000039", "01_a"):
        (tmp_path / "pictures" / f"{name}.png").write_bytes(png())
    found = read_results(tmp_path)
    names = ["01_a.png", "01_a_update0000039.png", "01_a_update0000117.png", "02_b_update0000039.png"]
    assert (list(found.pictures), found.num_pictures, found.problems) == (names, 5, [])
