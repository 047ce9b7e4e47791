"""Folders of runs, as training, probes and a person leave them."""

import json
import struct
import zlib
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mae_ast_fairseq.figures import FigureLog

CONFIG = {
    "optimization": {"max_update": 40, "max_epoch": 0, "lr": [0.0005]},
    "lr_scheduler": {"_name": "polynomial_decay", "warmup_updates": 10, "lr": [0.0005]},
    "model": {"_name": "mae_ast", "encoder_embed_dim": 192},
    "checkpoint": {"save_dir": "anywhere", "patience": -1},
}
HEALTHY = {"token_spread": 0.8, "effective_rank": 70.5, "content_gain": 0.4}
COLLAPSED = {"token_spread": 0.7, "effective_rank": 1.8, "content_gain": 0.01}
PROBE = {
    "results": [
        {
            **{"features": "checkpoint", "classifier": "ridge", "readout": "mean", "layer": "best"},
            "accuracy": {"mean": 0.75, "deviation": 0.0125},
            "macro_auc": {"mean": 0.875, "deviation": None},
            "runs": [{"accuracy": 0.75}],
        }
    ]
}
EVALUATION = {
    **{"split": "test", "num_clips": 1200},
    "metrics": {
        "accuracy": {"value": 0.5, "low": 0.25, "high": 0.625},
        "mAP": {"value": None, "low": None, "high": None},
    },
}


def figures(kind: str, update: int, **more: Any) -> dict[str, Any]:
    """A line of a log, whose figures are other ones at each update."""
    return {
        **{"kind": kind, "num_updates": update, "epoch": 1 + update // 20, "wall": 60.0 * update},
        **{"loss": 7 - update / 16, "loss_recon": 0.25 - update / 512, "info_nce_accuracy": update / 256},
        **{"info_nce_chance": 0.0125, "lr": update / 2**16, "ups": 4.0 + update % 3, "bad_files": 0, **more},
    }


def write_run(folder: Path, *, last: int = 40, health: dict[str, float] | None = None, **sections: Any) -> Path:
    """Write the folder of a run of pretraining that got to an update; `sections` change its config."""
    folder.mkdir(parents=True)
    log = FigureLog(folder / "log.jsonl", 0)
    for update in range(5, last + 1, 5):
        log.write(figures("train_inner", update))
        if update % 20 == 0:
            log.write(figures("train", update))
            log.write(figures("valid", update, subset="valid", **(HEALTHY if health is None else health)))
    config = OmegaConf.merge(CONFIG, sections)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config))
    return folder


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


def png(width: int = 3, height: int = 2) -> bytes:
    """A grey picture."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    rows = b"".join(b"\0" + b"\x80" * width for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
