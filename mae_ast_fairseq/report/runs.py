"""A run as its log and its config tell it: figures over updates, how it ended, and what is wrong with it."""

import math
import os
import re
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mae_ast_fairseq.errors import ConfigError, listed, printable
from mae_ast_fairseq.evaluation.collapse import diagnose
from mae_ast_fairseq.figures import FILE_NAME, read_figures
from mae_ast_fairseq.files import open_regular

CONFIG, HYDRA, LOCK = "config.yaml", ".hydra", "checkpoints/.lock"
ABOUT = {"kind", "subset", "num_updates", "epoch", "wall"}
OF_SPEED = {"wps", "ups", "wpb", "bsz", "train_wall", "clip", "gb_free"}
ENDS_EARLY = ("checkpoint.patience", "optimization.stop_time_hours", "optimization.stop_min_lr")
"""fields by which a run may end before its last update, where they are above 0"""
MAX_LISTED = 6
"""names that a message lists of what a folder holds"""

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Run:
    """A run, of which at least one line was logged."""

    folder: Path
    lines: list[dict[str, Any]]
    config: dict[str, Any]
    """its fields by full name, such as `model.encoder_layers`; empty where there is no config.yaml"""
    recipe: str
    is_cut: bool
    """whether the log's last line is half written, as a kill leaves it"""
    running: str
    """what is known of a process that holds the run's folder; empty where there is none"""

    @property
    def num_updates(self) -> int:
        """Return the updates that the log knows of."""
        return max(line["num_updates"] for line in self.lines)

    @property
    def state(self) -> str:
        """Return in a word or two how the run ended, if it has."""
        max_update, max_epoch = (self.setting(f"optimization.max_{name}") for name in ("update", "epoch"))
        last_epoch = max((line.get("epoch", 0) for line in self.some("train")), default=0)
        if (max_update and self.num_updates >= max_update) or (max_epoch and last_epoch >= max_epoch):
            return "finished"
        if self.running:
            return self.running
        if self.is_cut or not any(self.setting(name) > 0 for name in ENDS_EARLY):
            return "cut off" if self.is_cut or self.config else "of unknown length"
        return "ended early"

    def setting(self, name: str) -> float:
        """Return a number of the config; 0 where it has none of that name."""
        value = self.config.get(name)
        return value if isinstance(value, int | float) and -1e15 < value < 1e15 else 0

    def some(self, kind: str, subset: Optional[str] = None) -> list[dict[str, Any]]:
        """Return the lines of a kind, and of a validation on a subset."""
        return [line for line in self.lines if line["kind"] == kind and subset in (None, line["subset"])]

    @property
    def subsets(self) -> list[str]:
        """Return what the run was validated on, as in `valid`."""
        return list(dict.fromkeys(line["subset"] for line in self.some("valid")))

    @property
    def training(self) -> str:
        """Return the kind of the lines that training logged: epochs where it logged nothing in between."""
        return "train_inner" if self.some("train_inner") else "train"

    def points(self, kind: str, name: str, subset: Optional[str] = None) -> Points:
        """Return (update, figure) of the lines that have the figure, which may be NaN."""
        return [(line["num_updates"], line[name]) for line in self.some(kind, subset) if name in line]

    def last(self, kind: str, subset: Optional[str] = None) -> dict[str, float]:
        """Return what the last line measured, but for the speed; nothing where there is no line."""
        line = (self.some(kind, subset) or [{}])[-1]
        return {name: value for name, value in line.items() if name not in ABOUT | OF_SPEED}

    def warnings(self) -> list[str]:
        """Return in words what is wrong with the run."""
        found = [collapse] if (collapse := self._collapse()) else []
        losses = [*self.points(self.training, "loss"), *self.points("valid", "loss")]
        if lost := [update for update, value in losses if not math.isfinite(value)]:
            found.append(f"the loss is not finite at update {min(lost):,}")
        if bad_files := sum(value for _, value in self.points("train", "bad_files") if math.isfinite(value)):
            found.append(f"broken files were replaced by others {bad_files:,.0f} times; train.log names them")
        if self.is_cut:
            found.append(f"the last line of {FILE_NAME} is half written: the run was killed, or its disk was full")
        return found

    def _collapse(self) -> Optional[str]:
        """Return what is wrong with the encoder at the last validation; None where nothing is, or in the warm-up."""
        for subset in self.subsets:
            figures = self.last("valid", subset)
            updates = self.some("valid", subset)[-1]["num_updates"]
            is_measured = {"token_spread", "effective_rank"} <= set(figures)
            if not is_measured or updates < self.setting("lr_scheduler.warmup_updates"):
                continue
            gain = figures.get("content_gain", math.nan)  # NaN: no batch held two clips
            if self.config.get("criterion.reconstruction_weight") == 0:
                gain = math.nan  # earlier versions measured it of a head that nothing trains
            max_rank = int(self.setting("model.encoder_embed_dim"))
            health = figures["token_spread"], figures["effective_rank"], None if math.isnan(gain) else gain
            if fault := diagnose(*health, max_rank):
                return fault
        return None


def names_of(runs: Sequence[Run]) -> list[str]:
    """Return what to call runs: the end of each path, as much of it as tells it from the others."""
    paths = [Path(os.path.abspath(run.folder)).parts for run in runs]  # noqa: PTH100 links keep their names
    names = []
    for own in paths:
        ends = (own[-length:] for length in range(1, len(own) + 1))
        end = next(end for end in ends if sum(other[-len(end) :] == end for other in paths) == 1)
        names.append(printable("/".join(end)))
    return names


def find_runs(given: Path) -> list[Path]:
    """Return the folder where it is a run's, else those of the runs below it; raises ConfigError where none is.

    Among them are those that have no log, as where a run failed at its launch.
    """
    if not given.is_dir():
        found = "this is a file" if given.exists() else "there is no such folder"
        raise ConfigError(f"{given}: {found}; expected the folder of a run, or one with runs below{_hint(given)}")
    with_log, others = [], []
    for place, folders, files in os.walk(given):
        if FILE_NAME in files:
            with_log.append(Path(place))
            folders.clear()
        elif HYDRA in folders:
            others.append(Path(place))
    if not with_log and not others:
        raise ConfigError(_without_log(given))
    without = [each for each in others if not any(each in path.parents for path in with_log)]
    return sorted([*with_log, *without], key=natural)


def natural(path: Path | str) -> list[str | int]:
    """Sort 2 before 10, as hydra numbers the runs of a sweep."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(path))]


def _hint(given: Path) -> str:
    near = next((folder for folder in given.absolute().parents if (folder / FILE_NAME).is_file()), None)
    return "" if near is None else f"; give {near}"


def _without_log(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    remark = ""
    if HYDRA in names:
        remark = "; this run ended before its first figures, or is of a version that wrote none: see its *.log"
    return (
        f"{folder}: no {FILE_NAME} in it or below, but {listed(names, MAX_LISTED) or 'nothing'}; expected the folder "
        f"of a run, its hydra.run.dir, where mae-ast train writes {FILE_NAME}{_hint(folder)}{remark}"
    )


def read_run(folder: Path) -> Run:
    """Read a run; raises ConfigError where its log or its config cannot be used."""
    log = folder / FILE_NAME
    if not log.is_file():
        raise ConfigError(_without_log(folder))
    try:
        lines = [_clean(line) for line in read_figures(log) if 0 <= line["num_updates"] < 2**53]
        is_cut = not log.read_bytes().endswith(b"\n")
    except OSError as error:
        raise ConfigError(f"{log}: cannot be read ({error.strerror}); expected the figures of a run") from None
    if not lines:
        raise ConfigError(
            f"{log}: no figures in its {log.stat().st_size:,} bytes; expected lines of JSON with kind and num_updates, "
            "the first of which comes after common.log_interval updates"
        )
    config, hydra = (_read_yaml(folder / name) for name in (CONFIG, f"{HYDRA}/hydra.yaml"))
    of_hydra = (hydra.get(f"hydra.{name}") for name in ("runtime.choices.recipes", "job.config_name"))  # swept first
    recipe = next(filter(None, (*of_hydra, config.get("model._name"))), "unknown")
    return Run(folder, lines, config, printable(str(recipe)), is_cut, _running(folder / LOCK))


def _clean(line: Mapping[str, Any]) -> dict[str, Any]:
    """Return a line with what can be shown and drawn: texts, and numbers of a size that floats have."""
    figures = {
        printable(name): value if -1e300 < value < 1e300 else math.nan
        for name, value in line.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return {**figures, "kind": str(line.get("kind")), "subset": printable(str(line.get("subset")))}


def _running(lock: Path) -> str:
    """Return whether the process that holds the run's folder lives; of another machine's that cannot be known."""
    with suppress(OSError, ValueError):
        owner = re.fullmatch(r"process (\d+) on (.+)\n", lock.read_text())
        if owner and owner[2] != socket.gethostname():
            return printable(f"running on {owner[2]}, or killed")
        return "running" if owner and Path("/proc", owner[1]).exists() else ""
    return ""


def _read_yaml(path: Path) -> dict[str, Any]:
    """Return the fields of a YAML by full name; none where there is no file. Raises ConfigError for what is no YAML."""
    try:
        with open_regular(path) as stream:
            return flat(OmegaConf.to_container(OmegaConf.load(stream)))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, YAMLError, OmegaConfBaseException, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: cannot be read ({reason}); expected the YAML that a run writes") from None


def flat(sections: Any) -> dict[str, Any]:
    """Return the values of mappings in each other by the names that lead to them, joined by dots."""
    found: dict[str, Any] = {}
    for name, value in sections.items():
        inner = flat(value) if isinstance(value, Mapping) else {"": value}
        found |= {f"{name}.{end}" if end else str(name): each for end, each in inner.items()}
    return found
