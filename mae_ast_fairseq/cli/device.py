"""`--device` and `--precision`, alike on every command that runs a model."""

import argparse

import torch

from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.inference.encoder import PRECISIONS


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `--device` and `--precision`."""
    parser.add_argument("--device", default="cpu", help="as torch names it, such as cuda:0 (default: %(default)s)")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="float32", help="of the model (default: %(default)s)"
    )


def check_device_arguments(args: argparse.Namespace) -> tuple[torch.device, torch.dtype]:
    """Return where a model runs and in which precision; raises ConfigError for a device that is not there."""
    return check_device(args.device), PRECISIONS[args.precision]


def check_device(name: str) -> torch.device:
    """Return a device that is there; raises ConfigError."""
    try:
        number = torch.zeros(1, device=name)
        number.item()  # what `meta` cannot do
        return number.device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(f"--device {name}: cannot be used ({reason}); expected cpu, or cuda where it is") from None
