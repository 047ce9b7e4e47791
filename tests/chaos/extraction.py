"""`mae-ast extract`, interrupted and started again, beside the same command uninterrupted."""

import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Optional

from mae_ast_fairseq.cli import EXIT_INTERRUPTED
from tests.chaos.command import Command, renamed_away

Blow = Callable[["Trial", random.Random], Optional[list[str]]]
Files = dict[Path, bytes]


class Extraction(NamedTuple):
    """An extraction into one array of all clips (`hubert`) or one file a clip (`npy`)."""

    layout: str
    precision: str = "float32"

    def start(self, home: Path, out: Path, log: Path) -> Command:
        # One clip a batch: what a clip is batched with shows in the last bits of its features.
        argv = [
            "mae-ast", "extract", str(home / "encoder.pt"), "--manifest", str(home / "clips" / "train.tsv"), "--out",
            str(out), "--format", self.layout, "--precision", self.precision, "--max-seconds-per-batch", "0.01",
            "--workers", "1",
        ]  # fmt: skip
        return Command(argv, log)


class Trial:
    """One extraction and what it should write."""

    def __init__(self, home: Path, extraction: Extraction, folder: Path) -> None:
        self.home, self.extraction, self.folder = home, extraction, folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.out = folder / "expected"
        begin = time.monotonic()
        command = self.start()
        command.wait_until(self.has_begun)
        self.begin_seconds = time.monotonic() - begin
        if command.wait():
            raise RuntimeError(f"{command.log}: exit code {command.code}: {command.text()[-3000:]}")
        self.seconds = time.monotonic() - begin
        self.expected = contents(self.out)
        self.out = folder / "out"

    def start(self) -> Command:
        (self.folder / "log").unlink(missing_ok=True)
        self.command = self.extraction.start(self.home, self.out, self.folder / "log")
        return self.command

    def has_begun(self) -> bool:
        return any(self.out.rglob("*.npy")) or any(self.out.rglob("*.npy.*.tmp"))

    def let_extract(self, command: Command, draws: random.Random) -> None:
        """Return a random moment while it extracts."""
        command.wait_until(self.has_begun)
        time.sleep(draws.uniform(0, self.seconds - self.begin_seconds))

    def faults(self) -> list[str]:
        """Say which files are there and not as they should be."""
        return [
            f"{path}: other bytes" for path, content in contents(self.out).items() if self.expected.get(path) != content
        ]

    def finish(self) -> list[str]:
        """Start it a last time, and compare all files."""
        command = self.start()
        if command.wait():
            return [f"{command.log}: exit code {command.code}: {command.text()[-300:]}"]
        missing = [f"{path}: missing" for path in self.expected.keys() - contents(self.out)]
        left = [f"{path}: left behind" for path in self.out.rglob(".*.tmp")]
        found = self.faults() + missing + left
        shutil.rmtree(self.out)
        return found


def contents(out: Path) -> Files:
    """Return all features and lengths."""
    paths = [*out.rglob("*.npy"), *out.rglob("*.len")]
    return {path.relative_to(out): path.read_bytes() for path in paths if not path.name.startswith(".")}


def kill(trial: Trial, draws: random.Random) -> Optional[list[str]]:
    """Kill it anywhere."""
    command = trial.start()
    trial.let_extract(command, draws)
    return [] if command.kill() else None


def interrupt(trial: Trial, draws: random.Random) -> Optional[list[str]]:
    """End it by a signal."""
    command, number = trial.start(), draws.choice([signal.SIGTERM, signal.SIGINT])
    trial.let_extract(command, draws)
    command.send(number)
    if command.wait() == 0:
        return None
    expected = {signal.SIGTERM: -signal.SIGTERM, signal.SIGINT: EXIT_INTERRUPTED}[number]
    is_good = command.code == expected and "Traceback" not in command.text()
    return [] if is_good else [f"{command.log}: exit code {command.code} after {number.name}, or a traceback"]


def fill_disk(trial: Trial, draws: random.Random) -> Optional[list[str]]:
    """Let it find no room on its disk."""
    command = trial.start()
    largest = max(map(len, trial.expected.values()))
    command.limit_files(int(draws.uniform(0.1, 0.9) * largest))
    if command.wait() == 0:
        return None
    lines = [line for line in command.text().splitlines() if "cannot be written" in line]
    is_good = command.code == 2 and len(lines) == 1 and "Traceback" not in command.text()
    return [] if is_good else [f"{command.log}: exit code {command.code}, {len(lines)} lines, or a traceback"]


def hide_audio(trial: Trial, draws: random.Random) -> Optional[list[str]]:
    """Rename a clip while it extracts; and then back."""
    command = trial.start()
    trial.let_extract(command, draws)
    clips = sorted((trial.home / "clips" / "audio").glob("train2??.wav"))  # the last ones, not yet decoded
    hidden = draws.choice(clips)
    with renamed_away(hidden):
        code = command.wait()
    if code == 0:
        return None
    is_good = code == 1 and hidden.name in command.text() and "Traceback" not in command.text()
    return [] if is_good else [f"{command.log}: exit code {code}, no word of {hidden.name}, or a traceback"]


def strike(blow: Blow, trial: Trial, draws: Iterator[random.Random]) -> Iterator[list[str]]:
    """Strike an extraction, one blow a case, and start it again: what is whole stays, and at the end all is."""
    faults: list[str] = []
    try:
        for case, case_draws in enumerate(draws):
            while (found := blow(trial, case_draws)) is None:
                shutil.rmtree(trial.out)  # it had ended before the blow
            if case:
                yield faults
            faults = found + trial.faults()
        yield faults + trial.finish()
    finally:
        trial.command.end()
