"""`make demo`: from a folder of audio to a model that has learnt something, by the commands a person would use."""

import argparse
import subprocess
import sys
from pathlib import Path

from mae_ast_fairseq.data.synthetic import write_corpus

NUM_CLIPS = 400
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def main() -> int:
    """Make or take a corpus, write its manifests, pretrain the tiny recipe, and say where everything lies."""
    parser = argparse.ArgumentParser(description="Pretrain a tiny MAE-AST on made-up sounds or on a folder of audio.")
    parser.add_argument("--audio", type=Path, help="folder of audio files (default: a synthetic corpus)")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for results (default: %(default)s)")
    args = parser.parse_args()
    audio = args.audio or args.out / "audio"
    if args.audio is None:
        print(f"Making {NUM_CLIPS} clips of tones, chirps, noise bursts and voices in {audio}", flush=True)
        write_corpus(audio, num_clips=NUM_CLIPS)
    data, run = args.out / "data", args.out / "run"
    for command in (
        ["mae-ast", "manifest", audio, "--out", data, "--valid", "0.1"],
        [
            "fairseq-hydra-train", "--config-dir", EXAMPLES, "--config-name", "mae_ast_tiny",
            f"task.data={data}", f"hydra.run.dir={run}",
        ],
    ):  # fmt: skip
        print("\n$", *command, flush=True)
        if code := subprocess.run([Path(sys.executable).with_name(str(command[0])), *command[1:]]).returncode:
            return code
    print(f"\nCheckpoints: {run}/checkpoints. Curves: .venv/bin/tensorboard --logdir {run}/tensorboard")
    return 0


if __name__ == "__main__":
    sys.exit(main())
