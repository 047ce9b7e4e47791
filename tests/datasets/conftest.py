"""What the tests of the datasets share."""

import shutil

import numpy as np
import pytest
import soundfile as sf


@pytest.fixture
def damaged(corpus, tmp_path):
    """The corpus with clip 03 gone, 05 cut in half, 07 not a number, 09 of another rate than its manifest says."""
    for file in corpus.iterdir():
        shutil.copy(file, tmp_path)
    for split in ("train", "valid"):
        text = (tmp_path / f"{split}.tsv").read_text().splitlines()
        (tmp_path / f"{split}.tsv").write_text("\n".join([str(tmp_path), *text[1:], ""]))
    (tmp_path / "03.wav").unlink()
    cut = (tmp_path / "05.wav").read_bytes()
    (tmp_path / "05.wav").write_bytes(cut[: len(cut) // 2])
    samples, rate = sf.read(tmp_path / "07.wav", dtype="float32")
    samples[100] = np.nan
    sf.write(tmp_path / "07.wav", samples, rate, subtype="FLOAT")
    samples, rate = sf.read(tmp_path / "09.wav")
    sf.write(tmp_path / "09.wav", samples, 22_050)
    return tmp_path
