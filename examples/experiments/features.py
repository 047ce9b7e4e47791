"""Are the features of the tiny recipes worth having? All that docs/features shows, by one resumable command.

    pip install tinysoundfont espeakng-loader        # what the probe sets are rendered with
    python examples/experiments/features.py OUT --fsdd FSDD_FOLDER --samples SAMPLES_FOLDER

Stages, each a function below: the open corpus, pretraining (hours), probes of every checkpoint beside log-Mel and
random weights, few-shot fine-tuning, and a report. What is done stands in OUT/results-*.jsonl, a line a result.
"""

import argparse
import itertools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import features_report
import numpy as np
import sets
from downstream import run_command
from open_corpus import make_open_corpus
from probing import accuracies, reader

from mae_ast_fairseq.checkpoints.read import build_model, build_untrained, read_checkpoint
from mae_ast_fairseq.checkpoints.transfer import ARCHITECTURE
from mae_ast_fairseq.corpus.scan import write_lines
from mae_ast_fairseq.corpus.synthetic import write_corpus as write_synthetic
from mae_ast_fairseq.data.manifest import write_manifest
from mae_ast_fairseq.errors import UserError
from mae_ast_fairseq.evaluation import probes, splits
from mae_ast_fairseq.inference.loading import FileList
from mae_ast_fairseq.inference.predict import predict

REPOSITORY = Path(__file__).resolve().parents[2]
SEEDS = (0, 1, 2)
SHOTS = (1, 5, 10, 0)
"""Takes of each digit to fine-tune on; 0: all."""

MAIN = ("optimization.max_update=12000", "lr_scheduler.warmup_updates=600", "common.bf16=false")
VARIANT = ("optimization.max_update=2000", "lr_scheduler.total_num_update=3000", "common.bf16=false")
VARIANT += ("lr_scheduler.warmup_updates=300",)
SHORT = ("optimization.max_update=500", "lr_scheduler.total_num_update=4000")
FAILING = (*SHORT, "model.head_init_scale=1.0", "optimization.lr=[0.0007]", "lr_scheduler.warmup_updates=150")
FLOAT32, BFLOAT16, FAST = "common.bf16=false", "common.bf16=true", "optimization.lr=[0.002]"
RECORDINGS, SYNTHETIC = "task.data={out}/recordings", "task.data={out}/synthetic"
FRAME, PATCH = "mae_ast_tiny_frame", "mae_ast_tiny"
RUNS = {
    "frame": (FRAME, MAIN),
    "patch": (PATCH, MAIN),
    # what else was tried, on frames
    "frame-2000": (FRAME, VARIANT),
    "frame-lr-0.001": (FRAME, (*VARIANT, "optimization.lr=[0.001]")),
    "frame-chunk": (FRAME, (*VARIANT, "task.mask_type=chunk_mask")),
    "frame-reconstruction": (FRAME, (*VARIANT, "criterion.classification_weight=0")),
    # the recipes' first 500 updates, on three corpora
    "frame-500-bf16": (FRAME, (*SHORT, BFLOAT16)),
    "patch-500-recordings": (PATCH, (*SHORT, FLOAT32, RECORDINGS)),
    "patch-500-recordings-bf16": (PATCH, (*SHORT, BFLOAT16, RECORDINGS)),
    "patch-500-synthetic": (PATCH, (*SHORT, FLOAT32, SYNTHETIC)),
    "patch-500-synthetic-bf16": (PATCH, (*SHORT, BFLOAT16, SYNTHETIC)),
    # starts that collapse, or were thought to
    "patch-failing": (PATCH, (*FAILING, FLOAT32)),
    "patch-failing-recordings": (PATCH, (*FAILING, FLOAT32, RECORDINGS)),
    "patch-failing-recordings-bf16": (PATCH, (*FAILING, BFLOAT16, RECORDINGS)),
    "frame-failing-recordings": (FRAME, (*FAILING, FLOAT32, RECORDINGS)),
    "patch-failing-synthetic": (PATCH, (*FAILING, FLOAT32, SYNTHETIC)),
    "patch-failing-lr-0.002": (PATCH, (*FAILING, FLOAT32, FAST)),
    "frame-failing-lr-0.002": (FRAME, (*FAILING, FLOAT32, FAST)),
}
COLLAPSED_OR_NOT = (
    *("frame-500-bf16", "frame-failing-recordings"),
    *("patch-500-recordings-bf16", "patch-failing-recordings-bf16"),
)
PROBED = ("frame", "patch", "frame-2000", "frame-lr-0.001", "frame-chunk", "frame-reconstruction")


def main() -> int:
    """Run what is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the corpus, checkpoints and results")
    parser.add_argument("--fsdd", type=Path, required=True, help="recordings of the Free Spoken Digit Dataset")
    parser.add_argument("--samples", type=Path, required=True, help="samples named kind_description")
    parser.add_argument("--workers", type=int, default=2, help="trainings at a time, a core each (default: 2)")
    parser.add_argument("--only", choices=STAGES, help="run one stage")
    parser.add_argument("--runs", nargs="+", default=list(RUNS), help="pretraining runs (default: all)")
    args = parser.parse_args()
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        for name, stage in STAGES.items():
            if args.only in (None, name):
                stage(args)
    except (UserError, OSError) as error:
        print(f"features.py: {error}", file=sys.stderr)
        return 2
    return 0


# --- results


def results_of(out: Path) -> list[dict[str, Any]]:
    """Return all that is done."""
    found = [json.loads(line) for file in sorted(out.glob("results-*.jsonl")) for line in file.read_text().splitlines()]
    by_key = {tuple(item for item in result.items() if item[0] != "accuracy"): result for result in found}
    return list(by_key.values())  # two processes may have done the same


def add_result(file: Path, **result: Any) -> None:
    """Append a result, which is then done."""
    with file.open("a") as stream:
        stream.write(json.dumps(result) + "\n")


def is_done(results: Sequence[dict[str, Any]], **wanted: Any) -> bool:
    """Tell whether there is a result of these settings."""
    return any(all(result.get(name) == value for name, value in wanted.items()) for result in results)


# --- the corpus


def make_corpus(args: argparse.Namespace) -> None:
    """Fetch the open corpus; list two small ones."""
    if not (args.out / "synthetic" / "train.tsv").is_file():
        write_synthetic(args.out / "synthetic" / "audio", num_clips=600)
        list_audio(args.out / "synthetic" / "audio", args.out / "synthetic")
    if not (args.out / "recordings" / "train.tsv").is_file():
        list_audio(args.fsdd.parent, args.out / "recordings")
    make_open_corpus(args.out, args.workers)


def list_audio(folder: Path, data: Path) -> None:
    """Write manifests of a folder's audio."""
    run_command("manifest", folder, "--out", data, log=data.with_name(f"{data.name}_said.log"))


# --- pretraining


def pretrain(args: argparse.Namespace) -> None:
    """Train every run that is not finished, some at a time; a stopped one goes on from its last checkpoint."""
    with ThreadPoolExecutor(args.workers) as pool:
        list(pool.map(lambda name: train(args.out, name), args.runs))


def train(out: Path, name: str) -> None:
    """Train one run, with a validation and a checkpoint every thousand updates, its log beside it."""
    folder = out / "runs" / name
    if (folder / "done").is_file():
        return
    recipe, overrides = RUNS[name]
    every = 100 if overrides[:2] == SHORT else 1000
    run_command(
        "train", recipe, f"task.data={out / 'data'}", f"hydra.run.dir={folder}",
        f"dataset.validate_interval_updates={every}", "dataset.validate_interval=1000",
        "checkpoint.save_interval_updates=1000", "checkpoint.save_interval=1000",
        *(override.format(out=out) for override in overrides), log=folder / "train_said.log",
    )  # fmt: skip
    (folder / "done").touch()


def checkpoints_of(folder: Path) -> dict[int, Path]:
    """Return a run's checkpoints by their updates."""
    paths = folder.glob("checkpoints/checkpoint_*_*.pt")
    return dict(sorted((int(path.stem.split("_")[-1]), path) for path in paths))


# --- probes


def probe(args: argparse.Namespace) -> None:
    """Probe log-Mel, random weights and the last checkpoints of the long runs by three seeds, all others by one."""
    probe_sets = sets.probe_sets(args.out, args.fsdd, args.samples)
    file = args.out / "results-probe.jsonl"
    for model, seeds, extract in models_to_probe(args.out):
        for name, probe_set in probe_sets.items():
            done = [result for result in results_of(args.out) if result.get("readout") == "best"]  # written last
            wanted = [seed for seed in seeds if not is_done(done, stage="probe", model=model, set=name, seed=seed)]
            readouts = extract(probe_set) if wanted else {}
            for seed in wanted:
                for readout, accuracy in accuracies(readouts, probe_set.data, seed).items():
                    add_result(
                        file, stage="probe", model=model, set=name, seed=seed, readout=readout, accuracy=accuracy
                    )
                print(f"{model}, {name}, seed {seed}: {accuracy:.1%}", file=sys.stderr, flush=True)


def models_to_probe(out: Path) -> Iterator[tuple[str, Sequence[int], Any]]:
    """Yield each model's name, the seeds it is probed by, and what reads its features out."""
    yield "log-Mel", SEEDS, lambda probe_set: probes.log_mel_readouts(probe_set.manifest)
    for run in PROBED:
        checkpoints = checkpoints_of(out / "runs" / run)
        is_main = run in ("frame", "patch")
        for updates in (12_000, 3_000, 6_000, 9_000) if is_main else (2_000,):
            if updates not in checkpoints:
                continue
            checkpoint = read_checkpoint(checkpoints[updates])
            is_last = updates == 12_000
            yield f"{run}@{updates}", SEEDS if is_last else SEEDS[:1], reader(build_model(checkpoint))
            for seed in SEEDS if is_last else ():
                yield f"random {run} {seed}", [seed], reader(build_untrained(checkpoint, seed))


def probe_last_layers(args: argparse.Namespace) -> None:
    """Probe the mean of the last layer, of healthy and collapsed runs and random weights: what a collapse costs."""
    probe_sets = sets.probe_sets(args.out, args.fsdd, args.samples)
    done = results_of(args.out)
    for run in COLLAPSED_OR_NOT:
        checkpoint = read_checkpoint(args.out / "runs" / run / "checkpoints" / "checkpoint_last.pt")
        models = {run: build_model(checkpoint), f"random weights as {run}": build_untrained(checkpoint, 0)}
        for (model, network), (name, probe_set) in itertools.product(models.items(), probe_sets.items()):
            key = {"stage": "last-layer", "model": model, "set": name}
            if not is_done(done, **key):
                readouts = {"mean": reader(network)(probe_set)["mean"][:, -1:]}
                accuracy = accuracies(readouts, probe_set.data, seed=0)["mean"]
                add_result(args.out / "results-last-layer.jsonl", **key, accuracy=accuracy)


# --- few-shot fine-tuning


class FewShot(NamedTuple):
    """One fine-tuning: from what, on how many takes a digit, who is tested, drawn by which seed."""

    method: str
    shots: int
    speaker: str
    seed: int


def few_shot(args: argparse.Namespace) -> None:
    """Fine-tune the frames' model, and the same network from scratch, on few takes of spoken digits."""
    digits = sets.read_set(args.out / "sets" / "digits_to_learn", lambda: sets.digits(args.fsdd, range(50)))
    speakers = np.unique(digits.data.groups).tolist()
    jobs = [FewShot(method, shots, speaker, seed) for seed in SEEDS for shots in SHOTS for speaker in speakers
            for method in ("pretrained", "scratch") if seed == 0 or shots == 5]  # fmt: skip
    done = results_of(args.out)
    jobs = [job for job in jobs if not is_done(done, stage="few-shot", **job._asdict())]
    with ThreadPoolExecutor(args.workers) as pool:
        list(pool.map(lambda job: fine_tune(args.out, digits, job), jobs))


def fine_tune(out: Path, digits: sets.ProbeSet, job: FewShot) -> None:
    """Train one classifier and note its accuracy on all clips of the speaker that it never heard."""
    split = next(some for some in splits.split_by_groups(digits.data, job.seed) if some.name == job.speaker)
    if job.shots:
        split = splits.few_shot(digits.data, split, job.shots, job.seed)
    folder = out / "few_shot" / "-".join(map(str, job))
    folder.mkdir(parents=True, exist_ok=True)
    manifest, names = digits.manifest, digits.data.names
    rows = [(manifest.relative_path(row), int(manifest.num_samples[row]), 16_000) for row in split.train.tolist()]
    write_manifest(folder / "train.tsv", manifest.root, rows)
    write_lines(folder / "train.lbl", [names[target] for target in digits.data.targets[split.train]])
    write_lines(folder / "labels.txt", names)
    path = max(checkpoints_of(out / "runs" / "frame").items())[1]
    begin = [f"model.pretrained={path}"]
    if job.method == "scratch":  # the same network; layer-wise decay is for what is pretrained
        fields = {name: getattr(read_checkpoint(path).model, name) for name in ARCHITECTURE}
        begin = [*(f"model.{name}={value}" for name, value in fields.items()), "model.layer_decay=1.0"]
    run_command(
        "train", "finetune_fsdd", f"task.data={folder}", f"hydra.run.dir={folder}", f"common.seed={job.seed + 1}",
        "optimization.max_update=200", "lr_scheduler.warmup_updates=20", "dataset.disable_validation=true",
        "checkpoint.save_interval=1000000", BFLOAT16, *begin,
        log=folder / "train_said.log",
    )  # fmt: skip
    last = folder / "checkpoints" / "checkpoint_last.pt"
    clips = FileList([manifest.path(row) for row in split.test.tolist()])
    found = predict(build_model(read_checkpoint(last)), clips, window_samples=160_000, hop_samples=160_000)
    answers = np.array([windows[0].probabilities.argmax() for windows in found])
    accuracy = float((answers == digits.data.targets[split.test]).mean())
    add_result(out / "results-few-shot.jsonl", stage="few-shot", **job._asdict(), accuracy=accuracy)
    last.unlink()
    print(f"{job}: {accuracy:.1%}", file=sys.stderr, flush=True)


STAGES = {
    "corpus": make_corpus,
    "pretrain": pretrain,
    "probe": probe,
    "last-layer": probe_last_layers,
    "few-shot": few_shot,
    "report": lambda args: features_report.write(args.out, results_of(args.out), REPOSITORY / "docs" / "features"),
}

if __name__ == "__main__":
    sys.exit(main())
