"""A run that goes on from a checkpoint: it must be the run that was begun, and says where it is not."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional, TypeVar, get_type_hints

import torch
from fairseq.data.iterators import EpochBatchIterator
from fairseq.optim import OPTIMIZER_REGISTRY
from omegaconf import OmegaConf

from mae_ast_fairseq.checkpoints.fields import is_interpolated, refuse, section, shown
from mae_ast_fairseq.checkpoints.unpickling import FETCH_AGAIN, damage, is_safetensors, read_content
from mae_ast_fairseq.checkpoints.version import read_state
from mae_ast_fairseq.config.classification import (
    ClassificationCriterionFields,
    ClassificationTaskFields,
    FinetuningFields,
)
from mae_ast_fairseq.config.continuing import (
    BATCHES,
    BATCHES_OF_FAIRSEQ,
    DATA,
    OPTIMIZER,
    OPTIMIZER_OF_FAIRSEQ,
    SCORE,
    Difference,
    network,
)
from mae_ast_fairseq.config.pretraining import EncoderFields, PretrainingCriterionFields, PretrainingTaskFields
from mae_ast_fairseq.errors import ConfigError, UserError, get_logger
from mae_ast_fairseq.nn.build import MODELS
from mae_ast_fairseq.optim.fused_adam import FusedAdam
from mae_ast_fairseq.tasks.best import Patience, read_patience
from mae_ast_fairseq.tasks.distributed import partners_needed
from mae_ast_fairseq.tasks.launch import is_first_process, weights_in_one_form
from mae_ast_fairseq.tasks.run_folder import LAST_CHECKPOINT, goes_on_from_its_own
from mae_ast_fairseq.training_error import without_traceback

logger = get_logger(__name__)

BEST_CHECKPOINT = "checkpoint_best.pt"
OWN_FOLDER = "hydra.run.dir"
"""What names the last checkpoint of the run's own folder."""

FIELDS: dict[str, dict[str, type]] = {
    "model": {**{kind: spec.fields for kind, spec in MODELS.items()}, "mae_ast_classifier": FinetuningFields},
    "task": {"mae_ast_pretraining": PretrainingTaskFields, "mae_ast_classification": ClassificationTaskFields},
    "criterion": {"mae_ast": PretrainingCriterionFields, "mae_ast_classification": ClassificationCriterionFields},
}
"""The dataclass of each kind's fields, whose defaults a stored config has where it has no value."""

STATISTICS_IN_WEIGHTS = ("dataset", "batch")
"""`model.normalization` that a file of the released layout, which does not have the field, continues alike."""

HALF_PRECISIONS = {"common.fp16", "common.bf16"}
"""One may take the place of the other: their optimiser is the same."""

Setting = Callable[[str], Any]
"""Returns a field of the run's config by its full name; None where it has none."""

Result = TypeVar("Result")


class Clips(NamedTuple):
    """What is remembered of the clips of a split."""

    num_clips: int
    fingerprint: str


class Stored(NamedTuple):
    """What a checkpoint says of the run that wrote it."""

    path: Path
    field: str
    """what names it: a field of `checkpoint`, or `hydra.run.dir` for the last of the run's own folder"""
    cfg: Mapping[str, Mapping[str, Any]]
    """its config by sections; without what is interpolated, and with the defaults where a field is missing"""
    has_normalization: bool
    """whether it says how its model normalises"""
    clips: Mapping[str, Clips]
    """those of `train` and `valid`; none in a file of an earlier version"""
    patience: Patience
    has_optimizer: bool
    is_loadable: bool
    """whether it has what fairseq's trainer asks of a file"""

    @property
    def is_warm_start(self) -> bool:
        """Whether weights alone are taken."""
        return self.field == "checkpoint.finetune_from_model"

    @property
    def way_out(self) -> str:
        """How not to go on from it."""
        return f"{'name another folder by' if self.field == 'hydra.run.dir' else 'leave out'} {self.field}"

    @property
    def kind(self) -> str:
        """The kind of its model; '' where it does not say."""
        return str(self.cfg["model"].get("_name", ""))

    @property
    def model(self) -> EncoderFields:
        """The fields of its model, which must be of a known kind."""
        return model_fields(self.kind, self.cfg["model"])

    def differences(self, names: Sequence[str], setting: Setting) -> list[Difference]:
        """Return those of some fields, given by their full names, that it has and that have another value now."""
        found = []
        for name in names:
            part, _, key = name.partition(".")
            values = self.cfg.get(part, {})
            if key in values and values[key] != (given := plain(setting(name))):
                found.append(Difference(name, given, values[key]))
        return found


def model_fields(kind: str, values: Mapping[str, Any]) -> EncoderFields:
    """Return the dataclass of a kind of model with those of some values that are its fields."""
    fields = MODELS[kind].fields
    return fields(**{name: values[name] for name in fields.__dataclass_fields__ if name in values})


def plain(value: Any) -> Any:
    """Return a value of a config as a checkpoint has it."""
    return OmegaConf.to_container(value, resolve=True, enum_to_str=True) if OmegaConf.is_config(value) else value


@partners_needed()
def from_first_process(make: Callable[[], Result]) -> Result:
    """Return in every process what the first one makes, or raise its UserError: files may be on its disk alone."""
    if not torch.distributed.is_initialized():
        return make()
    made: list[Any] = [None]
    if is_first_process():
        try:
            made = [make()]
        except UserError as error:
            made = [error]
    torch.distributed.broadcast_object_list(made, src=0)
    if isinstance(made[0], UserError):
        raise made[0]
    return made[0]


# --- the checkpoint


def find_stored(setting: Setting) -> Optional[Stored]:
    """Read what the checkpoint says that fairseq will start from; None where it starts from scratch.

    Raises ConfigError where a file that was named is damaged; the last one of the run's folder was looked at before.
    """
    field, path = _find(setting)
    if path is None or not path.is_file():
        return None
    stored = read_stored(path, field)
    if field != OWN_FOLDER and (fault := damage(path)):
        raise ConfigError(f"{field}: {path}: {fault}; expected a whole checkpoint; {FETCH_AGAIN}")
    return stored


def _find(setting: Setting) -> tuple[str, Optional[Path]]:
    """Return the field that names the checkpoint and its path, as fairseq's `load_checkpoint` finds it."""
    restore_file = setting("checkpoint.restore_file")
    save_dir = setting("checkpoint.save_dir")
    if restore_file not in (None, LAST_CHECKPOINT) and not goes_on_from_its_own(save_dir, restore_file):
        return "checkpoint.restore_file", Path(restore_file)
    last = Path(save_dir or ".", LAST_CHECKPOINT)
    if last.is_file() or restore_file is None:
        return OWN_FOLDER, last if restore_file else None
    for field in ("checkpoint.continue_once", "checkpoint.finetune_from_model"):
        if path := setting(field):
            return field, Path(path)
    return OWN_FOLDER, None


def read_stored(path: Path, field: str) -> Stored:
    """Read what a checkpoint says of its run, without its tensors; raises CheckpointError where it cannot be read."""
    content = read_content(path, mapped=True)
    cfg = section(path, content, "cfg")
    section(path, cfg, "cfg.model")
    state = read_state(path, content.get("task_state"))
    sections = {name: _completed(name, values) for name, values in cfg.items() if isinstance(values, Mapping)}
    return Stored(
        path=path,
        field=field,
        cfg={"task": {}, **sections},
        has_normalization="normalization" in cfg["model"],
        clips=_clips(state.get("clips")),
        patience=read_patience(state.get("patience")),
        has_optimizer=content.get("last_optimizer_state") is not None,
        is_loadable=bool(content.get("optimizer_history")) and not is_safetensors(path),
    )


def _clips(noted: Any) -> dict[str, Clips]:
    """Return what a file notes of its clips; what a later version writes otherwise is left out."""
    types = get_type_hints(Clips)
    return {
        split: Clips(*(values[name] for name in types))
        for split, values in (noted.items() if isinstance(noted, Mapping) else ())
        if isinstance(values, Mapping) and all(type(values.get(name)) is kind for name, kind in types.items())
    }


def _completed(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    kind = FIELDS.get(name, {}).get(str(values.get("_name")))
    defaults = vars(kind()) if kind else {}
    found = {key: value for key, value in {**defaults, **values}.items() if not is_interpolated(value)}
    if found.get("data_weights") is not None:
        found["data_weights"] = weights_in_one_form(found["data_weights"])
    return found


def check_same_run(stored: Stored, setting: Setting) -> None:
    """Raise ConfigError where a run would go on in another network, with other data, or with another optimiser.

    Raises CheckpointError where fairseq could not load the file at all, or would train all updates again.
    """
    kinds = ["model._name", "task._name"] if stored.is_warm_start else ["model._name", "task._name", "criterion._name"]
    _refuse_differences(stored, stored.differences(kinds, setting))
    if not stored.is_loadable:
        written = "a file that fairseq's training or `mae-ast export --to released` wrote"
        refuse(stored.path, "fairseq cannot start from this layout", written, "export it so")
    _refuse_differences(stored, stored.differences([f"task.{name}" for name in DATA], setting))
    if stored.kind in MODELS:
        _refuse_differences(stored, _network_differences(stored, setting))
    if stored.is_warm_start or setting("checkpoint.reset_optimizer"):
        return
    if not stored.has_optimizer and stored.field == OWN_FOLDER:  # fairseq would count its updates from 0
        refuse(
            stored.path,
            "it has no state of an optimiser, as checkpoint.no_save_optimizer_state asks for",
            "one of a run that can go on",
            "name another folder by hydra.run.dir, or set checkpoint.reset_optimizer=true to train all updates again",
        )
    if stored.has_optimizer:
        names = [*OPTIMIZER_OF_FAIRSEQ, *(f"model.{name}" for name in OPTIMIZER), *_held_settings(stored, setting)]
        found = stored.differences(names, setting)
        if {each.field for each in found} != HALF_PRECISIONS:
            _refuse_differences(stored, found, "set checkpoint.reset_optimizer=true")


def _held_settings(stored: Stored, setting: Setting) -> list[str]:
    """Return the fields of an optimiser of fairseq: its state brings the former values back, which ours does not."""
    if issubclass(OPTIMIZER_REGISTRY.get(setting("optimizer._name"), object), FusedAdam):
        return []
    return [f"optimizer.{name}" for name in stored.cfg.get("optimizer", {}) if name != "lr"]


def _network_differences(stored: Stored, setting: Setting) -> list[Difference]:
    given = network(model_fields(stored.kind, plain(setting("model"))))
    expected = network(stored.model)
    if not stored.has_normalization and given["normalization"] in STATISTICS_IN_WEIGHTS:
        expected["normalization"] = given["normalization"]
    return [
        Difference(f"model.{name}", given.get(name), expected.get(name))
        for name in {**given, **expected}
        if given.get(name) != expected.get(name)
    ]


def _refuse_differences(stored: Stored, differences: Sequence[Difference], remedy: str = "") -> None:
    if not differences:
        return
    first, *others = differences
    more = f" (others differ too: {', '.join(each.field for each in others)})" if others else ""
    raise ConfigError(
        f"{first.field}: {shown(first.given)} was given; expected {shown(first.stored)}, as in {stored.path}, from "
        f"which this run goes on{more}; give what it has, or {remedy or stored.way_out + ' to begin anew'}"
    )


# --- the place in an epoch, and the best score


def changed_batches(stored: Stored, setting: Setting, clips: Mapping[str, Clips]) -> list[str]:
    """Say what is not as in the checkpoint of what an epoch's batches are made of."""
    names = [*BATCHES_OF_FAIRSEQ, *(f"task.{name}" for name in BATCHES)]
    return [*_changed_clips(stored, setting, clips, "train"), *map(_arrow, stored.differences(names, setting))]


def changed_score(stored: Stored, setting: Setting, clips: Mapping[str, Clips]) -> list[str]:
    """Say why the checkpoint's best score is not to be compared with those of this run.

    Other clips to train on change it only where the folder has no best checkpoint, which a better one must replace.
    """
    found = [*_changed_clips(stored, setting, clips, "valid"), *map(_arrow, stored.differences(SCORE, setting))]
    if not Path(setting("checkpoint.save_dir") or ".", BEST_CHECKPOINT).is_file():
        found += _changed_clips(stored, setting, clips, "train")
    return found


def first_subset(setting: Setting, split: str) -> str:
    """Return the name of a split's manifest: of several for validation the first, which chooses the best."""
    return (setting(f"dataset.{split}_subset") or split).split(",")[0]


def _changed_clips(stored: Stored, setting: Setting, clips: Mapping[str, Clips], split: str) -> list[str]:
    if split not in stored.clips or split not in clips or stored.clips[split] == clips[split]:
        return []
    name = first_subset(setting, split)
    former = first_subset(lambda key: stored.cfg.get("dataset", {}).get(key.rpartition(".")[2]), split)
    if name != former:
        return [f"dataset.{split}_subset: {former} -> {name}"]
    before, now = stored.clips[split].num_clips, clips[split].num_clips
    if before != now:
        return [f"corpus: {before:,} -> {now:,} clips in {name}.tsv"]
    return [f"corpus: {now:,} clips in {name}.tsv, but other files, lengths, labels or order"]


def _arrow(difference: Difference) -> str:
    return f"{difference.field}: {shown(difference.stored)} -> {shown(difference.given)}"


def keep_place(iterator: EpochBatchIterator, stored: Stored, changes: Sequence[str], refuses: bool) -> None:
    """Let an iterator go on at a checkpoint's place in an epoch only where that place means the same batches.

    Else it starts the epoch anew, or raises ConfigError where `refuses`.
    """
    load_state_dict = iterator.load_state_dict

    @without_traceback
    def load(state: dict[str, Any]) -> None:
        if "iterations_in_epoch" not in state:  # of the released layout: it says nothing of batches
            return load_state_dict(state)
        place, found = state["iterations_in_epoch"], list(changes)
        if place and place >= len(iterator) and not found:
            found = [f"batches in epoch {state['epoch']}: more than {place} -> {len(iterator)}"]
        if not found:
            return load_state_dict(state)
        said = f"{stored.path}: changed since it was written: {'; '.join(found)}"
        if place and refuses:
            raise ConfigError(
                f"task.on_changed_data: refuse was given, and {said}; expected the same within an epoch, which it left "
                f"after {place} batches; undo the change, or set task.on_changed_data=restart"
            )
        if place:
            _say(logging.WARNING, f"{said}; epoch {state['epoch']}, which it left after {place} batches, starts anew")
        else:
            _say(logging.INFO, f"{said}; epoch {state['epoch']} begins with it")
        return load_state_dict({**state, "iterations_in_epoch": 0})

    iterator.load_state_dict = load


def say_new_best(reasons: Sequence[str]) -> None:
    """Say why the best checkpoint is chosen anew."""
    _say(logging.WARNING, f"the former run's best score is dropped and the best chosen anew: {'; '.join(reasons)}")


def _say(level: int, message: str) -> None:
    if is_first_process():
        logger.log(level, message)
