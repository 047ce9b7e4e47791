"""The open corpus of `manifests/debian.py`, decoded to 16 kHz once: an experiment reads each clip many times."""

import subprocess
import sys
from multiprocessing import Pool
from pathlib import Path

import soundfile as sf
from downstream import run_command

from mae_ast_fairseq.data.audio import SAMPLE_RATE, load_audio
from mae_ast_fairseq.data.manifest import read_manifest, write_manifest
from mae_ast_fairseq.errors import AudioError, UserError

SCRIPT = Path(__file__).resolve().parents[2] / "manifests" / "debian.py"


def make_open_corpus(out: Path, num_workers: int) -> Path:
    """Return the folder of the corpus' manifests, `out/data`; fetches and decodes it where it is not there yet."""
    data = out / "data"
    if not (data / "train.tsv").is_file():
        done = subprocess.run([sys.executable, SCRIPT, out / "corpus"])
        if not (out / "corpus" / "train.tsv").is_file():  # a package that could not be had leaves the others
            raise UserError(f"{SCRIPT.name}: exit code {done.returncode}; look at what it says above, and start again")
        for split in ("valid", "train"):
            manifest = read_manifest(out / "corpus" / f"{split}.tsv")
            clips = [(manifest.path(row), data / "audio", manifest.relative_path(row)) for row in range(len(manifest))]
            with Pool(num_workers) as pool:
                rows = pool.starmap(_decode, clips, 32)
            write_manifest(data / f"{split}.tsv", data / "audio", [row for row in rows if row])
    if not (data / "stats.json").is_file():
        run_command("stats", data / "train.tsv", log=out / "stats.log")
    return data


def _decode(path: str, folder: Path, name: str) -> tuple[str, int, int] | None:
    """Write a file as WAV; return its row of the manifest, None for a broken file."""
    try:
        waveform = load_audio(path, expect_rate=None)
    except AudioError as error:
        print(f"left out: {error}", file=sys.stderr)
        return None
    target = folder / f"{name}.wav"
    target.parent.mkdir(parents=True, exist_ok=True)
    sf.write(target, waveform, SAMPLE_RATE, subtype="PCM_16")
    return f"{name}.wav", len(waveform), SAMPLE_RATE
