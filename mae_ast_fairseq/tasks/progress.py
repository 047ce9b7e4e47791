"""What a person sees of a run while it trains, and `log.jsonl`, which other programs read."""

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

from fairseq.logging import metrics
from fairseq.logging.meters import Meter
from fairseq.logging.progress_bar import BaseProgressBar, _tensorboard_writers
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from mae_ast_fairseq.errors import get_logger
from mae_ast_fairseq.figures import FILE_NAME, FigureLog
from mae_ast_fairseq.files import atomic_write
from mae_ast_fairseq.tasks.console import Bar
from mae_ast_fairseq.tasks.launch import is_first_process

logger = get_logger(__name__)

CONFIG_NAME = "config.yaml"
BAR_FORMAT = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"
REFRESH_SECONDS = 1.0
"""Between two looks at the figures beside a bar, each of which waits for the device."""

MIN_PAUSE, MAX_PAUSE, PAUSES_IN_RUN = 10.0, 600.0, 20
"""Seconds between two lines where there is no terminal: a twentieth of the run so far, within limits."""

_OF_SPEED = {"wps", "ups", "wpb", "bsz", "num_updates", "wall", "train_wall", "clip", "gb_free"}


class RunProgress:
    """Follows a run over its epochs: a bar on a terminal, else a line now and then.

    Args:
        cfg: of the run.
        trainer: fairseq's.
        clock: seconds.
    """

    def __init__(self, cfg: DictConfig, trainer: Any, clock: Callable[[], float] = time.monotonic):
        self.is_shown = cfg.common.log_format is None and is_first_process()
        self._may_have_bar = not cfg.common.no_progress_bar
        self.trainer = trainer
        self._log: Optional[FigureLog] = None
        self._max_update = cfg.optimization.max_update or 0
        self._log_interval = cfg.common.log_interval
        self._metric = cfg.checkpoint.best_checkpoint_metric
        self._clock = clock
        self._bar: Optional[Bar] = None
        self._epoch = 0
        self._total = self._num_before = 0
        self._latest: Mapping[str, Any] = {}
        self._saved: list[str] = []
        self._to_say: list[str] = []
        self._num_updates = trainer.get_num_updates()
        self._started = self._due = clock()
        self._begun: Optional[tuple[float, int]] = None
        folder = run_folder(cfg)
        self.name = folder and folder.name
        if folder is not None and is_first_process():
            self._keep_record(cfg, folder)

    def _keep_record(self, cfg: DictConfig, folder: Path) -> None:
        try:
            self._log = FigureLog(folder / FILE_NAME, self._num_updates)
            write_config(cfg, folder / CONFIG_NAME)
        except OSError as error:
            logger.warning("%s: %s, %s cannot be written (%s)", folder, CONFIG_NAME, FILE_NAME, error.strerror)
            return
        num_weights = sum(weight.numel() for weight in self.trainer.model.parameters() if weight.requires_grad)
        logger.info(
            "%s weights to train, %d updates are done; in %s: %s, %s and the full log",
            *(f"{num_weights:,}", self._num_updates, folder, CONFIG_NAME, FILE_NAME),
        )

    def begin_epoch(self, epoch: int, num_updates: int, num_done: int) -> None:
        """Begin an epoch of so many updates, or go on within it.

        Where the run has no `optimization.max_update`, the bar is one over an epoch.
        """
        self._epoch = epoch
        self._total = self._max_update or num_updates
        self._num_before = 0 if self._max_update else self.trainer.get_num_updates() - num_done
        if not (self.is_shown and self._may_have_bar and sys.stderr.isatty()):
            return
        if self._bar is None:
            self._bar = Bar(
                total=self._total,
                initial=self._position,
                unit=" updates",
                smoothing=0.1,
                dynamic_ncols=True,
                bar_format=BAR_FORMAT,
            )
        elif not self._max_update:
            self._bar.reset(self._total)
            self._bar.update(self._position)
        self._bar.set_description(f"epoch {epoch}")

    @property
    def _position(self) -> int:
        return self._num_updates - self._num_before

    def follow(self) -> None:
        """Take note that an update may have been done; show figures where it is time to."""
        num_updates = self.trainer.get_num_updates()
        if num_updates == self._num_updates:
            return
        self._num_updates = num_updates
        if self._bar is not None:
            self._bar.update(self._position - self._bar.n)
        now = self._clock()
        if self.is_shown and now >= self._due:
            self._show(now)
        if self._begun is None:  # the first update takes longer
            self._begun = now, num_updates

    def _show(self, now: float) -> None:
        meters = metrics.get_meters("train_inner")
        was_reset = self._num_updates % self._log_interval == 0  # fairseq has just logged them
        text = describe(self._latest if was_reset or meters is None else meters.get_smoothed_values())
        if self._bar is not None:
            self._due = now + REFRESH_SECONDS
            self._bar.set_postfix_str(text)
            return
        self._due = now + min(max(MIN_PAUSE, (now - self._started) / PAUSES_IN_RUN), MAX_PAUSE)
        place = f"update {self._num_updates}" + (f" of {self._max_update}" if self._max_update else "")
        logger.info("%s, epoch %d: %s%s", place, self._epoch, text, self._speed(now))

    def _speed(self, now: float) -> str:
        if self._begun is None or now <= self._begun[0]:
            return ""
        per_second = (self._num_updates - self._begun[1]) / (now - self._begun[0])
        left = (self._total - self._position) / per_second if per_second else math.inf
        of = "" if self._max_update else " of the epoch"
        return f", {per_second:.3g} updates/s, {tqdm.format_interval(left) if left < math.inf else '?'}{of} left"

    def validating(self, batch: int, num_batches: int) -> None:
        """Show how far a validation is."""
        self.follow()
        if self._bar is not None and self._clock() >= self._due:
            self._due = self._clock() + REFRESH_SECONDS
            self._bar.set_description(f"epoch {self._epoch}, validation {batch}/{num_batches}")

    def logged(self, kind: str, stats: Mapping[str, Any], **more: Any) -> None:
        """Write figures to the log."""
        if kind == "train_inner":
            self._latest = stats
        if self._log is None:
            return
        about = {
            **{"kind": kind, **more, "num_updates": self.trainer.get_num_updates(), "epoch": self._epoch},
            "wall": round(float(self.trainer.cumulative_training_time()), 2),  # fairseq's own is 0 once a run went on
        }
        figures = {name: as_number(stat) for name, stat in stats.items() if stat is not None and name not in about}
        self._log.write({**about, **figures})

    def validated(self, subset: str, stats: Mapping[str, Any]) -> None:
        """Write and show the figures of a validation."""
        self.logged("valid", stats, subset=subset)
        if self._bar is not None:
            self._bar.set_description(f"epoch {self._epoch}")
        figures = ", ".join(
            f"{name} {as_number(stat):.4g}"
            for name, stat in stats.items()
            if stat is not None and name not in _OF_SPEED
        )
        self._to_say.append(f"update {self.trainer.get_num_updates()}, {subset}: {figures}")

    def saved(self, path: Path) -> None:
        """Take note of a checkpoint that was written."""
        self._saved.append(path.name)

    def say(self) -> None:
        """Say what validations gave, a line each, and with it which checkpoints were written."""
        if self._saved:
            best = (
                f" (the best {self._metric} so far)"
                if any(name.startswith("checkpoint_best") for name in self._saved)
                else ""
            )
            saved = f"saved {', '.join(self._saved)}{best}"
            before = f"{self._to_say.pop()}; " if self._to_say else f"update {self.trainer.get_num_updates()}: "
            self._to_say.append(before + saved)
        if self.is_shown:
            for line in self._to_say:
                logger.info(line)
        self._saved.clear()
        self._to_say.clear()

    def close(self) -> None:
        """Leave the bar as it is, and follow no more."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        _current.clear()


_current: list[RunProgress] = []
"""The run that is in this process, if any."""


@contextmanager
def followed(cfg: DictConfig, trainer: Any) -> Iterator[RunProgress]:
    """Follow a run for an epoch of it."""
    if not _current or _current[0].trainer is not trainer:
        _current[:] = [RunProgress(cfg, trainer)]
    run = _current[0]
    try:
        yield run
        run.follow()
    except BaseException:
        run.close()
        raise


def current_run() -> Optional[RunProgress]:
    """Return the run that is followed in this process."""
    return _current[0] if _current else None


class FollowedBar(BaseProgressBar):
    """One of fairseq's progress bars, the updates and figures of which a run follows."""

    def __init__(self, bar: BaseProgressBar, run: RunProgress, iterable: Any, epoch: int, is_validation: bool):
        super().__init__(iterable, epoch)
        self.bar, self.run, self.is_validation = bar, run, is_validation
        if not is_validation:
            run.begin_epoch(epoch, len(iterable), self.n)

    def __iter__(self) -> Iterator[Any]:
        for number, batch in enumerate(self.bar):
            if self.is_validation:
                self.run.validating(number, len(self))
            yield batch
            self.run.follow()  # the batch's update is done

    def log(self, stats: Mapping[str, Any], tag: Optional[str] = None, step: Optional[int] = None) -> None:
        """Log figures of some updates."""
        self.run.logged(tag or "train_inner", stats)
        self.bar.log(stats, tag=tag, step=step)

    def print(self, stats: Mapping[str, Any], tag: Optional[str] = None, step: Optional[int] = None) -> None:
        """Log figures of an epoch or a validation."""
        if self.is_validation:
            self.run.validated(tag or "valid", stats)
        else:
            self.run.logged(tag or "train", stats)
        self.bar.print(stats, tag=tag, step=step)

    def update_config(self, config: Any) -> None:
        """Hand the run's config on."""
        self.bar.update_config(config)


def as_number(stat: Any) -> float:
    """Return a figure that fairseq logs as a number."""
    if isinstance(stat, Meter):
        stat = stat.smoothed_value
    return stat if isinstance(stat, int) else float(stat)


def describe(stats: Mapping[str, Any]) -> str:
    """Return the figures of training that a person follows: the loss, and an accuracy against that of guessing."""
    values = {name: as_number(stat) for name, stat in stats.items() if stat is not None}
    said = [f"loss {values['loss']:.4g}"] if "loss" in values else []
    if "info_nce_accuracy" in values:
        chance = values.get("info_nce_chance", math.nan)
        said.append(f"accuracy {values['info_nce_accuracy']:.3g} (chance {chance:.3g})")
    if "top1" in values:
        said.append(f"top1 {values['top1']:.3g}")
    return ", ".join(said)


def run_folder(cfg: DictConfig) -> Optional[Path]:
    """Return hydra's folder of a run; None where hydra does not run this process."""
    if HydraConfig.initialized() and not OmegaConf.is_missing(HydraConfig.get().runtime, "output_dir"):
        return Path(HydraConfig.get().runtime.output_dir)
    # Processes that fairseq itself starts, one a GPU, know of hydra only where its log lies.
    log = OmegaConf.select(cfg, "job_logging_cfg.handlers.file.filename")
    return None if log is None else Path(log).parent


def write_config(cfg: DictConfig, path: Path) -> None:
    """Write all fields of a run; hydra's own config.yaml has neither fairseq's defaults nor what was settled."""
    sections = {name: cfg[name] for name in cfg if name != "job_logging_cfg"}
    with atomic_write(path) as stream:
        stream.write(OmegaConf.to_yaml(OmegaConf.create(sections), resolve=True).encode())


def close_former_curves() -> None:
    """Close TensorBoard's files of a former run in this process, which fairseq would write this one's curves into."""
    for writer in _tensorboard_writers.values():
        writer.close()
    _tensorboard_writers.clear()
