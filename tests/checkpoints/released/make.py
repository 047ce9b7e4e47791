"""Writes small checkpoints of every layout as this version writes them, and the features they give.

    python tests/checkpoints/released/make.py VERSION

VERSION is the format's, 0 for what has none; README.md beside this file says when to run it.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch

from mae_ast_fairseq.checkpoints.export import export
from mae_ast_fairseq.checkpoints.read import build_model, read_checkpoint
from tests.finetuning import finetune, write_tones
from tests.tiny import log_mel_like
from tests.training import train

FOLDER = Path(__file__).parent
FEATURES = FOLDER / "features.json"
MODEL = (
    *("model.ast_kernel_size_chan=16", "model.ast_kernel_size_time=4"),
    *("model.ast_kernel_stride_chan=16", "model.ast_kernel_stride_time=4"),
    *("model.encoder_layers=1", "model.encoder_embed_dim=8", "model.encoder_ffn_embed_dim=16"),
    *("model.encoder_attention_heads=2", "model.max_token_length=128"),
)
DECODER = ("model.decoder_layers=1", "model.decoder_embed_dim=8", "model.decoder_attention_heads=0")
SUFFIXES = {"released": "pt", "s3prl": "pt", "safetensors": "safetensors"}


def features(path: Path) -> list[float]:
    """Return the first clip's first feature of a fixed batch of two clips, by way of `read_checkpoint`."""
    return first_feature(build_model(read_checkpoint(path)))


def first_feature(model: torch.nn.Module) -> list[float]:
    """Return what a model in evaluation mode makes of the first token of fixed frames."""
    with torch.no_grad():
        return model.eval().extract_features(log_mel_like(2, 40, 128))[0][0, 0].tolist()


def make(version: str) -> list[Path]:
    """Train, fine-tune, export; return the files."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        data = write_tones(work / "tones")
        saving = ("checkpoint.no_save=false", f"checkpoint.save_dir={work}/run", "optimization.max_update=3")
        fast = ("common.bf16=false", "dataset.max_tokens=40000")
        train("mae_ast_tiny", f"task.data={data}", *MODEL, *DECODER, *saving, *fast)
        own = FOLDER / f"{version}_training.pt"
        (work / "run" / "checkpoint_last.pt").rename(own)
        finetune(data, *MODEL, *saving)
        classifier = FOLDER / f"{version}_classifier.pt"
        (work / "run" / "checkpoint_last.pt").rename(classifier)
    exports = [FOLDER / f"{version}_{layout}.{suffix}" for layout, suffix in SUFFIXES.items()]
    for layout, path in zip(SUFFIXES, exports, strict=True):
        export(read_checkpoint(own), layout, path)
    return [own, classifier, *exports]


if __name__ == "__main__":
    known = json.loads(FEATURES.read_text()) if FEATURES.is_file() else {}
    known.update({path.name: features(path) for path in make(sys.argv[1])})
    FEATURES.write_text(json.dumps(known, indent=1) + "\n")
