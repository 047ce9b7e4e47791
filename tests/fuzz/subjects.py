"""The kinds of inputs that are mutated."""

from tests.fuzz import archives, audio, checkpoints, overrides, texts
from tests.fuzz.harness import Subject

SUBJECTS: dict[str, Subject] = {
    "audio": audio.SUBJECT,
    "manifests": texts.MANIFESTS,
    "labels": texts.LABELS,
    "statistics": texts.STATISTICS,
    "archives": archives.SUBJECT,
    "checkpoints": checkpoints.CHECKPOINTS,
    "safetensors": checkpoints.SAFETENSORS,
    "overrides": overrides.SUBJECT,
}
