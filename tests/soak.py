"""Does a long run keep its size? Memory, open files and shared memory of a training process and of its workers.

    make soak        # 5,000 updates with two workers, some ten minutes of two cores

A run of fairseq-hydra-train on a corpus of 400 clips, many epochs of it with validations and checkpoints, is looked at
every 100 updates. What grew is the slope of a line through the least of each 500 updates after the warm-up: batches
that wait in fairseq's buffer are open files and shared memory too, more of them at one time than at another.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections import deque
from pathlib import Path

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from mae_ast_fairseq.cli import main as mae_ast
from mae_ast_fairseq.corpus.synthetic import write_corpus
from tests.training import EXAMPLES, SMALL

NUM_UPDATES, WARM_UP, STEP, WINDOW = 5_000, 1_000, 100, 500
LIMIT = 1.0
"""MB, or open files, that 1,000 updates may add"""


def main() -> int:
    """Train, print what grew, and return 1 where something did."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=NUM_UPDATES, help="(default: %(default)s)")
    parser.add_argument("--warm-up", type=int, default=WARM_UP, help="updates not looked at (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="also write all that was found there, as JSON")
    args = parser.parse_args()
    if args.updates < args.warm_up + 2 * WINDOW:
        parser.error(f"--updates: {args.updates} was given; expected {2 * WINDOW} more than --warm-up")
    with tempfile.TemporaryDirectory() as folder:
        found = watch(Path(folder), args.updates)
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n")
    kept = [sizes for sizes in found if sizes["updates"] > args.warm_up]
    windows = [kept[start : start + WINDOW // STEP] for start in range(0, len(kept), WINDOW // STEP)]
    thousands = [window[-1]["updates"] / 1_000 for window in windows]
    rows = []
    for name in found[0].keys() - {"updates"}:
        least = [min(sizes[name] for sizes in window) for window in windows]
        rows.append((name, least[0], least[-1], np.polyfit(thousands, least, 1)[0]))
    rows.sort()
    header = [
        "",
        f"{1000 * thousands[0]:,.0f} updates",
        f"{1000 * thousands[-1]:,.0f} updates",
        "more in 1,000 updates",
    ]
    print(tabulate(rows, header, floatfmt=("", ".1f", ".1f", ".3f")))
    return int(any(slope > LIMIT for *_, slope in rows))


def watch(folder: Path, num_updates: int) -> list[dict[str, float]]:
    """Train in `folder`; return what the processes were every STEP updates."""
    corpus = folder / "corpus"
    write_corpus(corpus, num_clips=400, seconds=(0.5, 2.0))
    mae_ast(["manifest", str(corpus), "--out", str(folder), "--valid", "0.05"])
    process = subprocess.Popen(
        [
            Path(sys.executable).with_name("fairseq-hydra-train"), "--config-dir", EXAMPLES,
            "--config-name", "mae_ast_tiny", f"task.data={folder}", f"hydra.run.dir={folder}/run", *SMALL,
            "common.bf16=false", "common.log_format=json", f"common.log_interval={STEP}", "dataset.num_workers=2",
            "dataset.max_tokens=160000", f"optimization.max_update={num_updates}", "dataset.validate_interval=5",
            "checkpoint.save_interval_updates=500", "checkpoint.keep_interval_updates=2", "checkpoint.save_interval=5",
        ],
        cwd=EXAMPLES.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    found: list[dict[str, float]] = []
    last_lines: deque[str] = deque(maxlen=30)
    with tqdm(total=num_updates, unit="update") as bar:
        for line in process.stdout or ():
            last_lines.append(line)
            if update := re.search(r'"num_updates": "(\d+)"', line):
                bar.update(int(update[1]) - bar.n)
                if "train_inner" in line:
                    found.append({"updates": int(update[1]), **sizes(process.pid)})
    if process.wait():
        sys.exit("".join(last_lines))
    return found


def sizes(pid: int) -> dict[str, float]:
    """Return the memory in MB of a process, of its workers, and what they share, and their open files."""
    workers = [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in read(task / "children").split()]
    return {
        "trainer: own memory, MB": memory(pid, "Pss_Anon"),
        "a worker: own memory, MB": sum(memory(worker, "Pss_Anon") for worker in workers) / max(len(workers), 1),
        "shared memory, MB": sum(memory(each, "Pss_Shmem") for each in (pid, *workers)),
        "trainer: open files": num_files(pid),
        "a worker: open files": sum(num_files(worker) for worker in workers) / max(len(workers), 1),
    }


def read(path: Path) -> str:
    """Return what a file of /proc holds; nothing where its process has ended."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def memory(pid: int, kind: str) -> float:
    """Return memory of a process in MB, its fraction of what it shares with others."""
    size = re.search(rf"^{kind}:\s+(\d+) kB", read(Path(f"/proc/{pid}/smaps_rollup")), re.MULTILINE)
    return int(size[1]) / 1024 if size else 0.0


def num_files(pid: int) -> int:
    """Count the open files of a process."""
    try:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except (FileNotFoundError, ProcessLookupError):
        return 0


if __name__ == "__main__":
    sys.exit(main())
