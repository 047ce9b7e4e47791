"""The runs that are interrupted: what they are, and how they compare with the same ones uninterrupted."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mae_ast_fairseq.tasks.run_folder import LAST_CHECKPOINT
from tests.chaos.command import Command, Stall
from tests.checkpoints.test_read import save_tiny_checkpoint
from tests.finetuning import QUICK as TINY_FINETUNING
from tests.finetuning import RECIPE as FINETUNING
from tests.finetuning import pretrained, write_tones
from tests.processes import distributed, free_port
from tests.tiny import FRAME
from tests.training import EXAMPLES, SMALL

LARGE_FFN = {"pretraining": 30_000, "finetuning": 46_000}
"""Feed-forward widths that make a checkpoint larger than LARGE_BYTES."""
LARGE_BYTES = 100_000_000
SAVE_INTERVAL = 3
"""Updates between two checkpoints, where they are small."""


class Training(NamedTuple):
    """A training run: `kind` is pretraining or finetuning, `precision` float32 or bfloat16."""

    kind: str
    precision: str = "float32"
    is_large: bool = False
    num_processes: int = 1
    overrides: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        size = "-large" if self.is_large else ""
        return f"{self.kind}-{self.precision}{size}-{self.num_processes}"

    @property
    def num_updates(self) -> int:
        return 14 if self.is_large else 30

    @property
    def save_interval(self) -> int:
        return 1 if self.is_large else SAVE_INTERVAL

    def arguments(self, home: Path, folder: Path) -> list[str]:
        pretraining = self.kind == "pretraining"
        model = SMALL if pretraining else (*TINY_FINETUNING, f"model.pretrained={checkpoint(home, self.is_large)}")
        batches = ("dataset.max_tokens=32000",) if pretraining else ("dataset.batch_size=6",)
        large = (f"model.encoder_ffn_embed_dim={LARGE_FFN[self.kind]}",) if self.is_large else ()
        workers = int(self.num_processes == 1)
        return [
            "fairseq-hydra-train", "--config-dir", str(EXAMPLES),
            "--config-name", "mae_ast_tiny" if pretraining else FINETUNING,
            f"task.data={home / 'data'}", f"hydra.run.dir={folder / 'hydra'}",
            f"checkpoint.save_dir={saved_in(folder)}", f"checkpoint.save_interval_updates={self.save_interval}",
            "checkpoint.keep_interval_updates=1", "common.tensorboard_logdir=null", "common.log_interval=1",
            f"common.bf16={str(self.precision == 'bfloat16').lower()}", f"dataset.num_workers={workers}",
            "model.dropout=0.1", "model.encoder_layerdrop=0.2",
            f"optimization.max_update={self.num_updates}", "lr_scheduler.warmup_updates=5",
            *model, *batches, *large, *self.overrides,
        ]  # fmt: skip

    def start(self, home: Path, folder: Path, attempt: int, stall: Stall | None = None) -> list[Command]:
        folder.mkdir(parents=True, exist_ok=True)
        arguments = self.arguments(home, folder)
        port = free_port()
        return [
            Command(
                [*arguments, *(distributed(rank, port) if self.num_processes > 1 else ())],
                *(folder / f"{attempt}.{rank}.log", folder / f"{attempt}.{rank}.losses", stall),
            )
            for rank in range(self.num_processes)
        ]


def saved_in(folder: Path) -> Path:
    """Return where a run in a folder keeps its checkpoints."""
    return folder / "checkpoints"


def partial_files(folder: Path, pid: int | str = "*") -> list[Path]:
    """Return the files that a process is writing, or was when it was killed."""
    return list(saved_in(folder).glob(f".*.{pid}.tmp"))


def checkpoint(home: Path, is_large: bool) -> Path:
    """Return a pretrained model to fine-tune."""
    path = home / f"pretrained{'-large' * is_large}.pt"
    large = {"encoder_ffn_embed_dim": LARGE_FFN["finetuning"]} if is_large else {}
    return path if path.is_file() else pretrained(path, **large)


def prepare(home: Path) -> None:
    """Write the corpus and the models that runs start from."""
    write_clips(home / "data")
    write_clips(home / "clips", num_clips=250)
    if not (home / "encoder.pt").is_file():
        save_tiny_checkpoint(home / "encoder.pt", **FRAME)


def write_clips(folder: Path, num_clips: int = 36) -> Path:
    """Write a corpus, unless it is there, and return its folder."""
    return folder if (folder / "labels.txt").is_file() else write_tones(folder, num_train=num_clips, num_valid=4)


class Reference:
    """A training run that nothing interrupts."""

    def __init__(self, home: Path, training: Training) -> None:
        folder = home / "reference" / training.name
        training = training._replace(overrides=())
        if not (folder / "done").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            commands = training.start(home, folder, 0)
            codes = [command.wait(600) for command in commands]
            if any(codes):
                raise RuntimeError(f"{training.name}: exit codes {codes} uninterrupted:\n{commands[0].text()[-3000:]}")
            (folder / "done").touch()
        self.losses = [_read_losses(folder / f"0.{rank}.losses") for rank in range(training.num_processes)]
        self.last = saved_in(folder) / LAST_CHECKPOINT
        self.num_bytes = self.last.stat().st_size
        self.save_seconds = _save_seconds("\n".join(log.read_text() for log in folder.rglob("*.log")))
        if training.is_large and self.num_bytes < LARGE_BYTES:
            raise RuntimeError(f"{self.last}: {self.num_bytes:,} bytes; expected {LARGE_BYTES:,}")


class Trajectory:
    """A training run that is interrupted and started again, beside the same run uninterrupted."""

    def __init__(self, home: Path, training: Training, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self.home, self.training, self.folder = home, training, folder
        self.reference = Reference(home, training)
        self.commands: list[Command] = []
        self.num_saved = 0
        """updates that the next start must not do again"""
        self.left_saved: int | None = None
        """where a blow knows it: the updates that are saved after it"""
        self._attempt = 0

    @property
    def last(self) -> Path:
        return saved_in(self.folder) / LAST_CHECKPOINT

    @property
    def is_finished(self) -> bool:
        return all(command.code == 0 for command in self.commands)

    def start(self, stall: Stall | None = None) -> list[Command]:
        self.commands = self.training.start(self.home, self.folder, self._attempt, stall)
        self._attempt += 1
        return self.commands

    def end(self) -> None:
        for command in self.commands:
            command.end()

    def faults(self) -> list[str]:
        """Say what of the last start was not as in the uninterrupted run."""
        found = []
        for command, expected in zip(self.commands, self.reference.losses, strict=True):
            losses = command.updates()
            if losses and losses[0][0] < self.num_saved:
                found.append(f"{command.log}: began with update {losses[0][0]}; {self.num_saved} were saved")
            wrong = [number for number, loss in losses if expected.get(number) != loss]
            if wrong:
                found.append(f"{command.log}: another loss in update {wrong[0]}, and in {len(wrong)} of {len(losses)}")
        # The first process begins an update when it has saved the former one.
        begun, interval = [number for number, _ in self.commands[0].updates()], self.training.save_interval
        self.num_saved = max([self.num_saved, *(number // interval * interval for number in begun)])
        if self.left_saved is not None:
            self.num_saved, self.left_saved = self.left_saved, None
        return found

    def finish(self) -> list[str]:
        """Start it a last time, and compare its end."""
        codes = [command.wait() for command in self.start()]
        found = self.faults()
        if any(codes):
            return [*found, f"{self.commands[0].log}: exit codes {codes}: {self.commands[0].text()[-300:]}"]
        return [*found, *self.faults_at_end()]

    def faults_at_end(self) -> list[str]:
        """Say what of its last checkpoint is not as in the uninterrupted run, and what should not lie beside it."""
        found = [f"{path}: left behind" for path in partial_files(self.folder)]
        different = list(_differences(_state(self.last), _state(self.reference.last), ""))
        return found + ([f"{self.last}: other values: {', '.join(different[:3])}"] if different else [])


def num_updates_in(path: Path) -> int:
    """Return after which update a checkpoint was written."""
    return int(torch.load(path, weights_only=True)["optimizer_history"][-1]["num_updates"])


def _read_losses(path: Path) -> dict[int, str]:
    return {int(number): loss for number, loss in map(str.split, path.read_text().splitlines())}


def _save_seconds(log: str) -> float:
    times = [
        float(line.rpartition("writing took ")[2].split()[0]) for line in log.splitlines() if "writing took" in line
    ]
    return max(times)


def _state(path: Path) -> dict[str, Any]:
    """Return what the further course of a run depends on."""
    content = torch.load(path, weights_only=True)
    iterator = content["extra_state"]["train_iterator"]
    return {"model": content["model"], "optimizer": content["last_optimizer_state"], "iterator": iterator}


def _differences(one: Any, other: Any, name: str) -> Iterator[str]:
    """Name the values of two nested ones that differ, to the bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.dtype != other.dtype or not torch.equal(one, other):
            yield name
    elif isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for key in one:
            yield from _differences(one[key], other[key], f"{name}.{key}")
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        for index, pair in enumerate(zip(one, other, strict=True)):
            yield from _differences(*pair, f"{name}[{index}]")
    elif one != other:
        yield f"{name}: {json.dumps(one, default=str)} instead of {json.dumps(other, default=str)}"
