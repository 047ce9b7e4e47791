"""What the tests share: golden values, real recordings, and a small corpus made on the spot."""

import os
from pathlib import Path

# One thread: on tensors this small, several mostly wait for each other. Processes that tests start inherit it.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import soundfile as sf
import torch

import mae_ast_fairseq  # noqa: F401 (before fairseq, whose remarks on its import it keeps quiet)

torch.set_num_threads(1)

SHARED = Path(__file__).resolve().parents[2] / "shared"


def _shared(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        message = f"there is no {folder}"
        if os.environ.get("MAE_AST_REQUIRE_SHARED"):
            pytest.fail(f"{message}, and MAE_AST_REQUIRE_SHARED is set")
        pytest.skip(message)
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of golden values; tests that need it skip where it is absent."""
    return _shared("golden")


@pytest.fixture(scope="session")
def recordings() -> Path:
    """The folder of real recordings; tests that need it skip where it is absent."""
    return _shared("audio")


@pytest.fixture(scope="session")
def cases() -> Path:
    """The folder of files that real tools write and that were read wrongly; tests that need it skip without it."""
    return _shared("cases")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.tsv (40 clips) and valid.tsv (8): 0.3 to 1.5 s, 8, 16 and 44.1 kHz, mono and stereo."""
    folder = tmp_path_factory.mktemp("corpus")
    draws = np.random.default_rng(0)
    lines = []
    for clip in range(48):
        rate = int(draws.choice([8_000, 16_000, 44_100], p=[0.2, 0.6, 0.2]))
        num_samples = int(draws.uniform(0.3, 1.5) * rate)
        time = np.arange(num_samples) / rate
        wave = 0.3 * np.sin(2 * np.pi * draws.uniform(100, 3_000) * time * (1 + draws.uniform(0, 1) * time))
        wave = wave[:, None] + 0.02 * draws.standard_normal((num_samples, int(draws.integers(1, 3))))
        sf.write(folder / f"{clip:02}.wav", wave, rate)
        lines.append(f"{clip:02}.wav\t{num_samples}" + ("" if rate == 16_000 else f"\t{rate}"))
    (folder / "train.tsv").write_text("\n".join([str(folder), *lines[:40], ""]))
    (folder / "valid.tsv").write_text("\n".join([str(folder), *lines[40:], ""]))
    return folder
