"""What a pretrained model makes of a clip that it hardly sees: the spectrogram that it fills in, and its scores."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mae_ast_fairseq.config.pretraining import require_choice
from mae_ast_fairseq.data.masking import STRATEGIES, Masking, check_ratio
from mae_ast_fairseq.errors import AudioError
from mae_ast_fairseq.nn.losses import info_nce, reconstruction_error
from mae_ast_fairseq.nn.masked import MaskedPredictor
from mae_ast_fairseq.nn.tokens import MIN_TOKENS


class Reconstruction(NamedTuple):
    """One clip, what was seen of it, what became of it, and the scores that training logs.

    T' are the frames of whole tokens. Tensors are on the CPU.
    """

    original: Tensor
    """[T', F] float32 log-Mel frames"""
    visible: Tensor
    """[T', F] bool, True where a value belongs to a token that the encoder saw"""
    reconstructed: Tensor
    """[T', F] float32 log-Mel frames: predictions at masked tokens, the original at visible ones, to the bit"""
    mse: float
    """mean squared error of the normalised values of masked tokens; as logged: `loss_recon`"""
    baseline: float
    """the same of always answering 0, the mean of the data: what a model must stay below"""
    info_nce: float
    """mean over masked tokens in nats; as logged: `loss_info_nce`"""
    accuracy: float
    """fraction of masked tokens whose own patch scores highest among all that are masked"""
    chance: float
    """what a guess would reach of that, 1 / masked tokens"""


@torch.no_grad()
def reconstruct(model: MaskedPredictor, frames: Tensor, masking: Masking, rng: np.random.Generator) -> Reconstruction:
    """Mask a clip, let the model predict it, and put the picture together; in evaluation mode, whatever it was in.

    Args:
        model: with its decoder and heads, on any device and in any precision.
        frames: [T, F] log-Mel frames, not normalised.
        masking: how tokens are masked.
        rng: draws the mask.

    Raises:
        ConfigError: a ratio or mask type that cannot be used.
        AudioError: the clip is shorter than two tokens.
    """
    check_ratio(masking.ratio)
    require_choice("mask_type", masking.type, STRATEGIES)
    grid = model.grid
    num_tokens = grid.num_tokens(len(frames))
    if num_tokens < MIN_TOKENS:
        raise AudioError(
            f"the clip has {len(frames)} frames of 10 ms, {num_tokens} tokens of the model; expected at least "
            f"{MIN_TOKENS} tokens; give a longer clip"
        )
    mask = masking.draw(grid.rows, num_tokens // grid.rows, rng)
    source = frames[None].to(model.batch_norm.running_mean.device, torch.float32)  # [1, T, F]
    visible, masked = (torch.from_numpy(indices)[None].to(source.device) for indices in mask)  # [1, V], [1, M]

    was_training = model.training
    model.eval()
    predictions = model(source, None, visible, masked)
    filled_in = model.batch_norm.inverse(_unmask(model, source, masked, predictions.reconstruction), source)
    model.train(was_training)

    patches = grid.patchify(source)
    is_visible = torch.ones_like(patches, dtype=torch.bool).scatter(1, _of_patches(masked, patches), False)
    original, seen = grid.unpatchify(patches)[0], grid.unpatchify(is_visible)[0]  # [T', F]
    error, baseline = (
        reconstruction_error(answer, predictions.target).mean().item()
        for answer in (predictions.reconstruction, torch.zeros_like(predictions.target))
    )
    nce = info_nce(predictions.classification, predictions.target)
    return Reconstruction(
        original=original.cpu(),
        visible=seen.cpu(),
        reconstructed=torch.where(seen, original, filled_in[0]).cpu(),
        mse=error,
        baseline=baseline,
        info_nce=nce.loss.mean().item(),
        accuracy=nce.correct.float().mean().item(),
        chance=1 / masked.shape[1],
    )


def _of_patches(tokens: Tensor, patches: Tensor) -> Tensor:
    """Repeat token indices [1, M] for every value of a patch: [1, M, P]."""
    return tokens[..., None].expand(-1, -1, patches.shape[2])


def _unmask(model: MaskedPredictor, source: Tensor, masked: Tensor, prediction: Tensor) -> Tensor:
    """Put predicted patches [1, M, P] into the normalised spectrogram of [1, T, F] frames: [1, T', F]."""
    patches = model.patches(source)  # [1, L, P]
    return model.grid.unpatchify(patches.scatter(1, _of_patches(masked, patches), prediction.float()))
