"""What was measured and drawn of a run after its training, where it lies in the run's folder.

`probe*.json` and `evaluate*.json` hold what `mae-ast probe --json` and `mae-ast evaluate --json` print, and `pictures/`
any PNGs.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

from mae_ast_fairseq.errors import printable
from mae_ast_fairseq.files import open_regular, read_json
from mae_ast_fairseq.report.runs import natural

PICTURES = "pictures"
OF_AN_UPDATE = re.compile(r"_update[0-9]+(?=[.]png$)")
MAX_PICTURES = 24
"""of a run that are shown"""
MAX_ON_PAGE = 48
"""about so many of all runs"""
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
    """those to show, by path below `pictures/`"""
    problems: list[str]
    """files that cannot be read, and why"""
    num_pictures: int = 0


def read_results(folder: Path, max_pictures: int = MAX_PICTURES) -> Results:
    """Read what lies in a run's folder."""
    found = Results({}, {}, [])
    for command, read in (("probe", _probed), ("evaluate", _evaluated)):
        for path in sorted(folder.glob(f"{command}*.json"), key=natural):
            try:
                found.scores.update({printable(f"{path.stem}: {of}"): scores for of, scores in read(read_json(path))})
            except OSError as error:
                found.problems.append(f"{path}: cannot be read ({error.strerror})")
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
                found.problems.append(f"{path}: other content was found; expected what mae-ast {command} --json prints")
    home = folder / PICTURES
    paths = sorted(home.rglob("*.png"), key=natural)
    for path in _first_and_last(paths)[:max_pictures]:
        try:
            with open_regular(path) as stream:
                content = stream.read()
        except OSError as error:
            found.problems.append(f"{path}: cannot be read ({error.strerror})")
            continue
        if content.startswith(PNG_START):
            found.pictures[printable(str(path.relative_to(home)))] = content
        else:
            found.problems.append(f"{path}: its first bytes are not those of a PNG; expected a picture")
    return found._replace(num_pictures=len(paths))


def _first_and_last(paths: Sequence[Path]) -> list[Path]:
    """Return of each clip that was drawn at every validation the first and the last picture, and all others."""
    by_clip: dict[Path, list[Path]] = {}
    for path in paths:
        by_clip.setdefault(path.with_name(OF_AN_UPDATE.sub("_update", path.name)), []).append(path)
    return [path for drawn in by_clip.values() for path in dict.fromkeys((drawn[0], drawn[-1]))]


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
