"""What a command prints at its end: text for a person, or JSON. What a name holds cannot move a terminal's cursor."""

import argparse
import json
from typing import Any

from mae_ast_fairseq.errors import printable_lines


def print_result(args: argparse.Namespace, summary: dict[str, Any], text: str) -> None:
    """Print what a command found: `summary` with `--json`, else `text`, in whose tables names are printable."""
    print(json.dumps(summary, indent=2) if args.json else printable_lines(text))
