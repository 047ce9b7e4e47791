"""One cell of the experiments, in a process of its own: `one_cell.py CELL PLACE`, in JSON, prints its result."""

import json
import platform
import sys
import time
from pathlib import Path
from typing import NamedTuple

import downstream
import sets
from cells import Cell, Result, recipe_of

from mae_ast_fairseq.errors import UserError
from mae_ast_fairseq.figures import FILE_NAME, read_figures

CURVES = ("loss_recon", "loss_info_nce", "info_nce_accuracy", "token_spread", "effective_rank", "content_gain")
TRIES, PAUSE = 7, 10.0  # seconds, where the training that was stopped is still saving


class Place(NamedTuple):
    """Where everything lies that a cell needs, as JSON has it."""

    out: str
    data: str | None
    fsdd: str | None
    samples: str | None
    corpora: dict[str, str]

    def folder_of(self, cell: Cell) -> Path:
        """Return the folder of a cell's run."""
        return Path(self.out) / "cells" / cell.name


def main() -> int:
    """Run the cell that the arguments name."""
    cell, place = Cell(*json.loads(sys.argv[1])), Place(*json.loads(sys.argv[2]))
    try:
        result = run_cell(place, cell)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(result))
    return 0


def run_cell(place: Place, cell: Cell) -> Result:
    """Train a cell, or go on with it, and measure what it is worth."""
    folder = place.folder_of(cell)
    train(place, cell, folder)
    checkpoint = folder / "checkpoints" / "checkpoint_last.pt"
    figures = read_figures(folder / FILE_NAME)
    curve = [
        {name: round(one[name], 4) for name in CURVES if name in one} | {"num_updates": one["num_updates"]}
        for one in figures if one["kind"] == "valid"
    ]  # fmt: skip
    seconds = round(figures[-1]["wall"])
    worth = {"probes": downstream.probe(checkpoint, probe_sets(place), cell.seed)}
    tune = fine_tune_digits if cell.scale == "cpu" else fine_tune_corpora
    worth["fine_tuned"] = tune(place, cell, checkpoint)
    return {**cell._asdict(), **worth, "curve": curve, "train_seconds": seconds, "processor": processor()}


def train(place: Place, cell: Cell, folder: Path) -> None:
    """Train to the end."""
    arguments = [*cell.overrides, f"task.data={place.data}", f"hydra.run.dir={folder}"]
    if cell.scale == "cpu":
        arguments += ["common.bf16=false", "task.persistent_workers=false"]
    for number in range(TRIES):
        try:
            downstream.run_command("train", recipe_of("masking", cell.scale), *arguments, log=folder / "train_said.log")
            return
        except UserError as error:
            if "in use by" not in str(error) or number == TRIES - 1:
                raise
            time.sleep(PAUSE)


def probe_sets(place: Place) -> dict[str, sets.ProbeSet]:
    """Return the sets for which there is audio; each is made once."""
    return sets.probe_sets(Path(place.out), place.fsdd and Path(place.fsdd), place.samples and Path(place.samples))


def digits_to_learn(place: Place) -> sets.ProbeSet:
    """Return all takes of FSDD; they are made once."""
    fsdd = Path(place.fsdd or "")
    return sets.read_set(Path(place.out) / "sets" / "digits_to_learn", lambda: sets.digits(fsdd, range(50)))


def fine_tune_digits(place: Place, cell: Cell, checkpoint: Path) -> dict[str, float]:
    """Return what fine-tuning a tiny model on digits gives, where there are any."""
    if not place.fsdd:
        return {}
    folder = checkpoint.parents[1] / "digits"
    accuracy = downstream.fine_tune_digits(checkpoint, digits_to_learn(place), folder, cell.seed)
    return {"digits": round(accuracy, 4)}


def fine_tune_corpora(place: Place, cell: Cell, checkpoint: Path) -> dict[str, float]:
    """Return what fine-tuning on each of the published corpora gives that there are."""
    folder = checkpoint.parents[1] / "fine_tuned"
    return {
        name: round(downstream.fine_tune_corpus(checkpoint, name, Path(data), folder), 4)
        for name, data in place.corpora.items()
    }


def processor() -> str:
    """Return what the processor calls itself."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    sys.exit(main())
