"""`make demo`: a tour from a folder of audio to a page of what a model learnt, by the commands a person would use."""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from mae_ast_fairseq.corpus.synthetic import write_corpus
from mae_ast_fairseq.errors import UserError
from mae_ast_fairseq.extras import require

NUM_CLIPS = 600
NUM_UPDATES = 800
VALID_FRACTION = 0.1
NUM_PICTURES = 6
CLASS_IN_NAME = r"(?P<label>.+)_\d+"
"""of the synthetic corpus"""

# What is compared before and after training, as `mae-ast reconstruct` names it.
SCORES = {
    "mse": "reconstruction error (predicting the mean: {baseline:.3f})",
    "info_nce": "InfoNCE, nats",
    "accuracy": "InfoNCE accuracy (chance: {chance:.3f})",
}


def main() -> int:
    """Run the demo; returns an exit code."""
    parser = argparse.ArgumentParser(prog="demo", description="Pretrain a tiny MAE-AST and see what it learnt.")
    parser.add_argument("--audio", type=Path, help="folder of audio files (default: a synthetic corpus)")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for results (default: %(default)s)")
    parser.add_argument("--updates", type=int, default=NUM_UPDATES, help="of training (default: %(default)s)")
    args = parser.parse_args()
    try:
        run_demo(args.audio, args.out, args.updates)
    except UserError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def run_demo(audio: Path | None, out: Path, num_updates: int) -> None:
    """Make or take a corpus, write manifests and statistics, pretrain, compare before with after, probe, and report.

    Results lie in `out/synthetic`, or under the name of the corpus' folder; those of an earlier demo are replaced.
    """
    for extra in ("train", "plot", "probe"):
        require(extra, "the demo")
    folder = out / ("synthetic" if audio is None else audio.resolve().name)
    if audio is not None and audio.resolve().is_relative_to(folder.resolve()):
        raise UserError(
            f"--audio {audio}: it lies in {folder}, which the demo's results replace; expected recordings elsewhere; "
            "move them, or name another folder for results by --out"
        )
    if (folder / "run" / "train.log").exists():
        shutil.rmtree(folder)
    labels: tuple[str, ...] = ()
    if audio is None:
        audio, labels = folder / "audio", ("--label-pattern", CLASS_IN_NAME)
        print(f"Making {NUM_CLIPS} clips of tones, chirps, noise bursts and voices in {audio}", flush=True)
        write_corpus(audio, num_clips=NUM_CLIPS)

    data, run = folder / "data", folder / "run"
    call("mae-ast", "manifest", audio, "--out", data, "--valid", VALID_FRACTION, *labels)
    call("mae-ast", "stats", data / "train.tsv")
    every = ("dataset.validate_interval_updates=100", "dataset.validate_interval=1000000")
    call(
        *("mae-ast", "train", "mae_ast_tiny", f"task.data={data}", f"hydra.run.dir={run}"),
        *(f"optimization.max_update={num_updates}", "common.log_interval=10", *every),
    )
    checkpoint = run / "checkpoints" / "checkpoint_last.pt"
    compare(checkpoint, data / "valid.tsv", run / "pictures")
    if labels:
        probe(checkpoint, data, run / "probe.json")
    else:
        print("\nNo labels, no probe; `mae-ast labels` finds them in the names of folders and files, or in a table.")
    call("mae-ast", "report", run, "--out", folder / "report")
    print(f"\nLook at {(folder / 'report' / 'report.html').resolve()}")
    print(f"Checkpoints, log and pictures are in {run}")


def command(name: str, *arguments: object) -> list[str]:
    """Return a command line of this environment, and show it as a person would type it."""
    print("\n$", name, *arguments, flush=True)
    return [str(Path(sys.executable).with_name(name)), *map(str, arguments)]


def call(name: str, *arguments: object, capture: bool = False) -> str:
    """Run a command; returns its output where that is captured. Raises UserError where it fails."""
    done = subprocess.run(command(name, *arguments), stdout=subprocess.PIPE if capture else None, text=True)
    if done.returncode:
        raise UserError(f"`{name} {arguments[0]}` failed with exit code {done.returncode}")
    return done.stdout or ""


def probe(checkpoint: Path, data: Path, result: Path) -> None:
    """Ask how well sounds are named by frozen features and one example of each, and keep the answer beside the run."""
    how = ("--split", "train", "valid", "--folds", 3, "--shots", 1, "--seeds", 1, 2, 3)
    options = ("--data", data, *how, "--classifier", "ridge", "--readout", "mean+max", "--json")
    result.write_text(call("mae-ast", "probe", checkpoint, *options, capture=True), encoding="utf-8")


def compare(checkpoint: Path, manifest: Path, pictures: Path) -> None:
    """Draw the same clips before and after training, and print the scores side by side."""
    args = ("reconstruct", checkpoint, "--manifest", manifest, "--clips", NUM_PICTURES, "--out", pictures, "--json")
    before = json.loads(call("mae-ast", *args, "--untrained", capture=True))["mean"]
    after = json.loads(call("mae-ast", *args, capture=True))["mean"]
    print(f"\n{f'mean over {NUM_PICTURES} clips that were held out':56}{'before':>10}{'after':>10}")
    for score, text in SCORES.items():
        print(f"{text.format(**after):56}{before[score]:>10.3f}{after[score]:>10.3f}")


if __name__ == "__main__":
    sys.exit(main())
