"""What was measured and drawn of a run after its training, where it lies in the run's folder.

`probe*.json` and `evaluate*.json` hold what `mae-ast probe --json` and `mae-ast evaluate --json` print, and `pictures/`
any PNGs.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Optional

from mae_ast_fairseq.errors import printable
from mae_ast_fairseq.files import open_regular, read_json
from mae_ast_fairseq.report.runs import natural

PICTURES = "pictures"
PNG_START = b"\x89PNG\r\n\x1a\n"


class Score(NamedTuple):
    """What a metric came to; of the others, those are there that the command gives."""

    value: Optional[float]
    deviation: Optional[float] = None
    low: Optional[float] = None
    high: Optional[float] = None


class Results(NamedTuple):
    """All that was found."""

    scores: dict[str, dict[str, Score]]
    """by what was measured, then by metric"""
    pictures: dict[str, bytes]
    """by path below `pictures/`"""
    problems: list[str]
    """files that cannot be read, and why"""


def read_results(folder: Path) -> Results:
    """Read what lies in a run's folder."""
    found = Results({}, {}, [])
    for command, read in (("probe", _probed), ("evaluate", _evaluated)):
        for path in sorted(folder.glob(f"{command}*.json"), key=natural):
            try:
                found.scores.update({printable(f"{path.stem}: {of}"): scores for of, scores in read(read_json(path))})
            except OSError as error:
                found.problems.append(f"{path}: cannot be read ({error.strerror})")
            except (ValueError, KeyError, TypeError, AttributeError):
                found.problems.append(f"{path}: other content was found; expected what mae-ast {command} --json prints")
    for path in sorted((folder / PICTURES).rglob("*.png"), key=natural):
        try:
            with open_regular(path) as stream:
                content = stream.read()
        except OSError as error:
            found.problems.append(f"{path}: cannot be read ({error.strerror})")
            continue
        if content.startswith(PNG_START):
            found.pictures[printable(str(path.relative_to(folder / PICTURES)))] = content
        else:
            found.problems.append(f"{path}: its first bytes are not those of a PNG; expected a picture")
    return found


def _probed(result: Any) -> Iterator[tuple[str, dict[str, Score]]]:
    """Yield what a probe's table has in its rows."""
    for row in result["results"]:
        metrics = {name: each for name, each in row.items() if isinstance(each, dict)}
        of = ", ".join(str(row[name]) for name in ("features", "classifier", "readout"))
        yield f"{of}, layer {row['layer']}", _scores(metrics, {"value": "mean", "deviation": "deviation"})


def _evaluated(result: Any) -> Iterator[tuple[str, dict[str, Score]]]:
    of = f"{result['split']}, {int(result['num_clips']):,} clips"
    yield of, _scores(result["metrics"], {name: name for name in ("value", "low", "high")})


def _scores(metrics: dict[str, Any], parts: dict[str, str]) -> dict[str, Score]:
    return {
        printable(name): Score(**{ours: _number(each[theirs]) for ours, theirs in parts.items()})
        for name, each in metrics.items()
    }


def _number(value: Any) -> Optional[float]:
    return None if value is None else float(value)
