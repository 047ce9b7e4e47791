import json
import re
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from mae_ast_fairseq.evaluation.collapse import MIN_GAIN, MIN_RANK_FRACTION, MIN_SPREAD
from mae_ast_fairseq.report import curves
from mae_ast_fairseq.report.runs import read_run
from tests.report.folders import figures, write_run


def drawn(*folders: Path) -> dict[str, curves.Panel]:
    return {panel.name: panel for panel in curves.panels([read_run(folder) for folder in folders])}


def test_there_is_a_panel_for_each_figure_that_a_run_has(tmp_path: Path) -> None:
    finetuned = {"top1": 0.5, "mAP": 0.25, "best_mAP": 0.25}
    both = drawn(write_run(tmp_path / "a"), write_run(tmp_path / "b", health=finetuned))
    health = ["token_spread", "effective_rank", "content_gain"]
    assert list(both) == ["loss", "loss_recon", "info_nce_accuracy", *health, "top1", "mAP", "lr", "ups"]
    assert {line.run for line in both["loss"].lines} == {0, 1}
    assert {line.run for line in both["token_spread"].lines} == {0}
    assert {line.run for line in both["mAP"].lines} == {1}
    assert "token_spread" not in drawn(tmp_path / "b")


def test_lines_are_the_logs_figures_and_bounds_those_of_training(tmp_path: Path) -> None:
    panels = drawn(write_run(tmp_path / "a"), write_run(tmp_path / "b", model={"encoder_embed_dim": 768}))
    training, validation = panels["loss"].lines[:2]
    assert training.points == [(update, 7 - update / 16) for update in range(5, 41, 5)]
    assert validation.points == [(20, 5.75), (40, 4.5)]
    assert (training.is_validation, validation.is_validation) == (False, True)
    assert panels["token_spread"].bounds == [MIN_SPREAD]
    assert panels["content_gain"].bounds == [MIN_GAIN]
    assert panels["effective_rank"].bounds == [MIN_RANK_FRACTION * 192, MIN_RANK_FRACTION * 768]
    assert panels["loss"].bounds == []


def test_accuracy_stands_beside_chance(tmp_path: Path) -> None:
    (chance,) = [line for line in drawn(write_run(tmp_path / "a"))["info_nce_accuracy"].lines if line.is_reference]
    assert chance.points == [(20, 0.0125), (40, 0.0125)]


def test_further_validation_sets_are_lines_of_their_own(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    with (folder / "log.jsonl").open("a") as log:
        log.write(json.dumps(figures("valid", 40, subset="music", loss=3.0)) + "\n")
    lines = [line for line in drawn(folder)["loss"].lines if line.is_validation]
    assert [(line.is_reference, line.points[-1]) for line in lines] == [(False, (40, 4.5)), (True, (40, 3.0))]


def test_figures_that_never_were_finite_have_no_panel(tmp_path: Path) -> None:
    health = {"token_spread": 0.5, "content_gain": float("nan")}
    assert "content_gain" not in drawn(write_run(tmp_path / "a", health=health))


def test_long_lines_are_averaged(tmp_path: Path) -> None:
    updates = range(1, 10 * curves.MAX_POINTS + 1)
    folder = write_run(tmp_path / "a")
    lines = (json.dumps({"kind": "train_inner", "num_updates": update, "loss": update % 10}) for update in updates)
    (folder / "log.jsonl").write_text("".join(f"{line}\n" for line in lines))
    points = np.array(drawn(folder)["loss"].lines[0].points)
    assert points.shape == (curves.MAX_POINTS, 2)
    assert points[:, 1] == pytest.approx(4.5)
    assert points[:2, 0] == pytest.approx([5.5, 15.5])


def test_runs_are_told_apart_by_colour_and_then_by_dashes() -> None:
    looks = [tuple(curves.look(run).values()) for run in range(curves.NUM_LOOKS)]
    assert len(set(looks)) == curves.NUM_LOOKS
    assert not {":"} & {style for _, style in looks}  # which is guessing


@pytest.mark.parametrize("length", [3, 30, 60])
def test_names_of_runs_fit_into_the_picture(tmp_path: Path, length: int) -> None:
    figure = curves._figure(
        curves.panels([read_run(write_run(tmp_path / "a"))]), [("mae_AST_frame_random_0.75_" * 3)[:length]] * 7
    )
    FigureCanvasAgg(figure).draw()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width


def test_the_picture_has_content_whatever_runs_are_called(tmp_path: Path) -> None:
    runs = [read_run(write_run(tmp_path / name)) for name in "ab"]
    curves.save(tmp_path / "curves.png", curves.panels(runs), ["$x^{$", "<b>" * 50])
    pixels = matplotlib.image.imread(tmp_path / "curves.png")
    assert pixels.shape[1] > 1000
    assert pixels[..., :3].std() > 0.05


def test_an_svg_takes_its_colours_from_the_page_and_loads_nothing(tmp_path: Path) -> None:
    panels = curves.panels([read_run(write_run(tmp_path / "a"))])
    drawings = [curves.as_svg(panel) for panel in panels]
    assert all(svg.startswith("<svg") and svg.endswith("</svg>\n") for svg in drawings)
    assert all("currentColor" in svg and "#010203" not in svg and "script" not in svg for svg in drawings)
    assert all(target.startswith("#") for svg in drawings for target in re.findall(r'href="([^"]*)"', svg))
    ids = [name for svg in drawings for name in re.findall(r'\bid="([^"]*)"', svg)]
    assert len(ids) == len(set(ids)) > 0
    assert drawings == [curves.as_svg(panel) for panel in panels]
