"""The rows of the table: what befalls which run, how often."""

import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from signal import SIGINT, SIGTERM, SIGUSR1
from typing import NamedTuple

from tests.chaos import blows, extraction
from tests.chaos.extraction import Extraction, Trial
from tests.chaos.runs import Training, Trajectory, write_clips

MAX_MISSES = 100

Cases = Callable[[Path, str, Iterator[random.Random]], Iterator[list[str]]]


class Row(NamedTuple):
    """Cases of one kind."""

    name: str
    cases: Cases
    """yields of each case its faults, given the folder of everything, the row's name and random draws of each case"""
    num_cases: int
    num_quick: int = 0
    """of them in the version of a minute"""


def strike(
    blow: blows.Blow, training: Training, home: Path, name: str, draws: Iterator[random.Random]
) -> Iterator[list[str]]:
    """Strike a training run, one blow a case, and start it again: how it went on shows whether it survived."""
    folder = home / "runs" / name
    trajectory = Trajectory(home, training, folder)
    faults: list[str] = []
    try:
        for case, case_draws in enumerate(draws):
            for _ in range(MAX_MISSES):
                found = _struck(blow, trajectory, case_draws)
                faults += trajectory.faults()
                if found is not None:
                    break
                faults += _ended(trajectory)
                if trajectory.is_finished or faults:
                    trajectory.end()
                    trajectory = Trajectory(home, training, folder)
            else:
                raise RuntimeError(f"{name}: {MAX_MISSES} blows in turn have missed")
            if case:
                yield faults
                faults = []
            faults += found
        yield faults + trajectory.finish()
    finally:
        trajectory.end()


def _struck(blow: blows.Blow, trajectory: Trajectory, draws: random.Random) -> list[str] | None:
    try:
        return blow(trajectory, draws)
    except TimeoutError as error:
        trajectory.end()
        return [str(error)]


def _ended(trajectory: Trajectory) -> list[str]:
    """Say what is wrong with a run that ended before the blow, or was killed elsewhere than it was meant to."""
    if trajectory.is_finished:
        return trajectory.faults_at_end()
    return [
        f"{command.log}: exit code {command.code}: {command.text()[-300:]}"
        for command in trajectory.commands
        if command.code is not None and command.code > 0 and blows.LOST not in command.text()
    ]


def extract(
    blow: extraction.Blow, what: Extraction, home: Path, name: str, draws: Iterator[random.Random]
) -> Iterator[list[str]]:
    """Strike an extraction likewise."""
    yield from extraction.strike(blow, Trial(home, what, home / "runs" / name), draws)


def hide(training: Training, home: Path, name: str, draws: Iterator[random.Random]) -> Iterator[list[str]]:
    """Let audio vanish under a run, from a corpus of its own."""
    data = write_clips(home / "runs" / "data")
    own = training._replace(overrides=(f"task.data={data}", "task.max_bad_fraction=0"))
    yield from strike(blows.hide_audio, own, home, name, draws)


def _trained(name: str, blow: blows.Blow, training: Training, num_cases: int, num_quick: int = 0) -> Row:
    return Row(name, partial(strike, blow, training), num_cases, num_quick)


def _extracted(name: str, blow: extraction.Blow, what: Extraction, num_cases: int, num_quick: int = 0) -> Row:
    return Row(name, partial(extract, blow, what), num_cases, num_quick)


PRETRAINING, FINETUNING = Training("pretraining"), Training("finetuning")
PRETRAINING_BF16, FINETUNING_BF16 = Training("pretraining", "bfloat16"), Training("finetuning", "bfloat16")
LARGE, TWO = {"is_large": True}, {"num_processes": 2}

ROWS = [
    _trained("kill-pretraining-float32", blows.kill, PRETRAINING, 15),
    _trained("kill-pretraining-bfloat16", blows.kill, PRETRAINING_BF16, 12, 2),
    _trained("kill-finetuning-float32", blows.kill, FINETUNING, 10, 2),
    _trained("kill-finetuning-bfloat16", blows.kill, FINETUNING_BF16, 10),
    _trained("kill-saving-small-pretraining-float32", blows.kill_while_saving, PRETRAINING, 6, 2),
    _trained("kill-saving-pretraining-float32", blows.kill_while_saving, PRETRAINING._replace(**LARGE), 14),
    _trained("kill-saving-pretraining-bfloat16", blows.kill_while_saving, PRETRAINING_BF16._replace(**LARGE), 10),
    _trained("kill-saving-finetuning-float32", blows.kill_while_saving, FINETUNING._replace(**LARGE), 8),
    _trained("kill-saving-finetuning-bfloat16", blows.kill_while_saving, FINETUNING_BF16._replace(**LARGE), 8),
    _extracted("kill-extraction-hubert-float32", extraction.kill, Extraction("hubert"), 8),
    _extracted("kill-extraction-npy-float32", extraction.kill, Extraction("npy"), 8),
    _extracted("kill-extraction-npy-bfloat16", extraction.kill, Extraction("npy", "bfloat16"), 8, 2),
    _trained("two-kill-one-pretraining-float32", blows.kill_one, PRETRAINING._replace(**TWO), 8, 1),
    _trained("two-kill-one-pretraining-bfloat16", blows.kill_one, PRETRAINING_BF16._replace(**TWO), 5),
    _trained("two-kill-one-finetuning-float32", blows.kill_one, FINETUNING._replace(**TWO), 5),
    _trained("two-kill-saving-pretraining-float32", blows.kill_while_saving, PRETRAINING._replace(**LARGE, **TWO), 5),
    _trained("sigterm-pretraining-float32", blows.send(SIGTERM), PRETRAINING, 5, 1),
    _trained("sigusr1-pretraining-bfloat16", blows.send(SIGUSR1), PRETRAINING_BF16, 5),
    _trained("sigint-finetuning-float32", blows.send(SIGINT), FINETUNING, 5),
    _trained("sigterm-finetuning-bfloat16", blows.send(SIGTERM), FINETUNING_BF16, 5),
    _trained("two-sigusr1-one-pretraining-float32", blows.send(SIGUSR1), PRETRAINING._replace(**TWO), 4),
    _trained("second-signal-pretraining-float32", blows.send_twice, PRETRAINING, 5, 1),
    _extracted("signal-extraction-npy-float32", extraction.interrupt, Extraction("npy"), 6),
    _trained("full-disk-moment-pretraining-float32", blows.fill_disk_for_a_moment, PRETRAINING, 6, 1),
    _trained("full-disk-moment-finetuning-bfloat16", blows.fill_disk_for_a_moment, FINETUNING_BF16, 4),
    _trained("full-disk-pretraining-bfloat16", blows.fill_disk, PRETRAINING_BF16, 4),
    _trained("full-disk-pretraining-float32-large", blows.fill_disk, PRETRAINING._replace(**LARGE), 4),
    _trained("full-disk-finetuning-float32", blows.fill_disk, FINETUNING, 4),
    _extracted("full-disk-extraction-hubert-float32", extraction.fill_disk, Extraction("hubert"), 4, 1),
    _extracted("full-disk-extraction-npy-float32", extraction.fill_disk, Extraction("npy"), 4),
    _trained("spoilt-last-pretraining-float32", blows.spoil_last, PRETRAINING, 12, 2),
    _trained("spoilt-last-finetuning-bfloat16", blows.spoil_last, FINETUNING_BF16, 8),
    Row("vanishing-audio-pretraining-float32", partial(hide, PRETRAINING), 6, 1),
    Row("vanishing-audio-finetuning-float32", partial(hide, FINETUNING), 4),
    _extracted("vanishing-audio-extraction-npy-float32", extraction.hide_audio, Extraction("npy"), 6),
]
