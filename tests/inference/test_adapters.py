"""What X-ARES, HEAR and MTEB ask for, as they publish it; test_adapters_in_tools.py asks the tools themselves."""

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from torch.utils.data import DataLoader

from mae_ast_fairseq.data.audio import load_audio
from mae_ast_fairseq.errors import AudioError, CheckpointError, ConfigError
from mae_ast_fairseq.inference import adapters
from mae_ast_fairseq.inference.adapters import (
    MaeAstEncoder,
    MtebModel,
    get_scene_embeddings,
    get_timestamp_embeddings,
    load_model,
)
from mae_ast_fairseq.inference.chunks import BATCH_SECONDS, plan_chunks, tokens_of
from mae_ast_fairseq.inference.encoder import load_pretrained
from mae_ast_fairseq.inference.features import Job, encode_clips
from mae_ast_fairseq.inference.loading import FileList
from mae_ast_fairseq.nn.readout import columns
from tests.checkpoints.test_read import save_tiny_checkpoint
from tests.tiny import FRAME, PATCH

TOLERANCE = {"atol": 1e-5, "rtol": 0}
HOPS = {"patch": 160, "frame": 20}
ROWS = {"patch": 8, "frame": 1}


@pytest.fixture(params=["patch", "frame"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def checkpoint(kind: str, tmp_path: Path) -> Path:
    return save_tiny_checkpoint(tmp_path / "run.pt", **{"patch": PATCH, "frame": FRAME}[kind])


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 0.1, shape).astype(np.float32))


def decoded(*clips: tuple[np.ndarray, int]) -> list[dict]:
    """What `datasets` gives of audio files."""
    return [{"audio": {"array": samples, "sampling_rate": rate}} for samples, rate in clips]


def collate(rows: list[dict]) -> dict:
    """As MTEB's loaders do: lists, for clips have lengths of their own."""
    return {"audio": [row["audio"] for row in rows]}


# --- X-ARES


def test_xares_finds_one_encoder_in_the_module_with_what_it_asks_for(checkpoint, kind) -> None:
    assert [name for name in dir(adapters) if name.endswith("Encoder")] == ["MaeAstEncoder"]
    encoder, audio = MaeAstEncoder(checkpoint), noise(2, 50_000)
    assert (encoder.sampling_rate, encoder.output_dim) == (16_000, ROWS[kind] * 48)
    assert encoder.hop_size_in_ms == HOPS[kind]
    features = encoder(audio)
    assert (features.dtype, features.shape[2]) == (torch.float32, encoder.output_dim)
    assert abs(features.shape[1] - 50_000 / 16 / encoder.hop_size_in_ms) < 2
    torch.testing.assert_close(features, load_pretrained(checkpoint).encode(audio).frames, **TOLERANCE)


def test_zeros_that_xares_pads_with_change_nothing_and_give_zeros(checkpoint) -> None:
    encoder = MaeAstEncoder(checkpoint)
    clips = [noise(length, seed=length) for length in (40_000, 23_456, 9_000)]
    padded = encoder(torch.nn.utils.rnn.pad_sequence(clips, batch_first=True))
    for clip, row in zip(clips, padded, strict=True):
        alone = encoder(clip[None])[0]
        torch.testing.assert_close(row[: len(alone)], alone, **TOLERANCE)
        assert not row[len(alone) :].any()


@pytest.mark.parametrize("num_samples", [0, 1, 399, 5_000])
def test_what_is_shorter_than_a_token_or_silent_has_finite_features(checkpoint, num_samples: int) -> None:
    encoder = MaeAstEncoder(checkpoint)
    for audio in (torch.zeros(2, num_samples), noise(2, num_samples)):
        features, (embeddings, milliseconds) = encoder(audio), get_timestamp_embeddings(audio, encoder)
        assert features.shape == embeddings.shape == (*milliseconds.shape, encoder.output_dim)
        assert features.shape[1] >= 1
        assert torch.isfinite(features).all()
        assert embeddings.any(dim=2).all()
        assert get_scene_embeddings(audio, encoder).shape == (2, 48)


def test_chunks_are_those_of_extract(checkpoint, tmp_path: Path) -> None:
    encoder = MaeAstEncoder(checkpoint, readout="mean+std", chunk_seconds=1)
    clips = [noise(53_210), noise(16_000, seed=1), noise(37_001, seed=2)]
    for number, clip in enumerate(clips):
        sf.write(tmp_path / f"{number}.wav", clip.numpy(), 16_000, subtype="FLOAT")
    files = FileList([str(tmp_path / f"{number}.wav") for number in range(3)])
    grid = encoder.encoder.grid
    job = Job(files, range(3), files.num_samples, plan_chunks(files.num_samples, grid, 1), grid)
    read = [next(parts).ravel() for parts in encode_clips(encoder.encoder, job, readouts=["mean+std"])]
    torch.testing.assert_close(encoder.clips(clips), torch.from_numpy(np.stack(read)), **TOLERANCE)
    for clip, parts in zip(clips, encode_clips(encoder.encoder, job), strict=True):
        expected = columns(torch.from_numpy(np.concatenate(list(parts), axis=1)), grid.rows)
        torch.testing.assert_close(encoder(clip[None]), expected, **TOLERANCE)


def test_ten_minutes_reach_the_model_a_minute_at_a_time(tmp_path: Path) -> None:
    encoder = MaeAstEncoder(save_tiny_checkpoint(tmp_path / "run.pt"))
    grid, shapes = encoder.encoder.grid, []
    encoder.encoder.encoder.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape))
    audio = noise(1, 600 * 16_000)
    features = encoder(audio)
    assert features.shape == (1, 3_749, 8 * 48)
    assert max(length for _, length, _ in shapes) <= tokens_of(60, grid)
    assert max(rows * length for rows, length, _ in shapes) <= tokens_of(BATCH_SECONDS, grid)
    last_chunk = 374 * 160 * 16  # a minute is 374 columns, of which the last one's frames end with it
    torch.testing.assert_close(features[:, -9:], encoder(audio[:, 10 * last_chunk :]), **TOLERANCE)


# --- HEAR


def test_hear_has_times_at_the_centres_of_what_embeddings_cover(checkpoint, kind) -> None:
    model, audio = load_model(checkpoint), noise(3, 40_000)
    embeddings, milliseconds = get_timestamp_embeddings(audio, model)
    encoded = load_pretrained(checkpoint).encode(audio)
    torch.testing.assert_close(embeddings, encoded.frames, **TOLERANCE)
    torch.testing.assert_close(milliseconds, encoded.frame_seconds.mul(1000).repeat(3, 1), atol=1e-3, rtol=0)
    assert (embeddings.dtype, milliseconds.dtype) == (torch.float32, torch.float32)
    assert (model.sample_rate, model.timestamp_embedding_size) == (16_000, ROWS[kind] * 48)


def test_hears_times_are_exactly_regular_in_ten_minutes_too(checkpoint, kind) -> None:
    model = load_model(checkpoint)
    model.frames = lambda audio: torch.zeros(1, 600_000 // HOPS[kind], 1)
    _, milliseconds = get_timestamp_embeddings(torch.zeros(1, 1), model)
    assert set(milliseconds.diff().unique().tolist()) == {HOPS[kind]}


def test_a_scene_is_the_readout_of_the_layers_asked_for(checkpoint, kind) -> None:
    audio = noise(3, 40_000)
    for layers, readout in (("last", "mean"), ("all", "mean+max"), ([1, 3], "mean+std"), ("1,3", "mean+std")):
        model = load_model(str(checkpoint), layers=layers, readout=readout)
        scenes = get_scene_embeddings(audio, model)
        numbers = (1, 3) if layers == "1,3" else layers
        expected = load_pretrained(checkpoint).encode(audio, readout=readout, layers=numbers)
        torch.testing.assert_close(scenes, expected.clip, **TOLERANCE)
        assert scenes.shape == (3, model.scene_embedding_size)
        embeddings, _ = get_timestamp_embeddings(audio, model)
        width = scenes.shape[1] // len(readout.split("+")) * ROWS[kind]
        assert embeddings.shape[2] == model.timestamp_embedding_size == width
    layer = columns(load_pretrained(checkpoint).encode(audio).hidden_states[2], ROWS[kind])
    torch.testing.assert_close(embeddings[..., -layer.shape[2] :], layer, **TOLERANCE)


def test_the_model_is_a_module_that_needs_no_file() -> None:
    model = load_model()
    assert isinstance(model, torch.nn.Module)
    assert (model.scene_embedding_size, model.timestamp_embedding_size, model.training) == (192, 192, False)


# --- MTEB


def test_mteb_clips_of_any_length_rate_and_channels_are_those_of_load_audio(checkpoint, tmp_path: Path) -> None:
    clips = []
    for rate, channels, seconds in ((16_000, 1, 1.3), (44_100, 2, 2.21), (8_000, 1, 0.7), (48_000, 1, 0.9)):
        sf.write(tmp_path / f"{rate}.wav", noise(int(rate * seconds), channels).numpy(), rate, subtype="FLOAT")
        samples, _ = sf.read(tmp_path / f"{rate}.wav", dtype="float32")
        clips.append((samples.T, rate))
    model = MtebModel(checkpoint, readout="mean+max")
    embeddings = model.encode(DataLoader(decoded(*clips), batch_size=3, collate_fn=collate), task_metadata=None)
    waveforms = [load_audio(tmp_path / f"{rate}.wav", expect_rate=None) for _, rate in clips]
    for waveform, embedding in zip(waveforms, embeddings, strict=True):
        expected = load_pretrained(checkpoint).encode([waveform], readout="mean+max").clip[0]
        torch.testing.assert_close(torch.from_numpy(embedding), expected, atol=1e-4, rtol=0)  # two resamplings


def test_mteb_gets_an_array_of_no_rows_for_no_clips() -> None:
    assert MtebModel().encode([]).shape == (0, 192)


def test_mteb_similarities_are_cosines() -> None:
    first, second = np.array([[3.0, 4], [0, 1]]), torch.tensor([[0.0, 2], [5, 0]])
    model = MtebModel()
    torch.testing.assert_close(model.similarity(first, second), torch.tensor([[0.8, 0.6], [1, 0]]))
    torch.testing.assert_close(model.similarity_pairwise(first, second), torch.tensor([0.8, 0]))
    assert model.similarity(first[0], second).shape == (1, 2)


# --- mistakes


def test_a_task_of_text_is_refused() -> None:
    with pytest.raises(ConfigError, match="text was given; expected audio"):
        MtebModel().encode([{"text": ["a dog barks"]}])


@pytest.mark.parametrize(
    ("clip", "found"),
    [
        (torch.ones(9_000, dtype=torch.int16), "clip 1: torch.int16"),
        (torch.ones(2, 9_000), r"clip 1: torch.float32 of shape \[2, 9000\]"),
        (torch.full((9_000,), float("nan")), "clip 1: NaN"),
    ],
)
def test_what_is_no_audio_is_named_by_its_number(clip: torch.Tensor, found: str) -> None:
    with pytest.raises(AudioError, match=found):
        MaeAstEncoder().clips([noise(9_000), clip])


def test_channels_are_refused_and_a_single_clip_is_a_batch() -> None:
    encoder = MaeAstEncoder()
    with pytest.raises(AudioError, match=r"clip 0: torch.float32 of shape \[2, 9000\]"):
        encoder(noise(1, 2, 9_000))
    assert encoder(noise(9_000)).shape == (1, 27, 192)


@pytest.mark.parametrize(("option", "found"), [({"layers": 5}, "layers: 5"), ({"layers": "2,x"}, "layers: 2,x")])
def test_a_wrong_option_is_refused_when_the_model_is_made(option, found: str) -> None:
    with pytest.raises(ConfigError, match=found):
        load_model("tiny", **option)


def test_a_readout_and_a_file_are_checked_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="readout: 'bands' needs tokens of several bands"):
        load_model("tiny", readout="bands")
    with pytest.raises(CheckpointError, match=r"none\.pt"):
        load_model(tmp_path / "none.pt")
