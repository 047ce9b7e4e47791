"""docs/masking.md says what each strategy does, beside a picture that the code of training draws."""

import runpy
from itertools import product
from pathlib import Path

import numpy as np
import pytest

import mae_ast_fairseq
from mae_ast_fairseq.data.masking import CHUNK_SIDES, STRATEGIES, Masking, num_visible
from mae_ast_fairseq.evaluation.plots import save_figure

pytest.importorskip("matplotlib")

DOCS = Path(mae_ast_fairseq.__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(DOCS / "masking.py"))


def test_the_page_names_every_strategy_and_the_sizes_of_chunks():
    page = (DOCS / "masking.md").read_text(encoding="utf-8")
    assert all(f"\n| `{name}` | " in page for name in STRATEGIES)
    assert "{}, {} and {}".format(*CHUNK_SIDES) in page
    assert f"`model.mask_length` = {Masking('chunk_mask', 0.75).length} tokens" in page
    assert "](masking.png)" in page
    assert (DOCS / "masking.png").read_bytes().startswith(b"\x89PNG")


def test_the_script_draws_every_strategy_at_every_ratio(script, tmp_path):
    drawn = []
    save_figure(tmp_path / "masking.png", lambda: drawn.append(script["draw"]()) or drawn[0])
    assert (tmp_path / "masking.png").read_bytes().startswith(b"\x89PNG")
    shown = {}
    for column in np.array(drawn[0].axes).reshape(-1, 3).T:
        for first, second in column.reshape(-1, 2):
            title = first.get_title().partition(":")[0]
            shown[title] = [ax.images[0].get_array() for ax in (first, second)]
    kinds = product(STRATEGIES, ("patches", "frames"), ("50%", "75%", "85%"))
    assert shown.keys() == {f"{name}, {tokens}, {ratio}" for name, tokens, ratio in kinds}
    for title, clips in shown.items():
        ratio = float(title[-3:-1]) / 100
        for clip in clips:
            assert 1 - clip.mask.mean() == pytest.approx(num_visible(200, ratio) / 200)


def test_only_a_shared_mask_is_that_of_the_whole_batch(script):
    for tokens, grid in script["GRIDS"].items():
        for name, strategy in STRATEGIES.items():
            first, second = script["masks"](Masking(name, 0.75), grid, 400)
            assert np.array_equal(first.masked, second.masked) == strategy.shared, (tokens, name)
