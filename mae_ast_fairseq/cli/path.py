"""`mae-ast path`: say where the package and its recipes lie, for fairseq's command line."""

import argparse
import json

from mae_ast_fairseq.files import examples_folder, package_folder

EXAMPLE = (
    "mae-ast path --examples\n\n  "
    "fairseq-hydra-train --config-dir $(mae-ast path --examples) --config-name mae_ast_tiny \\\n"
    "    common.user_dir=$(mae-ast path) task.data=/folder/with/manifests"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--examples", action="store_true", help="print the folder of the recipes instead")
    parser.add_argument("--json", action="store_true", help="print both as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the path asked for."""
    if args.json:
        print(json.dumps({"user_dir": str(package_folder()), "examples": str(examples_folder())}))
    else:
        print(examples_folder() if args.examples else package_folder())
    return 0
