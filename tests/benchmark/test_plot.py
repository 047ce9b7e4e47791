from pathlib import Path

import matplotlib.image
import pytest

from mae_ast_fairseq.benchmark import plot

SAME = {"precision": "float32", "batch_size": 2, "dropout": 0.0, "attention_dropout": 0.0}


def row(recipe: str, seconds: float, ratio: float, time: float) -> dict:
    return {
        **SAME,
        "recipe": recipe,
        "seconds": seconds,
        "mask_ratio": ratio,
        "time": {"forward_backward": {"median": time}},
        "memory": {"step_bytes": int(time * 2**30)},
    }


ROWS = [row("a", 20.0, 0.5, 4.0), row("a", 10.0, 0.5, 2.0), row("a", 10.0, 0.9, 1.0), row("b", 10.0, 0.5, 6.0)]


def test_lines_go_through_the_most_points_in_order() -> None:
    key = ("a", "float32", 2, 0.0, 0.0)
    assert plot.lines(ROWS, "seconds", "time")[key] == (0.5, [(10.0, 1.0), (20.0, 2.0)])
    assert plot.lines(ROWS, "mask_ratio", "memory")[key] == (10.0, [(0.5, 2.0), (0.9, 1.0)])


def test_rows_that_failed_are_left_out() -> None:
    failed = {**ROWS[0], "time": {"error": "not enough memory"}}
    assert plot.lines([failed], "seconds", "time") == {}
    assert plot.lines([failed], "seconds", "memory")


@pytest.mark.parametrize("parts", [("time", "memory"), ("time",), ("memory",)])
def test_the_picture_has_content(tmp_path: Path, parts: tuple[str, ...]) -> None:
    machine = {"processor": "some $CPU", "num_threads": 2, "device": "cpu", "torch": "2"}
    rows = [
        {name: value for name, value in one.items() if name in parts or name not in ("time", "memory")} for one in ROWS
    ]
    path = tmp_path / "a.png"
    plot.save(path, {"machine": machine, "rows": rows})
    image = matplotlib.image.imread(path)[..., :3]
    assert image.shape[0] > 500
    assert image.shape[1] > 800
    blue = abs(image - [0x00 / 255, 0x72 / 255, 0xB2 / 255]).max(axis=-1) < 0.02
    assert blue.sum() > 200  # the first recipe's lines
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]
