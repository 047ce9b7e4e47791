"""Spoken digits of an unknown speaker, from few takes: probes and fine-tuning of a pretrained model, beside baselines.

Each of the six speakers of FSDD is tested once; N takes of each digit, spread over the other five speakers, are what is
learnt from. A probe chooses its layer and settings on other training speakers' labels; fine-tuning chooses nothing: its
recipe is fixed, and its last checkpoint is tested, once, on all clips of the speaker.

    python docs/fsdd/run.py FSDD_FOLDER --pretrained CHECKPOINT --out DIR

What is done stands in DIR/results-*.jsonl, a line a result; started again, the script goes on from there.
"""

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import soundfile as sf
import torch

from mae_ast_fairseq import divisions, fbank, probing
from mae_ast_fairseq.checkpoints import build_model, build_untrained, read_checkpoint
from mae_ast_fairseq.data.audio import load_audio
from mae_ast_fairseq.data.manifest import Manifest, read_manifest, write_manifest
from mae_ast_fairseq.data.scan import find_audio, write_lines
from mae_ast_fairseq.features import pooled_features
from mae_ast_fairseq.finetuning import ARCHITECTURE
from mae_ast_fairseq.plots import require_matplotlib
from mae_ast_fairseq.prediction import Clip, predict

REPOSITORY = Path(__file__).resolve().parents[2]
MIN_SAMPLES = 1_600  # at 8 kHz, 0.2 s: 14 of the 3,000 clips are shorter than a patch, and get silence at their end
SHOTS = (1, 5, 10)
SEEDS = (0, 1, 2)
METHODS = ("fine-tuned", "from scratch")
NAMES = {
    "fine-tuned": "pretrained, fine-tuned",
    "probe of pretrained": "pretrained, linear probe (best layer)",
    "probe of log-Mel statistics": "log-Mel statistics, linear probe",
    "from scratch": "from scratch",
    "probe of random weights": "random weights, linear probe (best layer)",
}


class Job(NamedTuple):
    """One training: what is begun from, who is tested, with how many takes (0: all), drawn by which seed."""

    method: str
    speaker: str
    shots: int
    seed: int


def main() -> int:
    """Run what is not done yet, and write the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audio", type=Path, help="folder of FSDD's recordings, {digit}_{speaker}_{take}.wav")
    parser.add_argument("--pretrained", type=Path, required=True, help="checkpoint of pretraining")
    parser.add_argument("--out", type=Path, required=True, help="folder for results and what lies between")
    parser.add_argument("--updates", type=int, default=300, help="of each fine-tuning (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="what is drawn anew (default: 0 1 2)")
    parser.add_argument("--workers", type=int, default=2, help="processes that fine-tune (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no training after so long")
    parser.add_argument("--worker", type=int, help="fine-tune this process' share only; the script starts these itself")
    parser.add_argument("--only", choices=("probe", "finetune", "report"), help="run one part")
    parser.add_argument("overrides", nargs="*", help="of examples/finetune_fsdd.yaml, as optimization.lr=[0.001]")
    args = parser.parse_args()
    args.deadline = time.monotonic() + 60 * args.minutes
    args.out.mkdir(parents=True, exist_ok=True)
    if args.worker is not None:
        return finetune_share(args)
    task, manifest = prepare(args.audio, args.out)
    if args.only in (None, "probe"):
        probe_all(args, task, manifest)
    if args.only in (None, "finetune"):
        workers = [
            subprocess.Popen([sys.executable, __file__, *sys.argv[1:], f"--worker={worker}"])
            for worker in range(args.workers)
        ]
        codes = [worker.wait() for worker in workers]
        if any(codes):
            return 1
    report(args.out)
    return 0


# --- data


def prepare(audio: Path, out: Path) -> tuple[divisions.Task, Manifest]:
    """Write the manifest of all clips, the shortest ones padded, and return it with digits and speakers."""
    rows, digits, speakers = [], [], []
    (out / "padded").mkdir(exist_ok=True)
    for name in find_audio(audio):
        path = (audio / name).resolve()
        waveform, rate = sf.read(path, dtype="int16")
        if len(waveform) < MIN_SAMPLES:
            waveform = np.pad(waveform, (0, MIN_SAMPLES - len(waveform)))
            path = (out / "padded" / name).resolve()
            sf.write(path, waveform, rate, subtype="PCM_16")
        rows.append((str(path).lstrip("/"), len(waveform), rate))
        digit, speaker, _ = path.stem.split("_")
        digits.append(int(digit))
        speakers.append(speaker)
    write_manifest(out / "all.tsv", "/", rows)
    task = divisions.Task(np.array(digits), [str(digit) for digit in range(10)], np.array(speakers))
    return task, read_manifest(out / "all.tsv")


def few_shot(task: divisions.Task, speaker: str, shots: int, seed: int) -> divisions.Division:
    """Return the division that tests a speaker, with `shots` training takes a digit; 0: all."""
    division = next(some for some in divisions.divide_by_groups(task, seed) if some.name == speaker)
    return divisions.few_shot(task, division, shots, seed) if shots else division


# --- results


def read_results(out: Path) -> list[dict[str, Any]]:
    """Return all that is done."""
    return [json.loads(line) for file in sorted(out.glob("results-*.jsonl")) for line in file.read_text().splitlines()]


def add_result(file: Path, job: Job, accuracy: float, **more: Any) -> None:
    """Append a result, which is then done."""
    with file.open("a") as stream:
        stream.write(json.dumps({**job._asdict(), "accuracy": accuracy, **more}) + "\n")


def is_done(results: list[dict[str, Any]], job: Job) -> bool:
    """Tell whether a job has a result."""
    return any(all(result[name] == value for name, value in job._asdict().items()) for result in results)


# --- probes


def probe_all(args: argparse.Namespace, task: divisions.Task, manifest: Manifest) -> None:
    """Probe the pretrained model, random weights and log-Mel statistics, by all speakers, shots and seeds."""
    done, file = read_results(args.out), args.out / "results-probe.jsonl"
    for name, seed in [
        ("pretrained", None),
        ("log-Mel statistics", None),
        *(("random weights", s) for s in args.seeds),
    ]:
        jobs = [
            Job(f"probe of {name}", speaker, shots, one)
            for one in (args.seeds if seed is None else (seed,))
            for shots in ((*SHOTS, 0) if one == SEEDS[0] else SHOTS)  # with all takes, seeds hardly matter
            for speaker in np.unique(task.groups).tolist()
        ]
        jobs = [job for job in jobs if not is_done(done, job)]
        features = extract(args.pretrained, manifest, name, seed or 0) if jobs else None
        for job in jobs:
            division = few_shot(task, job.speaker, job.shots, job.seed)
            choice = probing.best(probing.compare(features, task, division, "linear"))
            scores = probing.test_scores(features, task, division, "linear", choice)
            accuracy = probing.evaluate(scores, task, division.test)["accuracy"]
            add_result(file, job, accuracy, layer=choice.layer, **choice.setting._asdict())
            print(f"{job}: {accuracy:.1%} (layer {choice.layer})", file=sys.stderr)


def extract(pretrained: Path, manifest: Manifest, name: str, seed: int) -> np.ndarray:
    """Return the features [N, layers, C] of one of the methods."""
    checkpoint = read_checkpoint(pretrained)
    if name == "log-Mel statistics":
        waveforms = (load_audio(manifest.path(row), expect_rate=None) for row in range(len(manifest)))
        frames = (fbank.log_mel(torch.from_numpy(waveform)).numpy() for waveform in waveforms)
        return np.stack([probing.log_mel_statistics(some) for some in frames])[:, None]
    model = build_model(checkpoint) if name == "pretrained" else build_untrained(checkpoint, seed)
    return pooled_features(model, manifest, device=torch.device("cpu"), dtype=torch.float32)


# --- fine-tuning


def finetune_jobs(task: divisions.Task, seeds: Sequence[int]) -> Iterator[Job]:
    """Yield all trainings, so that a part of them already shows something: seed by seed."""
    for seed in seeds:
        for shots in SHOTS:
            for speaker in np.unique(task.groups).tolist():
                for method in METHODS:
                    yield Job(method, speaker, shots, seed)


def finetune_share(args: argparse.Namespace) -> int:
    """Fine-tune every `workers`-th configuration that is not done, one after another in this process."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    task, manifest = prepare_again(args)
    done, file = read_results(args.out), args.out / f"results-finetune{args.worker}.jsonl"
    for job in list(finetune_jobs(task, args.seeds))[args.worker :: args.workers]:
        if is_done(done, job):
            continue
        if time.monotonic() > args.deadline:
            break
        begin = time.monotonic()
        accuracy = finetune(args, task, manifest, job)
        add_result(file, job, accuracy, seconds=round(time.monotonic() - begin, 1))
        print(f"{job}: {accuracy:.1%} in {time.monotonic() - begin:.0f} s", file=sys.stderr)
    return 0


def prepare_again(args: argparse.Namespace) -> tuple[divisions.Task, Manifest]:
    """Read what `prepare` wrote."""
    manifest = read_manifest(args.out / "all.tsv")
    names = [Path(manifest.path(row)).stem.split("_") for row in range(len(manifest))]
    digits, speakers = np.array([int(name[0]) for name in names]), np.array([name[1] for name in names])
    return divisions.Task(digits, [str(digit) for digit in range(10)], speakers), manifest


def finetune(args: argparse.Namespace, task: divisions.Task, manifest: Manifest, job: Job) -> float:
    """Train one classifier with fairseq and return its accuracy on the clips of the tested speaker."""
    from fairseq_cli import train as fairseq_train

    division = few_shot(task, job.speaker, job.shots, job.seed)
    folder = args.out / f"worker{args.worker}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    rows = [manifest.path(row).lstrip("/") for row in division.train]
    samples = [(int(manifest.num_samples[row]), int(manifest.sample_rates[row])) for row in division.train]
    write_manifest(folder / "train.tsv", "/", [(path, *sizes) for path, sizes in zip(rows, samples, strict=True)])
    write_lines(folder / "train.lbl", [task.names[digit] for digit in task.targets[division.train]])
    write_lines(folder / "labels.txt", task.names)
    fairseq_train.main(config(args, job, folder))

    model = build_model(read_checkpoint(folder / "checkpoints" / "checkpoint_last.pt"))
    clips = [Clip(manifest.path(row)) for row in division.test]
    found = list(predict(model, clips, window_samples=160_000, hop_samples=160_000))  # type: ignore[arg-type]
    answers = np.array([windows[0].probabilities.argmax() for windows in found])  # type: ignore[union-attr]
    return float((answers == task.targets[division.test]).mean())


def config(args: argparse.Namespace, job: Job, folder: Path) -> Any:
    """Compose examples/finetune_fsdd.yaml as fairseq-hydra-train does."""
    from fairseq.dataclass.initialize import add_defaults, hydra_init
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf, open_dict

    checkpoint = read_checkpoint(args.pretrained)
    begin = [f"model.pretrained={args.pretrained.resolve()}"]
    if job.method == "from scratch":  # the same network; layer-wise decay is for what is pretrained
        fields = {name: getattr(checkpoint.model, name) for name in ARCHITECTURE}
        begin = [*(f"model.{name}={value}" for name, value in fields.items()), "model.layer_decay=1.0"]
    overrides = [
        f"task.data={folder.resolve()}",
        f"checkpoint.save_dir={folder.resolve() / 'checkpoints'}",
        f"common.seed={job.seed + 1}",
        f"optimization.max_update={args.updates}",
        "common.user_dir=null",
        "common.tensorboard_logdir=null",
        "common.log_format=none",
        "dataset.num_workers=0",
        "dataset.data_buffer_size=0",
        "dataset.disable_validation=true",
        "checkpoint.save_interval=1000000",
        "checkpoint.no_save_optimizer_state=true",
    ]
    hydra_init("finetune_fsdd")
    with initialize_config_dir(str(REPOSITORY / "examples"), version_base="1.1"):
        cfg = compose("finetune_fsdd", overrides=[*overrides, *begin, *args.overrides])
    add_defaults(cfg)
    with open_dict(cfg):
        cfg.pop("hydra", None)
    return OmegaConf.create(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True))


# --- report


def report(out: Path) -> None:
    """Print and write the table and the picture: mean and deviation over the seeds of the mean over speakers."""
    results = read_results(out)
    table: dict[str, dict[int, tuple[float, float, int]]] = {}
    for method in NAMES:
        for shots in (*SHOTS, 0):
            some = [r for r in results if r["method"] == method and r["shots"] == shots]
            by_seed = [[r["accuracy"] for r in some if r["seed"] == seed] for seed in SEEDS]
            means = [float(np.mean(values)) for values in by_seed if len(values) == 6]  # whole rounds of speakers only
            if means:
                deviation = float(np.std(means, ddof=1)) if len(means) > 1 else float("nan")
                table.setdefault(method, {})[shots] = (float(np.mean(means)), deviation, len(means))
    lines = ["| takes a digit | " + " | ".join([*map(str, SHOTS), "all (250)"]) + " |", "|---|" + "---|" * 4]
    for method, row in table.items():
        cells = [f"{row[s][0]:.1%} ± {100 * row[s][1]:.1f}" if s in row else "" for s in (*SHOTS, 0)]
        lines.append(f"| {NAMES[method]} | " + " | ".join(cells) + " |")
    text = "\n".join(lines)
    (out / "table.md").write_text(text + "\n")
    print(text)
    draw(out / "accuracy.png", table)


def draw(path: Path, table: dict[str, dict[int, tuple[float, float, int]]]) -> None:
    """Draw accuracy over takes, with the deviation over seeds."""
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    ax = figure.subplots()
    for method, row in table.items():
        shots = [some for some in SHOTS if some in row]
        means, deviations = ([100 * row[some][place] for some in shots] for place in (0, 1))
        style = "-" if method in METHODS else "--"
        ax.errorbar(shots, means, yerr=deviations, marker="o", capsize=4, linestyle=style, label=NAMES[method])
    ax.axhline(10, color="0.6", linewidth=1)
    ax.text(SHOTS[-1], 10.5, "chance", color="0.4", ha="right", fontsize="small")
    ax.set_xticks(SHOTS)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("takes of each digit, spread over five speakers")
    ax.set_ylabel("accuracy on the sixth speaker (%)")
    ax.set_title("Spoken digits of an unknown speaker: mean over six speakers, deviation over three seeds", fontsize=10)
    ax.legend(fontsize="small")
    ax.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
