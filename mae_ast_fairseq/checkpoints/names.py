"""What a person may call a checkpoint: a file, a folder, what the package brings, a model on the Hugging Face hub."""

import os
import re
from pathlib import Path

from mae_ast_fairseq.checkpoints.fields import refuse, short
from mae_ast_fairseq.extras import require
from mae_ast_fairseq.files import package_folder

BUNDLED = {"tiny": package_folder() / "weights" / "tiny.safetensors"}
"""Checkpoints that the package brings, by the names that stand for their paths; a card lies beside each."""

WEIGHTS, CONFIG = "model.safetensors", "config.json"
"""The files of a model on the Hugging Face hub that are read; none there that could hold code is even fetched."""

FILE_ENDINGS = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
"""How files of checkpoints end, and no model's name on the hub."""

_ON_THE_HUB = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@(\w[\w./-]*))?", re.ASCII)


def checkpoint_path(name: str | Path) -> Path:
    """Return the path of a checkpoint's file, which is fetched where it is a model on the Hugging Face hub.

    A file of the name comes first, then a folder that `mae-ast export --to huggingface` wrote, then one of BUNDLED,
    then the hub's `user/name` or `user/name@revision`, unless the name ends as files do or `user` is a folder here.
    The path of any other name is the name, whether something is there or not.

    Raises CheckpointError where the hub's model cannot be fetched, ConfigError where huggingface_hub is not installed.
    """
    path = Path(name)
    if os.path.isfile(path):  # noqa: PTH113 never raises, whatever a name holds
        return path
    if os.path.isfile(path / WEIGHTS):  # noqa: PTH113
        return path / WEIGHTS
    if str(name) in BUNDLED:
        return BUNDLED[str(name)]
    on_the_hub = _ON_THE_HUB.fullmatch(str(name))
    if on_the_hub is None or os.path.exists(path.parts[0]) or path.suffix in FILE_ENDINGS:  # noqa: PTH110
        return path
    return _fetch(path, on_the_hub[1], on_the_hub[2])


def _fetch(name: Path, model: str, revision: str | None) -> Path:
    """Return the path of the weights of a model on the hub, beside its config, in huggingface_hub's cache."""
    require("hub", f"{name}: no file or folder is called so, and a model on the Hugging Face hub")
    from huggingface_hub import errors, snapshot_download

    try:
        folder = snapshot_download(model, revision=revision, allow_patterns=[WEIGHTS, CONFIG])
    except errors.RevisionNotFoundError:
        refuse(name, f"the hub's model has no revision {revision!r}", "a branch, tag or commit", "correct or omit it")
    except errors.GatedRepoError:
        found = "the hub's model asks for its terms to be accepted"
        refuse(name, found, "leave to read it", "accept them on its page, and log in with `hf auth login`")
    except errors.RepositoryNotFoundError:
        found = "there is no such file, folder or model on the hub, or it is private"
        refuse(name, found, "a checkpoint", "correct the name, or log in with `hf auth login`")
    except Exception as error:  # of the hub, the network, the disk, whose classes change with versions
        reason = " ".join(str(error).split()) or type(error).__name__
        found = f"there is no such file or folder, and the hub gives no model of this name ({short(reason)})"
        refuse(name, found, "a checkpoint", "correct the name, or try again where the hub can be reached")
    if not (path := Path(folder, WEIGHTS)).is_file():
        found = f"the hub's model has no {WEIGHTS}, which alone is read"
        refuse(name, found, "what `mae-ast export --to huggingface` writes", "ask its author for it")
    return path
