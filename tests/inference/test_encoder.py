"""`load_pretrained` gives features in plain PyTorch, the released ones, whatever clips come together."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mae_ast_fairseq.checkpoints.read import build_model, read_checkpoint
from mae_ast_fairseq.errors import AudioError, CheckpointError, ConfigError
from mae_ast_fairseq.inference.encoder import PretrainedEncoder, load_pretrained, token_seconds
from mae_ast_fairseq.nn import fbank
from mae_ast_fairseq.nn.build import MODELS
from mae_ast_fairseq.nn.tokens import TokenGrid
from tests.checkpoints.test_read import save_checkpoint, save_tiny_checkpoint
from tests.test_layers import HIDE_FAIRSEQ, run
from tests.tiny import FRAME, golden_values, tiny_autoencoder

TOLERANCE = {"atol": 1e-5, "rtol": 0}
LENGTHS = (16_000, 9_123, 3_000)


@pytest.fixture(params=["patch", "frame"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[{}, FRAME, {"layer_norm_first": True}], ids=["patch", "frame", "pre-norm"])
def model(request, tmp_path: Path) -> PretrainedEncoder:
    return load_pretrained(save_tiny_checkpoint(tmp_path / "a.pt", **request.param))


@pytest.fixture
def waveforms() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(0, 0.1, length).astype(np.float32) for length in LENGTHS]


def single_waveform(values: dict[str, torch.Tensor]) -> torch.Tensor:
    """Cut the golden waveform to the frames that the golden features are of."""
    return values["single_wav"].flatten()[: (values["single_fbank"].shape[1] - 1) * 160 + 400]


# --- what comes out


def test_features_of_a_waveform_are_the_released_ones(golden, kind: str) -> None:
    values = golden_values(golden, kind)
    model = load_pretrained(golden / f"released_{kind}_random.pt")
    waveform = single_waveform(values)
    torch.testing.assert_close(model(waveform), values["single_x"][0], **TOLERANCE)
    torch.testing.assert_close(model(waveform[None]), values["single_x"], **TOLERANCE)
    torch.testing.assert_close(model.encode([waveform]).features, values["single_x"], **TOLERANCE)


def test_every_layer_is_the_released_one(golden, kind: str) -> None:
    values = golden_values(golden, kind)
    encoder = load_pretrained(golden / f"released_{kind}_random.pt").encoder
    states = encoder.hidden_states(values["extract_fbank"], values["extract_padding_mask"])
    keep = ~values["extract_token_padding_mask"]
    for number, layer in enumerate(states.layers):
        torch.testing.assert_close(layer[keep], values[f"extract_hidden_{number}"][keep], **TOLERANCE)


def test_it_works_where_fairseq_cannot_be_imported(golden) -> None:
    code = f"""{HIDE_FAIRSEQ}
import numpy as np, torch
from mae_ast_fairseq.inference.encoder import load_pretrained
for kind in ("patch", "frame"):
    values = np.load("{golden}/released_" + kind + "_random.npz")
    num_samples = (values["single_fbank"].shape[1] - 1) * 160 + 400
    model = load_pretrained("{golden}/released_" + kind + "_random.pt")
    found = model(torch.from_numpy(values["single_wav"].ravel()[:num_samples]))
    print(np.abs(found.numpy() - values["single_x"][0]).max() < 1e-5)
print([name for name in sys.modules if name.partition(".")[0] in ("fairseq", "omegaconf", "hydra")])
"""
    result = run(code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["True", "True", "[]"]


def test_hidden_states_and_features_are_those_of_extract_features(model, waveforms) -> None:
    encoded = model.encode(waveforms[:1])
    source = torch.from_numpy(waveforms[0])[None]
    assert len(encoded.hidden_states) == model.num_layers == 3
    for number, layer in enumerate(encoded.hidden_states, start=1):
        assert layer.equal(model.encoder.extract_features(source, output_layer=number).features)
    assert encoded.features.equal(model.encoder.extract_features(source).features)
    assert encoded.features.equal(model(source))
    assert encoded.features.shape[-1] == model.width


def test_a_clip_does_not_depend_on_its_batch(model, waveforms) -> None:
    together = model.encode(waveforms)
    for row, waveform in enumerate(waveforms):
        single = model.encode([waveform])
        keep = ~together.token_padding_mask[row]
        assert (
            int(keep.sum())
            == single.features.shape[1]
            == model.encoder.grid.num_tokens(fbank.num_frames(len(waveform)))
        )
        torch.testing.assert_close(together.features[row, keep], single.features[0], **TOLERANCE)
        torch.testing.assert_close(together.clip[row], single.clip[0], **TOLERANCE)
        own = together.frames[row, ~together.frame_padding_mask[row]]
        torch.testing.assert_close(own, single.frames[0], **TOLERANCE)
        for layer, layer_alone in zip(together.hidden_states, single.hidden_states, strict=True):
            torch.testing.assert_close(layer[row, keep], layer_alone[0], **TOLERANCE)


def test_a_padded_batch_with_lengths_is_the_list(model, waveforms) -> None:
    padded = np.full((3, max(LENGTHS) + 100), np.nan, dtype=np.float32)  # padding never matters
    for row, waveform in zip(padded, waveforms, strict=True):
        row[: len(waveform)] = waveform
    from_list = model.encode([torch.from_numpy(waveform) for waveform in waveforms])
    for lengths in (LENGTHS, torch.tensor(LENGTHS)):
        from_batch = model.encode(padded, lengths)
        num_tokens = from_list.features.shape[1]
        assert from_batch.token_padding_mask[:, :num_tokens].equal(from_list.token_padding_mask)
        keep = ~from_list.token_padding_mask
        torch.testing.assert_close(from_batch.features[:, :num_tokens][keep], from_list.features[keep], **TOLERANCE)


def test_a_clips_vector_is_the_mean_over_its_tokens(model, waveforms) -> None:
    encoded = model.encode(waveforms)
    assert encoded.clip.dtype == torch.float32
    for row in range(3):
        expected = encoded.features[row][~encoded.token_padding_mask[row]].mean(dim=0)
        torch.testing.assert_close(encoded.clip[row], expected, **TOLERANCE)


@pytest.mark.parametrize(
    ("layers", "numbers"), [("all", [1, 2, 3]), ("last", None), (1, [1]), (3, [3]), ((1, 3), [1, 3]), ([3, 2], [3, 2])]
)
def test_a_clips_vector_is_of_the_layers_asked_for(model, waveforms, layers, numbers) -> None:
    encoded = model.encode(waveforms, layers=layers)
    read = [encoded.features] if numbers is None else [encoded.hidden_states[number - 1] for number in numbers]
    for row in range(3):
        keep = ~encoded.token_padding_mask[row]
        expected = torch.cat([layer[row, keep].mean(dim=0) for layer in read])
        torch.testing.assert_close(encoded.clip[row], expected, **TOLERANCE)


def test_bands_and_their_maximum_of_all_layers_are_read_out_as_by_hand(tmp_path: Path, waveforms) -> None:
    model = load_pretrained(save_tiny_checkpoint(tmp_path / "a.pt"))
    encoded = model.encode(waveforms, readout="bands+max", layers="all")
    assert encoded.clip.shape == (3, 3 * 2 * 8 * 48)
    for row in range(3):
        expected = []
        for layer in encoded.hidden_states:
            tokens = layer[row, ~encoded.token_padding_mask[row]]
            columns = torch.stack([tokens[place : place + 8].flatten() for place in range(0, len(tokens), 8)])
            expected += [columns.mean(dim=0), columns.max(dim=0).values]
        torch.testing.assert_close(encoded.clip[row], torch.cat(expected), **TOLERANCE)
    plain = model.encode(waveforms)  # the readout changes nothing else
    assert all(
        torch.equal(value, getattr(encoded, name))
        for name, value in plain._asdict().items()
        if name not in ("hidden_states", "clip")
    )


def test_frames_are_the_tokens_of_a_time_column(model, waveforms) -> None:
    encoded = model.encode(waveforms)
    grid = model.encoder.grid
    num_columns = grid.num_columns(fbank.num_frames(LENGTHS[0]))
    assert encoded.frames.shape == (3, num_columns, grid.rows * model.width)
    for place in range(encoded.features.shape[1]):
        column, row = divmod(place, grid.rows)
        band = encoded.frames[:, column, row * model.width : (row + 1) * model.width]
        assert band.equal(encoded.features[:, place])
        assert encoded.frame_padding_mask[:, column].equal(encoded.token_padding_mask[:, place])
        assert encoded.frame_seconds[column] == encoded.seconds[place]
        assert encoded.rows[place] == row
    centre = ((grid.kernel[1] - 1) * 160 + 400) / 2
    expected = [(column * grid.stride[1] * 160 + centre) / 16_000 for column in range(num_columns)]
    torch.testing.assert_close(encoded.frame_seconds, torch.tensor(expected))
    counts = [int(grid.num_columns(fbank.num_frames(length))) for length in LENGTHS]
    assert (~encoded.frame_padding_mask).sum(dim=1).tolist() == counts


@pytest.mark.parametrize(
    ("kernel", "stride", "seconds", "rows"),
    [
        # 16 frames of 25 ms, 10 ms apart, cover 0 to 175 ms; the next column begins at 160 ms.
        ((64, 16), (64, 16), [0.0875, 0.0875, 0.2475, 0.2475], [0, 1, 0, 1]),
        ((128, 2), (128, 2), [0.0175, 0.0375, 0.0575, 0.0775], [0, 0, 0, 0]),
        ((64, 16), (64, 10), [0.0875, 0.0875, 0.1875, 0.1875], [0, 1, 0, 1]),
    ],
)
def test_a_tokens_time_is_the_centre_of_what_it_covers(kernel, stride, seconds, rows) -> None:
    grid = TokenGrid(feature_dim=128, kernel=kernel, stride=stride)
    torch.testing.assert_close(token_seconds(grid, 4), torch.tensor(seconds))
    assert [place % grid.rows for place in range(4)] == rows


def test_a_click_is_heard_in_the_token_whose_time_and_band_it_has(tmp_path: Path) -> None:
    # A tone of 5 kHz around 0.5 s: the patch that changes most must say so.
    model = load_pretrained(save_tiny_checkpoint(tmp_path / "a.pt"))
    silence = np.random.default_rng(0).normal(0, 1e-3, 16_000).astype(np.float32)
    tone = silence.copy()
    tone[7_600:8_400] += 0.5 * np.sin(2 * np.pi * 5_000 * np.arange(800) / 16_000).astype(np.float32)
    embedded = [model.encoder.extract_features(torch.from_numpy(wave)[None], ret_conv=True) for wave in (silence, tone)]
    loudest = int((embedded[0].features - embedded[1].features).detach().norm(dim=-1).argmax())
    encoded = model.encode([tone])
    assert float(encoded.seconds[loudest]) == pytest.approx(0.5, abs=0.08)
    band = 1127 * np.log(1 + 5_000 / 700)  # in Mel
    low, high = (1127 * np.log(1 + hertz / 700) for hertz in (20, 8_000))
    assert int(encoded.rows[loudest]) == int((band - low) / (high - low) * 8)


# --- how it is held


def test_it_is_an_encoder_alone_in_evaluation_mode_without_gradients(tmp_path: Path, waveforms) -> None:
    model = load_pretrained(save_tiny_checkpoint(tmp_path / "a.pt", dropout=0.5))
    assert not model.training and not model.encoder.encoder.layers[0].dropout.training
    names = {name.split(".")[1] for name in model.state_dict()}
    assert names == {"batch_norm", "post_extract_proj", "encoder"}
    features = model(torch.from_numpy(waveforms[0]))
    assert not features.requires_grad
    head = torch.nn.Linear(48, 2)
    head(features).sum().backward()  # no inference tensors: a head may be trained on them
    assert head.weight.grad is not None
    assert features.equal(model(torch.from_numpy(waveforms[0])))


@pytest.mark.parametrize(("precision", "error"), [("bfloat16", 0.1), ("float16", 0.02)])
def test_precision(tmp_path: Path, waveforms, precision: str, error: float) -> None:
    path = save_tiny_checkpoint(tmp_path / "a.pt")
    exact, rounded = load_pretrained(path), load_pretrained(path, precision=precision)
    features = rounded.encode(waveforms)
    assert features.features.dtype == getattr(torch, precision)
    assert features.clip.dtype == torch.float32
    difference = (features.clip - exact.encode(waveforms).clip).abs().max()
    assert 0 < difference < error


@pytest.mark.parametrize("kind", MODELS)
def test_every_kind_of_model_gives_its_encoder(tmp_path: Path, waveforms, kind: str) -> None:
    path = save_checkpoint(tmp_path / "a.pt", kind)
    model, whole = load_pretrained(path), build_model(read_checkpoint(path))
    source = torch.from_numpy(waveforms[0])[None]
    assert model(source).equal(whole.extract_features(source).features)
    kept = {name.split(".")[0] for name, _ in model.encoder.named_parameters()}
    assert kept <= {"post_extract_proj", "encoder", "positions", "head"}


def test_weights_are_the_checkpoints(tmp_path: Path) -> None:
    model = load_pretrained(save_tiny_checkpoint(tmp_path / "a.pt"))
    expected = tiny_autoencoder(normalization="dataset").state_dict()
    assert all(value.equal(expected[name]) for name, value in model.encoder.state_dict().items())


# --- bad input


def test_a_bad_checkpoint_or_precision_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no\.pt: there is no such file"):
        load_pretrained(tmp_path / "no.pt")
    with pytest.raises(ConfigError, match="precision: 'int8' is unknown; expected one of bfloat16"):
        load_pretrained(tmp_path / "no.pt", precision="int8")


def test_a_clip_too_short_for_a_token_is_named(waveforms, tmp_path: Path) -> None:
    model = load_pretrained(save_tiny_checkpoint(tmp_path / "a.pt"))
    enough = np.zeros(15 * 160 + 400, dtype=np.float32)
    assert model.encode([enough]).features.shape[1] == 8
    with pytest.raises(AudioError, match=r"clip 1: 2799 samples .* at least 2800 at 16 kHz \(0\.175 s\)"):
        model.encode([enough, enough[1:]])
    with pytest.raises(AudioError, match="clip 0: 10 samples"):
        model(torch.zeros(10))
    with pytest.raises(AudioError, match="clip 2: -5 samples"):
        model.encode(torch.zeros(3, 16_000), [16_000, 16_000, -5])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_clip_that_is_not_finite_is_named(model, waveforms, value: float) -> None:
    waveforms[1][7] = value
    with pytest.raises(AudioError, match="clip 1: NaN or infinite samples"):
        model.encode(waveforms)


@pytest.mark.parametrize(
    ("waveforms", "lengths", "message"),
    [
        (torch.zeros(16_000), None, r"waveforms: shape \[16000\] was given; expected \[clips, samples\]"),
        (torch.zeros(0, 16_000), None, r"waveforms: shape \[0, 16000\]"),
        (torch.zeros(1, 2, 16_000), None, r"waveforms: shape \[1, 2, 16000\]"),
        ([], None, "waveforms: an empty list"),
        ([torch.zeros(2, 16_000)], None, r"clip 0 has shape \[2, 16000\].*; expected \[samples\], one channel"),
        (
            [torch.zeros(16_000), torch.zeros(16_000).double()],
            None,
            "clip 1 has .* torch.float64, .* clip 0 torch.float32",
        ),
        ([torch.zeros(16_000)], [16_000], "lengths: given with a list"),
        (torch.zeros(2, 16_000), [16_000], "lengths: .* expected 2 whole numbers of samples, at most 16000"),
        (torch.zeros(2, 16_000), [16_000, 16_001], "lengths: .* at most 16000 each"),
        (torch.zeros(2, 16_000), [1.0, 0.5], r"lengths: \[1\.0, 0\.5\] was given; expected 2 whole numbers"),
    ],
)
def test_arguments_of_another_shape_are_refused(tmp_path: Path, waveforms, lengths, message: str) -> None:
    model = load_pretrained(save_tiny_checkpoint(tmp_path / "a.pt"))
    with pytest.raises(ConfigError, match=message):
        model.encode(waveforms, lengths)


def test_integer_samples_are_refused(model) -> None:
    with pytest.raises(AudioError, match=r"torch\.int16 was given; expected floating point"):
        model.encode([np.zeros(16_000, dtype=np.int16)])


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({}, {"readout": "max"}, r"^readout: 'max' is unknown; expected one of mean, .*, bands, bands\+max$"),
        (FRAME, {"readout": "max"}, r"^readout: 'max' is unknown; expected one of mean, mean\+max, mean\+std$"),
        (FRAME, {"readout": "bands"}, "^readout: 'bands' needs tokens of several bands, and the model's span all"),
        ({}, {"layers": 0}, "^layers: 0 was given; the model has layers 1 to 3"),
        ({}, {"layers": (2, 9)}, "^layers: 2,9 was given; the model has layers 1 to 3"),
        ({}, {"layers": "foo"}, "^layers: foo was given; the model has layers 1 to 3"),
    ],
)
def test_readouts_and_layers_that_are_not_there_are_refused(tmp_path, waveforms, changes, arguments, message) -> None:
    model = load_pretrained(save_tiny_checkpoint(tmp_path / "a.pt", **changes))
    with pytest.raises(ConfigError, match=message):
        model.encode(waveforms, **arguments)
