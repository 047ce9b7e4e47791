"""A pretrained encoder as others' benchmarks ask for it: X-ARES, HEAR, and MTEB with MAEB.

They import this module by its name, and it imports none of them. X-ARES takes the one name here that ends in `Encoder`.
docs/evaluating.md has the commands.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np
import soxr
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from mae_ast_fairseq.data.audio import SAMPLE_RATE, samples_at_16k
from mae_ast_fairseq.errors import AudioError, ConfigError
from mae_ast_fairseq.inference.chunks import (
    BATCH_SECONDS,
    CHUNK_SECONDS,
    min_seconds,
    plan_batches,
    plan_chunks,
    tokens_of,
)
from mae_ast_fairseq.inference.encoder import load_pretrained, token_samples
from mae_ast_fairseq.inference.features import encode_waveforms
from mae_ast_fairseq.nn import fbank
from mae_ast_fairseq.nn.readout import (
    LAST,
    Layers,
    check_readout,
    columns,
    layer_numbers,
    merge_readouts,
    parse_layers,
    readout_width,
)

Clips = Tensor | Sequence[Tensor | np.ndarray]
"""Waveforms at 16 kHz, floating point in [-1, 1]: [B, S], or 1-D ones of any lengths."""


class Part(NamedTuple):
    """What is encoded at once of a clip: one of the `Chunks` of `plan_chunks`."""

    clip: int
    start: int
    num_samples: int
    num_tokens: int


class MaeAstEncoder(nn.Module):
    """An encoder for X-ARES, and HEAR's model. What a clip gives does not depend on its batch.

    Clips longer than `chunk_seconds` are encoded in chunks, as by `mae-ast extract`; what is shorter than one token is
    filled with silence up to it. Raises UserErrors, as `load_pretrained` and `PretrainedEncoder.encode` do.

    Args:
        checkpoint: what `load_pretrained` takes.
        layers: whose features stand one after another, as in `encode`, or as the text "2,4".
        readout: how a clip's vector is read out of its tokens, as in `encode`.
        chunk_seconds: the longest part of a clip that is encoded at once.
    """

    def __init__(
        self,
        checkpoint: str | Path = "tiny",
        layers: Layers = LAST,
        readout: str = "mean",
        chunk_seconds: float = CHUNK_SECONDS,
    ):
        super().__init__()
        self.encoder = load_pretrained(checkpoint).encoder
        self.layers = parse_layers(layers) if isinstance(layers, str) else layers
        self.readout = readout
        self.chunk_seconds = chunk_seconds
        grid, width = self.encoder.grid, self.encoder.width
        num_layers = len(layer_numbers("layers", self.layers, self.encoder.num_layers))
        check_readout("readout", readout, grid.rows)
        self.sampling_rate = self.sample_rate = SAMPLE_RATE
        self.hop_size_in_ms = grid.stride[1] * fbank.FRAME_SHIFT * 1000 // SAMPLE_RATE
        self.output_dim = self.timestamp_embedding_size = num_layers * grid.rows * width
        self.scene_embedding_size = num_layers * readout_width(readout, grid.rows, width)
        self.eval()

    def forward(self, audio: Tensor) -> Tensor:
        """Return the features of time columns for X-ARES: [B, S] -> [B, T, D] float32.

        X-ARES pads its batches with zeros and does not say how much: zeros at a clip's end are taken for padding, which
        the clip's features do not depend on, and have zeros as features.
        """
        audio = torch.atleast_2d(audio)
        sounds = map(torch.nonzero, audio)  # [N, 1] of a clip
        ends = [int(sound[-1, 0]) + 1 if len(sound) else 0 for sound in sounds]
        return self._frames([clip[:end] for clip, end in zip(audio, ends, strict=True)], audio)

    def frames(self, audio: Tensor) -> Tensor:
        """Return the features of time columns, frequency rows and layers one after another: [B, S] -> [B, T, D]."""
        audio = torch.atleast_2d(audio)
        return self._frames(list(audio), audio)

    def _frames(self, clips: Clips, audio: Tensor) -> Tensor:
        grid = self.encoder.grid
        num_columns = grid.num_columns(fbank.num_frames(max(audio.shape[1], self._shortest)))
        frames = torch.zeros(len(audio), num_columns, self.output_dim)
        for part, values in self._encode(clips):
            by_column = columns(torch.from_numpy(values), grid.rows)  # [layers, T', rows · C]
            first = part.start // (grid.stride[1] * fbank.FRAME_SHIFT)
            frames[part.clip, first : first + by_column.shape[1]] = by_column.transpose(0, 1).flatten(1)
        return frames.to(audio.device)

    def clips(self, waveforms: Clips) -> Tensor:
        """Return the readout of each clip, one layer after another: [B, D] float32 on the CPU."""
        of_clips: list[list[tuple[Part, np.ndarray]]] = [[] for _ in waveforms]
        for part, values in self._encode(waveforms, [self.readout]):
            of_clips[part.clip].append((part, values))
        read = torch.zeros(len(of_clips), self.scene_embedding_size)
        for own, parts in zip(read, of_clips, strict=True):
            num_tokens = np.array([part.num_tokens for part, _ in parts])
            own[:] = torch.from_numpy(merge_readouts(self.readout, np.stack([v for _, v in parts]), num_tokens).ravel())
        return read

    @property
    def _shortest(self) -> int:
        """Samples of a clip of one token."""
        return round(min_seconds(self.encoder.grid) * SAMPLE_RATE)

    def _encode(self, waveforms: Clips, readouts: Sequence[str] = ()) -> Iterator[tuple[Part, np.ndarray]]:
        """Yield each part of clips and what it gives: [layers, L, C], or [layers, 1, D] if read out."""
        clips = [self._checked(number, waveform) for number, waveform in enumerate(waveforms)]
        lengths = np.array([len(clip) for clip in clips], dtype=np.int64)
        chunks = plan_chunks(lengths, self.encoder.grid, self.chunk_seconds)
        for batch in plan_batches(chunks.num_tokens, tokens_of(BATCH_SECONDS, self.encoder.grid)):
            parts = [Part(*(int(values[chunk]) for values in chunks)) for chunk in batch]
            cut = [clips[part.clip][part.start : part.start + part.num_samples] for part in parts]
            yield from zip(parts, encode_waveforms(self.encoder, cut, self.layers, readouts), strict=True)

    def _checked(self, number: int, waveform: Tensor | np.ndarray) -> Tensor:
        """Return a clip, float32 and of one token at least; raises AudioError where it is no audio."""
        clip = torch.as_tensor(waveform)
        if clip.dim() != 1 or not clip.is_floating_point():
            raise AudioError(
                f"clip {number}: {clip.dtype} of shape {list(clip.shape)} was given; expected one channel at 16 kHz, "
                "floating point in [-1, 1]; divide 16-bit samples by 32768"
            )
        if not torch.isfinite(clip).all():
            raise AudioError(f"clip {number}: NaN or infinite samples; expected finite ones; leave the clip out")
        return F.pad(clip.float(), (0, max(0, self._shortest - len(clip))))


# --- HEAR: https://hearbenchmark.com/hear-api.html


def load_model(model_file_path: str | Path = "tiny", layers: Layers = LAST, readout: str = "mean") -> MaeAstEncoder:
    """Return HEAR's model; the options can be given to heareval as JSON in `--model-options`."""
    return MaeAstEncoder(model_file_path, layers, readout)


def get_timestamp_embeddings(audio: Tensor, model: MaeAstEncoder) -> tuple[Tensor, Tensor]:
    """Return the features of time columns [n, T, D] of audio [n, S], and the times at their centres [n, T] in ms."""
    embeddings = model.frames(audio)
    grid = model.encoder.grid
    samples = token_samples(grid, embeddings.shape[1] * grid.rows)[:: grid.rows]
    milliseconds = (samples * 1000 / SAMPLE_RATE).to(embeddings)
    return embeddings, milliseconds.repeat(len(audio), 1)


def get_scene_embeddings(audio: Tensor, model: MaeAstEncoder) -> Tensor:
    """Return one vector [n, D] of each clip of audio [n, S]."""
    return model.clips(list(audio)).to(audio.device)


# --- MTEB and its audio part, MAEB


class MtebModel:
    """A model for `mteb.evaluate`, which knows results by the model's name, its weights, layers and readout.

    Args:
        checkpoint, layers, readout: as of MaeAstEncoder.
        name: `organisation/model` in the results; None: the file's name.
        device: None: a GPU where there is one.
    """

    def __init__(
        self,
        checkpoint: str | Path = "tiny",
        layers: Layers = LAST,
        readout: str = "mean",
        name: Optional[str] = None,
        device: Optional[str] = None,
    ):
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.model = MaeAstEncoder(checkpoint, layers, readout).to(device)
        self.name = name or f"mae_ast_fairseq/{Path(checkpoint).stem}"
        self.options = {"layers": self.model.layers, "readout": readout}

    @cached_property
    def mteb_model_meta(self) -> Any:
        """Return what MTEB files results under, a `ModelMeta`; the revision is a hash of the weights."""
        from mteb.models import ModelMeta

        num_parameters = sum(parameter.numel() for parameter in self.model.parameters())
        return ModelMeta(
            loader=None,
            name=self.name,
            revision=_hash_of(self.model.state_dict()),
            release_date=None,
            languages=None,
            n_parameters=num_parameters,
            memory_usage_mb=round(num_parameters * 4 / 2**20),
            max_tokens=None,
            embed_dim=self.model.scene_embedding_size,
            license=None,
            open_weights=None,
            public_training_code=None,
            public_training_data=None,
            framework=["PyTorch"],
            similarity_fn_name="cosine",
            use_instructions=False,
            training_datasets=None,
            modalities=["audio"],
            experiment_kwargs=self.options,
        )

    def encode(
        self, inputs: Iterable[Mapping[str, Any]], *, show_progress_bar: bool = True, **kwargs: Any
    ) -> np.ndarray:
        """Return the readout of each clip, float32 [N, D].

        Args:
            inputs: batches, whose `audio` lists what `datasets` decodes: {"array": [S] or [channels, S],
                "sampling_rate": Hz}.
            show_progress_bar: whether there is one.
            kwargs: what MTEB says of the task; nothing here depends on it.
        """
        parts = [torch.zeros(0, self.model.scene_embedding_size)]
        for batch in tqdm(inputs, unit=" batches", disable=None if show_progress_bar else True):
            if "audio" not in batch:
                raise ConfigError(f"inputs: a batch of {', '.join(batch)} was given; expected audio, and tasks of it")
            parts.append(self.model.clips([_at_16k(item) for item in batch["audio"]]))
        return torch.cat(parts).numpy()

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Return the cosine of every pair: [N, D] and [M, D] -> [N, M]."""
        return _unit(embeddings1) @ _unit(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Return the cosine of each with its like: [N, D] and [N, D] -> [N]."""
        return (_unit(embeddings1) * _unit(embeddings2)).sum(dim=-1)


def _at_16k(item: Mapping[str, Any]) -> np.ndarray:
    """Return what `datasets` decoded as mono at 16 kHz, the samples that `load_audio` reads of the same file."""
    samples, rate = np.asarray(item["array"]), int(item["sampling_rate"])
    if samples.ndim > 1:
        samples = samples.mean(axis=0)
    if rate == SAMPLE_RATE:
        return samples
    silence = np.zeros(rate // SAMPLE_RATE + 1, dtype=samples.dtype)  # soxr rounds their number down, we up
    return soxr.resample(np.append(samples, silence), rate, SAMPLE_RATE)[: samples_at_16k(len(samples), rate)]


def _unit(embeddings: Any) -> Tensor:
    return F.normalize(torch.atleast_2d(torch.as_tensor(embeddings)).float(), dim=-1)


def _hash_of(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key, tensor in sorted(state.items()):
        digest.update(key.encode() + tensor.cpu().float().numpy().tobytes())
    return digest.hexdigest()[:40]
