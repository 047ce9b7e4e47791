"""The report of some runs: tables, curves and one page that holds everything, written into a folder."""

import csv
import io
import json
import math
import statistics
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tabulate import tabulate

from mae_ast_fairseq import __version__
from mae_ast_fairseq.errors import one_line, printable
from mae_ast_fairseq.files import atomic_write
from mae_ast_fairseq.report import curves
from mae_ast_fairseq.report.results import MAX_ON_PAGE, MAX_PICTURES, Results, Score, read_results
from mae_ast_fairseq.report.runs import Run, flat, names_of

TEMPLATE = Path(__file__).with_name("report.html")
CURVES = "curves.png"
DASHES = {"-": "none", "--": "6 3", "-.": "6 3 2 3"}  # matplotlib's styles for SVG
FOLLOWING = {"checkpoint.save_dir", "common.tensorboard_logdir", "common.user_dir", "lr_scheduler.total_num_update"}
"""fields that differ wherever folders or other fields do"""
SHOWN = ("recipe", "state", "updates", "max_updates", "epoch", "hours", "updates_per_second")
LITERAL = str.maketrans({"&": "&amp;", "<": "&lt;", "|": "\\|", "`": "\\`", "[": "\\["})
"""what a page of Markdown would take for its own"""


class Table(NamedTuple):
    """A table, one row a line of cells, whose first column says what the row is."""

    title: str
    headers: list[str]
    rows: list[list[str]]

    @classmethod
    def of(cls, title: str, rows: Mapping[str, Mapping[str, Any]]) -> "Table":
        """Make a table of values by row and column; what there is more of goes down."""
        columns = list(dict.fromkeys(name for values in rows.values() for name in values))
        if len(columns) > len(rows):
            rows, columns = {name: {row: rows[row].get(name) for row in rows} for name in columns}, list(rows)
        cells = [[name, *(text(values.get(column)) for column in columns)] for name, values in rows.items()]
        return cls(title, ["", *columns], cells)

    def as_markdown(self) -> str:
        """Return the table for a page of Markdown, in which cells are taken literally."""
        headers, *rows = [[cell.translate(LITERAL) for cell in row] for row in (self.headers, *self.rows)]
        return f"**{self.title}**\n\n{tabulate(rows, headers, tablefmt='github', disable_numparse=True)}"


def text(value: Any) -> str:
    """Write a value for a person."""
    if isinstance(value, Score):
        more = "" if value.deviation is None else f" ± {value.deviation:.3f}"
        more += "" if value.low is None or value.high is None else f" ({value.low:.3f} to {value.high:.3f})"
        return text(None) if value.value is None else f"{value.value:.3f}{more}"
    if value is None or value != value:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else printable(str(value))


def write_report(out: Path, runs: Sequence[Run], problems: Sequence[str]) -> tuple[dict[str, Any], str]:
    """Write report.html, .md, .csv, .json and curves.png into a folder; return the JSON and the Markdown.

    Args:
        out: the folder, which must be there.
        runs: at least one.
        problems: runs that cannot be read and why, a line each.
    """
    names, fields = names_of(runs), differing_fields([run.config for run in runs])
    # A page of many runs stays one that a phone opens.
    max_pictures = min(MAX_PICTURES, max(2, MAX_ON_PAGE // len(runs)))
    results = [read_results(run.folder, max_pictures) for run in runs]
    summaries = {
        name: {**summary(run, found), "fields": {field: values[place] for field, values in fields.items()}}
        for place, (name, run, found) in enumerate(zip(names, runs, results, strict=True))
    }
    problems = [*problems, *(one_line(problem) for found in results for problem in found.problems)]
    tables, panels = _tables(summaries), curves.panels(runs)
    said = [f"{name}: {line}" for name, one in summaries.items() for line in one["warnings"]]
    said += [f"not read: {problem}" for problem in problems]
    lists = ["\n".join(f"- {line.translate(LITERAL)}" for line in said)] if said else []
    markdown = "\n\n".join([tables[0].as_markdown(), *lists, *(table.as_markdown() for table in tables[1:])])
    if panels:
        curves.save(out / CURVES, panels, names)
    as_json = {"runs": [{"run": name, **one} for name, one in _plain(summaries).items()], "problems": problems}
    content = {
        "report.html": _page(runs, results, summaries, tables[1:], panels, problems),
        "report.md": f"# Report\n\n{markdown}\n" + (f"\n![curves over updates]({CURVES})\n" if panels else ""),
        "report.csv": _csv(summaries),
        "report.json": json.dumps(as_json, indent=2) + "\n",
    }
    for file, whole in content.items():
        with atomic_write(out / file) as stream:
            stream.write(whole.encode())
    return as_json, markdown


def summary(run: Run, results: Results) -> dict[str, Any]:
    """Return what is said of a run."""
    speeds = [value for _, value in run.points(run.training, "ups") if math.isfinite(value)]
    walls = [line["wall"] for line in run.lines if "wall" in line]
    return {
        "folder": printable(str(run.folder)),
        "recipe": run.recipe,
        "state": run.state,
        "updates": run.num_updates,
        "max_updates": int(run.setting("optimization.max_update")) or None,
        "epoch": run.lines[-1].get("epoch"),
        "hours": round(max(walls) / 3600, 3) if walls else None,
        "updates_per_second": statistics.median(speeds) if speeds else None,
        "warnings": run.warnings(),
        "training": run.last(run.training),
        "validation": {subset: run.last("valid", subset) for subset in run.subsets},
        "scores": results.scores,
        "pictures": list(results.pictures),
        "num_pictures": results.num_pictures,
    }


def _plain(value: Any) -> Any:
    """Return a value for JSON: scores by the names of their parts, null for what is not finite."""
    if isinstance(value, Score):
        return {name: _plain(part) for name, part in value._asdict().items() if part is not None}
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def differing_fields(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the fields of which runs have different values, with these; copies in other sections count once."""
    known = [config for config in configs if config]
    found: dict[tuple[str, str], tuple[str, list[Any]]] = {}
    for name in dict.fromkeys(name for config in known for name in config):
        values = [config.get(name) for config in configs]
        if name not in FOLLOWING and len({repr(config.get(name)) for config in known}) > 1:
            inner = [value[0] if isinstance(value, list) and len(value) == 1 else value for value in values]
            shown = [value if isinstance(value, int | float | None) else printable(str(value)) for value in inner]
            found.setdefault((name.rpartition(".")[2], repr(values)), (printable(name), shown))
    return dict(found.values())


def _tables(summaries: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """Return the tables: the runs, their last figures, their scores, and in which fields they differ."""
    figures: dict[str, Any] = {}
    scores: dict[str, Any] = {}
    for name, run in summaries.items():
        for subset, values in (run["validation"] or {"training": run["training"]}).items():
            figures[name if len(run["validation"]) == 1 else f"{name}, {subset}"] = values
        scores |= {of if len(summaries) == 1 else f"{name}, {of}": each for of, each in run["scores"].items()}
    tables = [
        Table.of("Runs", {name: {shown: run[shown] for shown in SHOWN} for name, run in summaries.items()}),
        Table.of("Figures of the last validation", figures),
        Table.of("Scores", scores),
        Table.of("Fields that differ", {name: run["fields"] for name, run in summaries.items()}),
    ]
    return [table for table in tables if table.rows and len(table.headers) > 1]


def _csv(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a line a run, with all that is said of it in columns such as `validation.valid.loss`."""
    rows = [
        flat({"run": name, **run, "warnings": "; ".join(run["warnings"]), "pictures": "; ".join(run["pictures"])})
        for name, run in _plain(summaries).items()
    ]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _page(
    runs: Sequence[Run],
    results: Sequence[Results],
    summaries: Mapping[str, Mapping[str, Any]],
    tables: Sequence[Table],
    panels: Sequence[curves.Panel],
    problems: Sequence[str],
) -> str:
    """Return a page that needs nothing else; what it holds of a person's is escaped."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    shown = []
    for place, (run, found, (name, one)) in enumerate(zip(runs, results, summaries.items(), strict=True)):
        look = curves.look(place)
        shown.append(
            {
                **{"name": name, **one, "colour": look["color"], "dashes": DASHES[look["linestyle"]]},
                "percent": min(100.0, 100 * run.num_updates / one["max_updates"]) if one["max_updates"] else None,
                "shown_pictures": {label: b64encode(content).decode() for label, content in found.pictures.items()},
            }
        )
    drawn = [{"name": panel.name, "note": panel.note, "svg": Markup(curves.as_svg(panel))} for panel in panels]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["text"] = text
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        runs=shown,
        tables=tables,
        panels=drawn,
        problems=problems,
        num_looks=curves.NUM_LOOKS,
        version=__version__,
    )
