"""In which precision a run on a CPU trains: chosen once, by what the processor multiplies fastest."""

from omegaconf import DictConfig, OmegaConf

from mae_ast_fairseq.errors import UserError, get_logger
from mae_ast_fairseq.precision import fastest_on_cpu
from mae_ast_fairseq.tasks.launch import is_on_cpu
from mae_ast_fairseq.tasks.resume import find_stored

logger = get_logger(__name__)

FIELDS = frozenset(
    f"common.{name}" for name in ("fp16", "memory_efficient_fp16", "bf16", "memory_efficient_bf16", "amp")
)


def settle_precision(cfg: DictConfig, given: frozenset[str], content: DictConfig | None = None) -> None:
    """Write bfloat16 into the config of a run on a CPU, in place, where it is the faster, and say so.

    A run that goes on stays in its precision, whatever the processor. What a recipe turns on, or a person has `given`
    on the command line by a field's full name or in the `content` of a recipe in one file, is left as it is.
    """
    written = [name for name in FIELDS if content is not None and OmegaConf.select(content, name) is not None]
    if not is_on_cpu(cfg) or written or given & FIELDS or any(OmegaConf.select(cfg, name) for name in FIELDS):
        return
    before = _precision_before(cfg)
    cfg.common.bf16 = before if before is not None else fastest_on_cpu() == "bfloat16"
    logger.info(
        "training in %s, %s; common.bf16=true or false sets another",
        "bfloat16" if cfg.common.bf16 else "float32",
        "which this processor multiplies faster" if before is None else "as this run was begun",
    )


def _precision_before(cfg: DictConfig) -> bool | None:
    """Return `common.bf16` of the run that goes on; None where there is none."""
    try:
        stored = find_stored(lambda key: OmegaConf.select(cfg, key))
    except UserError:  # which the task will say, or find an intact checkpoint
        return None
    return None if stored is None or stored.is_warm_start else bool(stored.cfg.get("common", {}).get("bf16"))
