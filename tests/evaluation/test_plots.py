"""Pictures show the values that were given, where they belong on the axes."""

from pathlib import Path

import numpy as np
import pytest

from mae_ast_fairseq import extras
from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.evaluation import plots
from mae_ast_fairseq.evaluation.plots import band_of_hertz, save_confusion, save_reconstruction
from mae_ast_fairseq.nn.fbank import mel_banks
from tests.test_layers import HIDE_FAIRSEQ, run

matplotlib = pytest.importorskip("matplotlib")
figures = pytest.importorskip("matplotlib.figure")


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    """Half a second: a ramp, seen in its first fifth and in its low bands, filled in with twice its values."""
    original = np.add.outer(np.linspace(-8, 0, 50), np.linspace(-4, 4, 128)).astype(np.float32)
    visible = np.zeros(original.shape, dtype=bool)
    visible[:10], visible[:, :16] = True, True
    return {"original": original, "visible": visible, "reconstructed": np.where(visible, original, 2 * original)}


@pytest.fixture
def figure(arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The figure that is saved."""
    saved = []
    monkeypatch.setattr(figures.Figure, "savefig", lambda figure, *_, **__: saved.append(figure))
    save_reconstruction(tmp_path / "a.png", **arrays, title="Some $clip_{")
    return saved[0]


def panel_values(figure) -> list[np.ma.MaskedArray]:
    """Return what each panel shows, [T, F] each."""
    return [ax.images[0].get_array().T for ax in figure.axes[:4]]


@pytest.mark.parametrize("num_mel_bins", [40, 128])
@pytest.mark.parametrize("hertz", [500, 1_000, 2_000, 4_000])
def test_a_frequency_lies_in_the_band_that_passes_most_of_it(hertz: int, num_mel_bins: int) -> None:
    response = mel_banks(num_mel_bins)[round(hertz / 16_000 * 512)]
    assert abs(band_of_hertz(hertz, num_mel_bins) - (int(response.argmax()) + 0.5)) <= 0.5 + 1e-6


def test_panels_show_the_clip_what_was_seen_the_reconstruction_and_the_error(figure, arrays) -> None:
    clip, seen, reconstruction, error = panel_values(figure)
    hidden = ~arrays["visible"]
    assert (clip == arrays["original"]).all()
    assert (seen.mask == hidden).all()
    assert (seen[~hidden] == arrays["original"][~hidden]).all()
    assert (reconstruction == arrays["reconstructed"]).all()
    assert (error.mask == ~hidden).all()
    np.testing.assert_array_equal(error[hidden], np.abs(arrays["reconstructed"] - arrays["original"])[hidden])


def test_axes_are_in_seconds_and_hertz(figure) -> None:
    bottom = figure.axes[3]
    assert bottom.get_xlim() == (0, 0.5)
    ticks = dict(zip((tick.get_text() for tick in bottom.get_yticklabels()), bottom.get_yticks(), strict=True))
    assert list(ticks) == ["100", "500", "1000", "2000", "4000", "8000"]
    assert ticks["1000"] == band_of_hertz(1_000, 128)
    assert bottom.get_ylim() == (0, 128)


def test_low_bands_are_at_the_bottom(figure) -> None:
    assert all(ax.images[0].origin == "lower" for ax in figure.axes[:4])


def test_log_mel_panels_share_their_colours(figure) -> None:
    limits = [ax.images[0].get_clim() for ax in figure.axes[:3]]
    assert limits[0] == limits[1] == limits[2]


def test_colours_do_not_depend_on_the_reconstruction(arrays, tmp_path: Path, monkeypatch) -> None:
    limits = []

    def keep(figure, *_, **__) -> None:
        limits.append([ax.images[0].get_clim() for ax in figure.axes[:4]])

    monkeypatch.setattr(figures.Figure, "savefig", keep)
    for factor in (1, 10):
        changed = {**arrays, "reconstructed": factor * arrays["reconstructed"]}
        save_reconstruction(tmp_path / "a.png", **changed, title="")
    assert limits[0] == limits[1]


def test_the_title_is_taken_literally(figure) -> None:
    assert figure.get_suptitle() == "Some $clip_{"
    assert not figure._suptitle.get_parse_math()


def test_the_same_arrays_give_the_same_bytes(arrays, tmp_path: Path) -> None:
    for name in "ab":
        save_reconstruction(tmp_path / name, **arrays, title="a$b^ \N{HIRAGANA LETTER A}")
    assert (tmp_path / "a").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_settings_of_the_users_own_do_not_matter_and_are_left_alone(arrays, tmp_path: Path) -> None:
    save_reconstruction(tmp_path / "a", **arrays, title="")
    with matplotlib.rc_context({"axes.facecolor": "red", "font.size": 30}):
        save_reconstruction(tmp_path / "b", **arrays, title="")
        assert matplotlib.rcParams["font.size"] == 30
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_silence_has_a_scale_too(tmp_path: Path, monkeypatch) -> None:
    saved = []
    monkeypatch.setattr(figures.Figure, "savefig", lambda figure, *_, **__: saved.append(figure))
    silence = np.full((32, 128), -15.9424, dtype=np.float32)
    visible = np.zeros(silence.shape, dtype=bool)
    save_reconstruction(tmp_path / "a", original=silence, visible=visible, reconstructed=silence, title="")
    assert all(np.less(*ax.images[0].get_clim()) for ax in saved[0].axes[:4])


def test_without_matplotlib_the_message_says_how_to_install_it(arrays, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'mae_ast_fairseq\[plot\]'"):
        save_reconstruction(tmp_path / "a.png", **arrays, title="")
    assert not list(tmp_path.iterdir())


def test_matplotlib_is_imported_only_for_a_picture() -> None:
    result = run(f"{HIDE_FAIRSEQ}\nimport mae_ast_fairseq.cli.reconstruct\nprint('matplotlib' in sys.modules)")
    assert (result.stdout, result.stderr) == ("False\n", "")


# --- confusion matrices

COUNTS = np.array([[8, 2, 0], [0, 5, 5], [0, 0, 0]])


@pytest.fixture
def confusion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that returns the axes of the matrix that is saved."""
    saved = []
    monkeypatch.setattr(figures.Figure, "savefig", lambda figure, *_, **__: saved.append(figure))

    def draw(counts: np.ndarray, names: list[str]):
        save_confusion(tmp_path / "a.png", counts=counts, names=names, title="Some $clip_{")
        assert saved[-1].get_suptitle() == "Some $clip_{"
        return saved[-1].axes[0]

    return draw


def test_a_confusion_matrix_shows_fractions_of_the_rows_and_counts(confusion) -> None:
    ax = confusion(COUNTS, ["dog", "cat", "owl"])
    fractions = ax.images[0].get_array()
    np.testing.assert_allclose(fractions[:2], [[0.8, 0.2, 0], [0, 0.5, 0.5]])
    assert fractions.mask[2].all()
    assert not fractions.mask[:2].any()
    assert ax.images[0].origin == "upper"
    assert ax.images[0].get_clim() == (0, 1)
    shown = {text.get_position(): text.get_text() for text in ax.texts}
    assert shown == {(0, 0): "8", (1, 0): "2", (1, 1): "5", (2, 1): "5"}
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("is", "taken for")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["dog", "cat", "owl"]


def test_fifty_classes_are_named_without_counts_and_hundreds_not_at_all(confusion) -> None:
    for num_classes, num_names in ((50, 50), (300, 0)):
        names = [f"a ${number}_name that is longer than it may be" for number in range(num_classes)]
        ax = confusion(np.eye(num_classes, dtype=int), names)
        assert not ax.texts
        shown = [label.get_text() for label in ax.get_xticklabels() if label.get_text().startswith("a $")]
        assert len(shown) == num_names
        assert all(len(name) <= plots.MAX_NAME and name.endswith("…") for name in shown)


def test_a_confusion_matrix_has_the_same_bytes_whatever_a_users_settings(tmp_path: Path) -> None:
    save_confusion(tmp_path / "a", counts=COUNTS, names=["$a", "b^", "\N{HIRAGANA LETTER A}"], title="$")
    with matplotlib.rc_context({"axes.facecolor": "red", "font.size": 30}):
        save_confusion(tmp_path / "b", counts=COUNTS, names=["$a", "b^", "\N{HIRAGANA LETTER A}"], title="$")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes().startswith(b"\x89PNG")
