"""What the package can do only with an extra, as in `pip install 'mae_ast_fairseq[plot]'`, and how its lack is said."""

from importlib.util import find_spec

from mae_ast_fairseq.errors import ConfigError

EXTRAS = {
    "train": {"fairseq": "fairseq 0.12", "hydra": "hydra"},
    "plot": {"matplotlib": "matplotlib", "jinja2": "Jinja2"},
    "probe": {"sklearn": "scikit-learn", "scipy": "scipy"},
    "av": {"av": "PyAV"},
    "hub": {"huggingface_hub": "huggingface_hub"},
}
"""The modules of each extra that the package imports, with the names that people know them by."""

_WITHOUT_WHEELS = " (which brings fairseq for Python 3.11 and 3.12 on Linux x86_64; elsewhere build it yourself)"


def missing(extra: str) -> list[str]:
    """Return the names of what an extra brings that is not installed."""
    return [name for module, name in EXTRAS[extra].items() if find_spec(module) is None]


def install_command(extra: str) -> str:
    """Return the command that brings an extra."""
    return f"pip install 'mae_ast_fairseq[{extra}]'"


def require(extra: str, purpose: str) -> None:
    """Raise ConfigError, which says how to install it, where what `purpose` needs of an extra is missing."""
    if lacking := missing(extra):
        remark = _WITHOUT_WHEELS if extra == "train" else ""
        raise ConfigError(
            f"{purpose} needs the extra {extra!r} (missing: {', '.join(lacking)}); install it with "
            f"`{install_command(extra)}`{remark}"
        )
