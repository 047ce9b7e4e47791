"""The token grid: how a spectrogram is cut into patches or frame tokens, and put together again.

Everything that counts, cuts or numbers tokens asks a TokenGrid. Tokens are numbered time-major: index =
time column * rows + frequency row; a patch's values are flattened time-major too. A trailing part shorter
than a patch is dropped.
"""

from dataclasses import dataclass
from typing import Any, Optional

from torch import Tensor

from mae_ast_fairseq.errors import ConfigError

MIN_TOKENS = 2
"""A clip needs one token to see and one to predict."""


@dataclass(frozen=True)
class TokenGrid:
    """A cut of spectrograms with a given number of Mel bands into equal patches.

    feature_dim: Mel bands of a frame (F).
    kernel: (bands, frames) of a patch; (16, 16) makes patches, (F, 2) frame tokens.
    stride: (bands, frames) from a patch to the next; smaller than the kernel where patches overlap.

    Raises ConfigError, naming the config field, for a cut that leaves out bands or frames between patches.
    """

    feature_dim: int
    kernel: tuple[int, int]
    stride: tuple[int, int]

    def __post_init__(self) -> None:
        fields = {
            "task.feature_dim": self.feature_dim,
            "model.ast_kernel_size_chan": self.kernel[0],
            "model.ast_kernel_size_time": self.kernel[1],
            "model.ast_kernel_stride_chan": self.stride[0],
            "model.ast_kernel_stride_time": self.stride[1],
        }
        for field, value in fields.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{field}: found {value!r}, expected an integer of at least 1")
        for axis, kernel, stride in zip(("chan", "time"), self.kernel, self.stride, strict=True):
            if stride > kernel:
                raise ConfigError(
                    f"model.ast_kernel_stride_{axis}: found {stride}, expected at most {kernel}, which is "
                    f"model.ast_kernel_size_{axis}; a larger stride would skip part of the spectrogram"
                )
        bands, band_stride = self.kernel[0], self.stride[0]
        if bands > self.feature_dim or (band_stride == bands and self.feature_dim % bands):
            raise ConfigError(
                f"model.ast_kernel_size_chan: found {bands}, expected a divisor of feature_dim = "
                f"{self.feature_dim}, such as 16 for patches or 128 for frame tokens of 128 bands"
            )

    @property
    def rows(self) -> int:
        """Patches along frequency; 1 for frame tokens."""
        return (self.feature_dim - self.kernel[0]) // self.stride[0] + 1

    @property
    def patch_size(self) -> int:
        """Values in a patch (P)."""
        return self.kernel[0] * self.kernel[1]

    def require_no_overlap(self) -> None:
        """Raise ConfigError where patches overlap: masked values would be seen through their neighbours."""
        for axis, kernel, stride in zip(("chan", "time"), self.kernel, self.stride, strict=True):
            if stride != kernel:
                raise ConfigError(
                    f"model.ast_kernel_stride_{axis}: found {stride}, expected {kernel}, the same as "
                    f"model.ast_kernel_size_{axis}; reconstruction and masking need patches without overlap"
                )

    def num_columns(self, num_frames: Any) -> Any:
        """Count the patches along time; takes and gives an int, or an integer array or tensor."""
        count = (num_frames - self.kernel[1]) // self.stride[1] + 1
        return count * (count > 0)

    def num_tokens(self, num_frames: Any) -> Any:
        """Count the tokens of a clip (L); takes and gives an int, or an integer array or tensor."""
        return self.num_columns(num_frames) * self.rows

    def patchify(self, frames: Tensor) -> Tensor:
        """Cut frames into patches, [B, T, F] -> [B, L, P]; copies once, or not at all for frame tokens.

        The result may share memory with `frames`: do not write to it in place.
        """
        batch, num_frames, feature_dim = frames.shape
        assert feature_dim == self.feature_dim, f"{feature_dim} Mel bands for a grid of {self.feature_dim}"
        if self.num_columns(num_frames) == 0:
            return frames.new_zeros(batch, 0, self.patch_size)
        (bands, times), (band_stride, time_stride) = self.kernel, self.stride
        patches = frames.unfold(1, times, time_stride).unfold(2, bands, band_stride)
        # [B, columns, rows, times, bands], a view -> [B, L, P]
        return patches.reshape(batch, self.num_tokens(num_frames), self.patch_size)

    def unpatchify(self, patches: Tensor) -> Tensor:
        """Put patches together again, [B, L, P] -> [B, T', F], T' = the frames of whole columns.

        The inverse of `patchify`, up to the trailing frames that it drops. Raises ConfigError where patches
        overlap.
        """
        self.require_no_overlap()
        batch, num_tokens, patch_size = patches.shape
        assert patch_size == self.patch_size, f"{patch_size} values for patches of {self.patch_size}"
        assert num_tokens % self.rows == 0, f"{num_tokens} tokens do not fill columns of {self.rows}"
        bands, times = self.kernel
        columns = num_tokens // self.rows
        patches = patches.reshape(batch, columns, self.rows, times, bands)  # from [B, L, P]
        # [B, columns, rows, times, bands] -> [B, columns, times, rows, bands] -> [B, T', F]
        return patches.permute(0, 1, 3, 2, 4).reshape(batch, columns * times, self.feature_dim)

    def token_padding_mask(self, frame_padding_mask: Optional[Tensor]) -> Optional[Tensor]:
        """Return which tokens are padding, [B, T] bool -> [B, L] bool, True = padding; None stays None.

        A token is valid only where all its frames are. Padding must be on the right, so that a token's
        last frame answers for all of them; a clip then has the tokens that it has alone.
        """
        if frame_padding_mask is None:
            return None
        times, time_stride = self.kernel[1], self.stride[1]
        columns = frame_padding_mask[:, times - 1 :: time_stride]  # [B, columns]
        return columns.repeat_interleave(self.rows, dim=1)  # [B, columns] -> [B, columns * rows]
