"""Which checkpoint is the best: the direction of the metric that chooses it, and a metric that is NaN.

fairseq asks for the metric and for its direction, and keeps the worst checkpoint where they do not fit. Here each
metric has its direction, and fairseq's field follows from it.
"""

import math
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple, Optional

from fairseq import checkpoint_utils
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from mae_ast_fairseq.errors import ConfigError, get_logger
from mae_ast_fairseq.tasks.launch import field_of

logger = get_logger(__name__)

METRIC = "checkpoint.best_checkpoint_metric"
MAXIMIZE = "checkpoint.maximize_best_checkpoint_metric"
MAXIMIZE_OF_SCHEDULE = "lr_scheduler.maximize_best_checkpoint_metric"
"""A copy of it that the schedule reduce_lr_on_plateau has."""


def settle_direction(run: DictConfig, directions: Mapping[str, bool]) -> None:
    """Set in a run's config, in place, whether more of its metric is better.

    Args:
        run: the whole config; one without the fields is left as it is.
        directions: of each figure that validations log, whether more is better.

    Raises ConfigError where the metric is none of them, or a person gave the other direction.
    """
    name, given = OmegaConf.select(run, METRIC), OmegaConf.select(run, MAXIMIZE)
    if name is None or given is None:
        return
    if name not in directions:
        raise ConfigError(
            f"{METRIC}: {name!r} is none of the figures that a validation gives; expected one of "
            f"{', '.join(directions)}; correct it"
        )
    wanted = directions[name]
    if given != wanted and (given or is_on_command_line(MAXIMIZE)):
        raise ConfigError(
            f"{MAXIMIZE}: {str(given).lower()} was given with {METRIC}={name}, of which {'more' if wanted else 'less'} "
            f"is better; expected {str(wanted).lower()}; remove the field, which follows from the metric"
        )
    for key in (MAXIMIZE, MAXIMIZE_OF_SCHEDULE):
        if OmegaConf.select(run, key) is not None:
            OmegaConf.update(run, key, wanted)
    logger.info("checkpoint_best.pt will be that of the %s %s", "highest" if wanted else "lowest", name)


def is_on_command_line(key: str) -> bool:
    """Return whether a field was given on the command line, which processes that fairseq starts do not know."""
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    return key in map(field_of, overrides)


class Patience(NamedTuple):
    """What fairseq counts for `checkpoint.patience`, and forgets with the process."""

    best: Optional[float] = None
    """the best score of a validation"""
    num_runs: int = 0
    """validations since, none of which was better"""


def patience() -> Patience:
    """Return what fairseq has counted in this process."""
    counted = vars(_should_stop_early())
    best = counted.get("best")
    return Patience(None if best is None else float(best), counted.get("num_runs", 0))


def read_patience(noted: Any) -> Patience:
    """Return what a checkpoint notes of it; of what another version writes otherwise, nothing."""
    best, num_runs = (noted.get(name) for name in Patience._fields) if isinstance(noted, Mapping) else (None, 0)
    return Patience(best, num_runs) if type(best) is float and type(num_runs) is int else Patience()


def take_patience(counted: Patience) -> None:
    """Let fairseq go on counting from there."""
    vars(_should_stop_early()).update(counted._asdict())


def forget_former_runs() -> None:
    """Drop the best result of a former run in this process, as hydra's multirun leaves it: fairseq never does."""
    checkpoint_utils.save_checkpoint.__dict__.pop("best", None)
    take_patience(Patience())


def _should_stop_early() -> Any:
    command = sys.modules.get("fairseq_cli.train")  # not there where fairseq's other commands run
    return getattr(command, "should_stop_early", lambda: None)


def leave_out_nan(
    name: str, stats: dict[str, Any], directions: Mapping[str, bool], reasons: Mapping[str, str]
) -> Optional[str]:
    """Take a metric that is NaN out of what a validation gave; return what is to be said of it, None where it is not.

    fairseq would take it for the best, forget the best before it, and count every later one as no better.

    Args:
        name: the metric that chooses the best checkpoint.
        stats: what the validation gave, by name.
        directions: the figures that could choose it.
        reasons: why figures may be undefined, by name.
    """
    if name not in stats or not math.isnan(stats[name]):
        return None
    stats[name] = None
    numbers = {other: float(stats[other]) for other in directions if stats.get(other) is not None}
    finite = [other for other, value in numbers.items() if math.isfinite(value)]
    reason = reasons.get(name, "it is undefined on this set") if "loss" in finite else "as the loss: the model diverged"
    remedy = f"expected a number; finite are {', '.join(finite)}" if finite else "no figure is finite; lower the rate"
    return f"{METRIC}: {name} is NaN ({reason}), so that no checkpoint can be the best by it; {remedy}"
