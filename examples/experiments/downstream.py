"""What a pretrained model is worth downstream, by the means of each scale."""

import ctypes
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import sets
from probing import accuracies, reader

from mae_ast_fairseq.checkpoints.read import build_model, read_checkpoint
from mae_ast_fairseq.corpus.scan import write_lines
from mae_ast_fairseq.data.manifest import write_manifest
from mae_ast_fairseq.errors import ConfigError, UserError

PR_SET_PDEATHSIG = 1  # of linux/prctl.h
SHOTS = 10
"""takes of each digit and speaker to fine-tune on"""
NUM_SPEAKERS_OUT = 2
"""of FSDD's six, which ones follows from the seed"""

CORPORA = {  # recipe of fine-tuning, its metric, what the paper calls it
    "audioset20k": ("finetune_audioset20k", "mAP", "AS-20K"),
    "esc50": ("finetune_esc50", "accuracy", "ESC-50"),
    "speech_commands_v2": ("finetune_speech_commands_v2", "accuracy", "KS2"),
    "speech_commands_v1": ("finetune_speech_commands_v1", "accuracy", "KS1"),
    "voxceleb1": ("finetune_voxceleb1", "accuracy", "SID"),
    "iemocap": ("finetune_iemocap", "accuracy", "ER"),
}


def end_with_parent() -> None:
    """Let Linux ask this process to end when its parent has ended, however that was: a run then saves first."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def run_command(*arguments: object, log: Path) -> str:
    """Run one of our commands, its stderr to a log, and return what it prints; raises UserError where it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    program = Path(sys.executable).with_name("mae-ast")
    with log.open("a") as stream:
        done = subprocess.run(
            [program, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
            preexec_fn=end_with_parent,
        )
    if done.returncode:
        lines = log.read_text(errors="replace").splitlines()
        raise UserError(f"{log}: exit code {done.returncode}: {lines[-1] if lines else 'nothing was said'}")
    return done.stdout


def probe_sets(checkpoint: Path, groups: Mapping[str, sets.ProbeSet], seed: int) -> dict[str, dict[str, float]]:
    """Return the accuracy on each set of the mean, as in the paper, and of the best readout, each at its best layer."""
    model = build_model(read_checkpoint(checkpoint))
    found = {}
    for name, probe_set in groups.items():
        by_readout = accuracies(reader(model)(probe_set), probe_set.data, seed)
        found[name] = {readout: round(by_readout[readout], 4) for readout in ("mean", "best")}
    return found


def fine_tune_digits(checkpoint: Path, digits: sets.ProbeSet, folder: Path, seed: int) -> float:
    """Return the accuracy on two speakers' digits of a classifier that a few takes of the others were enough for."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest, data = digits.manifest, digits.data
    speakers = np.unique(data.groups)
    first = seed * NUM_SPEAKERS_OUT % len(speakers)
    is_out = np.isin(data.groups, speakers[first : first + NUM_SPEAKERS_OUT])
    counted: Counter[tuple[int, str]] = Counter()
    takes = np.zeros(len(manifest), int)  # the number of a clip among its digit's and speaker's
    for row, key in enumerate(zip(data.targets.tolist(), data.groups.tolist(), strict=True)):
        takes[row] = counted[key]
        counted[key] += 1
    for split, rows in {"train": ~is_out & (takes < SHOTS), "test": is_out}.items():
        chosen = np.flatnonzero(rows).tolist()
        listed = [(manifest.relative_path(row), int(manifest.num_samples[row]), 16_000) for row in chosen]
        write_manifest(folder / f"{split}.tsv", manifest.root, listed)
        write_lines(folder / f"{split}.lbl", [data.names[data.targets[row]] for row in chosen])
    write_lines(folder / "labels.txt", data.names)
    run_command(
        "train", "finetune_fsdd", f"task.data={folder}", f"hydra.run.dir={folder}", f"model.pretrained={checkpoint}",
        f"common.seed={seed}", "common.bf16=false", "optimization.max_update=300", "lr_scheduler.warmup_updates=30",
        "dataset.disable_validation=true", "checkpoint.no_save_optimizer_state=true",
        log=folder / "said.log",
    )  # fmt: skip
    return evaluate(folder / "checkpoints" / "checkpoint_last.pt", folder, "accuracy", folder / "said.log")


def fine_tune_corpus(checkpoint: Path, name: str, data: Path, folder: Path) -> float:
    """Return the score of a fine-tuned model on a published corpus; of folds, which are numbered folders, the mean."""
    recipe, metric, _ = CORPORA[name]
    folds = sorted(path for path in data.iterdir() if (path / "train.tsv").is_file()) or [data]
    scores = []
    for fold in folds:
        run = folder / name / fold.name
        arguments = (f"task.data={fold}", f"hydra.run.dir={run}", f"model.pretrained={checkpoint}")
        run_command("train", recipe, *arguments, log=run / "said.log")
        scores.append(evaluate(run / "checkpoints" / "checkpoint_best.pt", fold, metric, run / "said.log"))
    return float(np.mean(scores))


def evaluate(checkpoint: Path, data: Path, metric: str, log: Path) -> float:
    """Return a score of a classifier on the test split, or on valid where there is no other."""
    split = "test" if (data / "test.tsv").is_file() else "valid"
    printed = run_command("evaluate", checkpoint, "--data", data, "--split", split, "--json", log=log)
    return float(json.loads(printed)["metrics"][metric]["value"])


def check_corpora(given: Sequence[str]) -> dict[str, str]:
    """Read `NAME=FOLDER …`; raises ConfigError for an unknown corpus, or a folder without manifests."""
    found = {}
    for each in given:
        name, _, folder = each.partition("=")
        if name not in CORPORA or not folder:
            raise ConfigError(f"--corpora {each}: expected NAME=FOLDER, with one of {', '.join(CORPORA)}")
        path = Path(folder).resolve()
        if not any(path.glob("train.tsv")) and not any(path.glob("*/train.tsv")):
            raise ConfigError(f"--corpora {each}: no train.tsv there; expected what the scripts in manifests/ write")
        found[name] = str(path)
    return found
