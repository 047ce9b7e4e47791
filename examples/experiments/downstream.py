"""What a pretrained model is worth downstream, by the means of each scale."""

import ctypes
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

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


class Corpus(NamedTuple):
    """A published corpus to fine-tune on, by the recipe finetune_NAME."""

    short: str
    """what the paper calls it"""
    num_folds: int = 1
    metric: str = "accuracy"
    averages: bool = False
    """whether the weights of its epochs are averaged, as AST and SSAST do"""


CORPORA = {
    "audioset20k": Corpus("AS-20K", metric="mAP", averages=True),
    "esc50": Corpus("ESC-50", num_folds=5),
    "speech_commands_v2": Corpus("KS2"),
    "speech_commands_v1": Corpus("KS1"),
    "voxceleb1": Corpus("SID"),
    "iemocap": Corpus("ER", num_folds=5),
}
NEEDED = ("train.tsv", "train.lbl", "valid.tsv", "valid.lbl", "labels.txt")
"""of each folder, to fine-tune on"""


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


def probe(checkpoint: Path, groups: Mapping[str, sets.ProbeSet], seed: int) -> dict[str, dict[str, float]]:
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
        "dataset.disable_validation=true",
        log=folder / "said.log",
    )  # fmt: skip
    return evaluate(folder / "checkpoints" / "checkpoint_last.pt", folder, "accuracy", folder / "said.log")


def fine_tune_corpus(checkpoint: Path, name: str, data: Path, folder: Path) -> float:
    """Return the score of a fine-tuned model on a published corpus; of folds, which are numbered folders, the mean."""
    corpus = CORPORA[name]
    scores = []
    for fold in folds_of(data):
        run = folder / name / fold.name
        log = run / "said.log"
        arguments = (f"task.data={fold}", f"hydra.run.dir={run}", f"model.pretrained={checkpoint}")
        run_command("train", f"finetune_{name}", *arguments, log=log)
        tuned = run / "checkpoints" / "checkpoint_best.pt"
        if corpus.averages:
            epochs = sorted(tuned.parent.glob("checkpoint[0-9]*.pt"))
            tuned = run / "averaged.pt"
            run_command("average", *epochs, "--out", tuned, log=log)
        scores.append(evaluate(tuned, fold, corpus.metric, log))
    return float(np.mean(scores))


def folds_of(data: Path) -> list[Path]:
    """Return the folders of manifests in a folder, or itself where it is one."""
    return sorted(path.parent for path in data.glob("*/train.tsv")) or [data]


def evaluate(checkpoint: Path, data: Path, metric: str, log: Path) -> float:
    """Return a score of a classifier on the test split, or on valid where there is no other."""
    split = "test" if (data / "test.tsv").is_file() else "valid"
    printed = run_command("evaluate", checkpoint, "--data", data, "--split", split, "--json", log=log)
    return float(json.loads(printed)["metrics"][metric]["value"])


def check_corpora(given: Sequence[str]) -> dict[str, str]:
    """Read `NAME=FOLDER …`; raises ConfigError for an unknown corpus, or a folder without its manifests."""
    found = {}
    for each in given:
        name, _, folder = each.partition("=")
        if name not in CORPORA or not folder:
            raise ConfigError(f"--corpora {each}: expected NAME=FOLDER, with one of {', '.join(CORPORA)}")
        path, expected = Path(folder).resolve(), CORPORA[name].num_folds
        for needed in NEEDED:
            number = sum((fold / needed).is_file() for fold in folds_of(path))
            if number != expected:
                where = "in each of its folders 1 to 5, one a fold" if expected > 1 else "there"
                raise ConfigError(
                    f"--corpora {each}: {number} {needed}; expected {expected}, {where}, as the scripts in manifests/ "
                    "write them (where a corpus has no valid, with --valid 0.1)"
                )
        found[name] = str(path)
    return found
