"""`mae-ast check`: compare a manifest with its files, and write it anew without what cannot be trained on."""

import argparse
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from mae_ast_fairseq.cli.arguments import num_processes
from mae_ast_fairseq.cli.printing import print_result
from mae_ast_fairseq.corpus.check import ERROR, FIXABLE, KINDS, WARNING, Report, check_manifest, fix
from mae_ast_fairseq.corpus.scan import write_lines, write_rejected
from mae_ast_fairseq.corpus.script import read_lines
from mae_ast_fairseq.data.manifest import Manifest, read_manifest, write_manifest
from mae_ast_fairseq.errors import ConfigError, ManifestError, printable
from mae_ast_fairseq.extras import require
from mae_ast_fairseq.files import check_file

EXAMPLE = "mae-ast check data/train.tsv --fix data/clean/train.tsv"

NUM_SHOWN_WARNINGS = 3
"""Of each kind."""

REMEDIES = {
    ERROR: "error, --fix leaves the row out",
    FIXABLE: "error, --fix corrects the row",
    WARNING: "warning, --fix keeps the row",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("manifest", type=Path, metavar="MANIFEST", help="manifest to check, as train.tsv")
    parser.add_argument(
        "--fix",
        type=Path,
        metavar="OUT.tsv",
        help="write a clean manifest, the labels of its rows where MANIFEST has a .lbl beside it, and "
        "OUT.left_out.tsv with what was left out and why",
    )
    parser.add_argument("--plot", type=Path, metavar="OUT.png", help="draw histograms of lengths and sample rates")
    parser.add_argument(
        "--workers",
        type=num_processes,
        default=os.cpu_count() or 1,
        help="processes (default: one a core, %(default)s)",
    )
    parser.add_argument("--strict", action="store_true", help="exit with 1 where there are warnings alone, too")
    parser.add_argument("--json", action="store_true", help="print findings and summary as JSON")
    parser.epilog = f"{_describe_kinds()}\n\n{parser.epilog}"


def _describe_kinds() -> str:
    lines = []
    for severity, remedy in REMEDIES.items():
        lines.append(f"{remedy}:")
        lines += [f"  {name:13} {kind.meaning}" for name, kind in KINDS.items() if kind.severity == severity]
    return "\n".join(lines)


def run(args: argparse.Namespace) -> int:
    """Check the manifest, write what was asked for, print the findings and what they come to.

    Returns 1 where rows cannot be used as they are, and with `--strict` where there are warnings.
    """
    _check_outputs(args)
    manifest = read_manifest(args.manifest)
    labels = _read_labels(args.manifest, len(manifest)) if args.fix else None

    report = check_manifest(manifest, args.workers)
    summary = _summarize(manifest, report)
    if args.plot:
        _plot(args.plot, manifest, report)
        summary["plot"] = str(args.plot)
    findings = [
        {
            "where": manifest.where(row),
            "path": manifest.path(row),
            "kind": kind,
            "severity": KINDS[kind].severity,
            "found": found,
        }
        for row, kind, found in report.findings
    ]
    if not args.json:
        for finding in _shown(findings):
            print(*(printable(finding[key]) for key in ("where", "path", "kind", "found")), sep="\t")
    if args.fix:
        summary["fixed"] = _fix(args.fix, manifest, report, labels)
    print_result(args, summary | {"findings": findings}, _as_text(summary))
    return int(any(args.strict or finding["severity"] != WARNING for finding in findings))


def _shown(findings: list[dict[str, str]]) -> Iterator[dict[str, str]]:
    """Yield all errors, and the first warnings of each kind: the table counts the others, and --json has them."""
    seen: Counter[str] = Counter()
    for finding in findings:
        seen[finding["kind"]] += 1
        if finding["severity"] != WARNING or seen[finding["kind"]] <= NUM_SHOWN_WARNINGS:
            yield finding


def _check_outputs(args: argparse.Namespace) -> None:
    """Refuse, before hours of decoding, what could not be written."""
    if args.fix:
        check_file("--fix", args.fix, ".tsv")
        if args.fix.exists() and args.manifest.exists() and args.fix.samefile(args.manifest):
            raise ConfigError(f"--fix {args.fix}: that is the manifest itself; expected another file, so that it stays")
    if args.plot:
        check_file("--plot", args.plot, ".png")
        require("plot", "--plot")


def _read_labels(manifest: Path, num_rows: int) -> list[str] | None:
    """Return the lines of the labels beside a manifest, which must stay as many as its rows; None without them."""
    path = manifest.with_suffix(".lbl")
    if not path.exists():
        return None
    lines = read_lines(path)
    if len(lines) != num_rows:
        raise ManifestError(
            f"{path}: {len(lines)} lines; expected {num_rows}, one for each row of {manifest}; "
            "write both anew from the corpus, or move the labels away"
        )
    return lines


def _fix(out: Path, manifest: Manifest, report: Report, labels: list[str] | None) -> dict[str, Any]:
    """Write the clean manifest and its companions; alone the list of what was left out, if it is all."""
    kept, rows, left_out, num_corrected = fix(manifest, report)
    list_file = out.with_suffix(".left_out.tsv")
    write_rejected(list_file, left_out)
    if not kept:
        raise ManifestError(
            f"{out}: not written, since none of {len(manifest)} rows can be kept; {list_file} says why; "
            "check the manifest's root"
        )
    if labels is not None:
        write_lines(out.with_suffix(".lbl"), [labels[row] for row in kept])
    write_manifest(out, manifest.root, rows)
    return {
        "manifest": str(out),
        "rows": len(kept),
        "corrected": num_corrected,
        "left_out": len(left_out),
        "left_out_list": str(list_file),
    }


def _seconds(report: Report) -> np.ndarray:
    """Return the lengths of the files that hold audio, float64 in seconds."""
    is_known = report.sample_rates > 0
    return report.num_samples[is_known] / report.sample_rates[is_known]


def _summarize(manifest: Manifest, report: Report) -> dict[str, Any]:
    counts = Counter(finding.kind for finding in report.findings)
    seconds = _seconds(report)
    rates, numbers = np.unique(report.sample_rates[report.sample_rates > 0], return_counts=True)
    lengths = (seconds.min(), np.median(seconds), seconds.max()) if len(seconds) else (0, 0, 0)
    return {
        "manifest": manifest.name,
        "root": manifest.root,
        "rows": len(manifest),
        "readable": len(seconds),
        "rows_with_findings": len({finding.row for finding in report.findings}),
        "hours": round(float(seconds.sum()) / 3600, 4),
        "seconds": {
            name: round(float(value), 4) for name, value in zip(("min", "median", "max"), lengths, strict=True)
        },
        "sample_rates": {str(rate): number for rate, number in zip(rates.tolist(), numbers.tolist(), strict=True)},
        "kinds": {kind: counts[kind] for kind in KINDS if counts[kind]},
    }


def _as_text(summary: dict[str, Any]) -> str:
    seconds = summary["seconds"]
    rates = ", ".join(f"{number} at {rate} Hz" for rate, number in summary["sample_rates"].items())
    lengths = f"lengths {seconds['min']:.3f} to {seconds['max']:.3f} s, median {seconds['median']:.3f} s"
    rows = [
        ["rows", summary["rows"], f"{summary['rows_with_findings']} of them with findings"],
        ["readable", summary["readable"], rates],
        ["hours", f"{summary['hours']:.2f}", lengths],
        *([kind, number, REMEDIES[KINDS[kind].severity]] for kind, number in summary["kinds"].items()),
    ]
    lines = [""] if summary["kinds"] else []
    lines.append(tabulate(rows, tablefmt="plain", colalign=("left", "right", "left"), disable_numparse=True))
    if not summary["kinds"]:
        lines.append("nothing is wrong")
    if fixed := summary.get("fixed"):
        lines.append(
            f"wrote {fixed['manifest']}: {fixed['rows']} rows, {fixed['corrected']} of them corrected; "
            f"left out {fixed['left_out']}, listed in {fixed['left_out_list']}"
        )
    if "plot" in summary:
        lines.append(f"wrote {summary['plot']}")
    return "\n".join(lines)


def _plot(path: Path, manifest: Manifest, report: Report) -> None:
    """Draw how many files have which length and which sample rate."""
    from mae_ast_fairseq.evaluation.plots import save_figure

    seconds = _seconds(report)

    def draw() -> Any:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11, 4.5), layout="constrained")
        name = "/".join(manifest.file.absolute().parts[-2:])
        title = f"{name}: {len(seconds):,} readable files, {seconds.sum() / 3600:,.2f} hours"
        figure.suptitle(title, fontsize=11, parse_math=False)
        lengths, rates = figure.subplots(1, 2, width_ratios=(3, 2))
        lengths.set(title="Length", xlabel="seconds", ylabel="files")
        rates.set(title="Sample rate", xlabel="Hz", ylabel="files")
        if len(seconds):
            _draw_lengths(lengths, seconds)
            _draw_rates(rates, report.sample_rates[report.sample_rates > 0])
        return figure

    save_figure(path, draw)


def _draw_lengths(axes: Any, seconds: np.ndarray) -> None:
    low, high, median = seconds.min() * 0.98, seconds.max() * 1.02, np.median(seconds)
    if is_wide := high > 3 * low:
        from matplotlib.ticker import LogLocator, NullLocator

        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:g}")
    axes.hist(seconds, bins=(np.geomspace if is_wide else np.linspace)(low, high, 41), color="tab:blue")
    axes.axvline(median, color="black", linestyle="--", label=f"median {median:.2f} s")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.legend()


def _draw_rates(axes: Any, sample_rates: np.ndarray) -> None:
    values, numbers = np.unique(sample_rates, return_counts=True)
    bars = axes.bar([f"{value:,}" for value in values], numbers, color="tab:orange", width=0.6)
    axes.bar_label(bars, labels=[f"{number:,}" for number in numbers])
    axes.set_xlim(-0.8, len(values) - 0.2)
    axes.margins(y=0.1)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.tick_params(axis="x", rotation=45 if len(values) > 5 else 0)
