"""Installs mae_ast_fairseq and its one command, `mae-ast`."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "mae_ast_fairseq" / "__init__.py").read_text())[1]

# ve-fairseq is the maintained build of fairseq 0.12 (import name `fairseq`). It has wheels for CPython 3.11 and
# 3.12 on Linux x86_64; elsewhere bring your own build of fairseq >= 0.12.
FAIRSEQ = (
    "ve-fairseq==0.12.3; sys_platform == 'linux' and platform_machine == 'x86_64' "
    "and implementation_name == 'cpython' and python_version < '3.13'"
)

PROBE = ["scikit-learn>=1.6", "scipy>=1.11"]
EXTRAS = {
    "av": ["av>=18"],
    "hub": ["huggingface_hub>=0.30"],
    "plot": ["jinja2>=3.1", "matplotlib>=3.8"],
    "probe": PROBE,
    "train": [FAIRSEQ, "hydra-core>=1.3", "tensorboard>=2.16", *PROBE],
}
DEV = [
    "build>=1.2",
    "hypothesis>=6.100",
    "mypy>=1.11",
    "pytest>=8",
    "pytest-xdist>=3.6",
    "ruff>=0.6",
    "setuptools>=77",
]


class BuildWithExamples(build_py):
    """Puts the recipes, which lie beside the package in a clone, inside an installed one."""

    def run(self):
        super().run()
        if not self.editable_mode:
            shutil.copytree(HERE / "examples", Path(self.build_lib, "mae_ast_fairseq", "examples"), dirs_exist_ok=True)


setup(
    name="mae_ast_fairseq",
    version=VERSION,
    description="MAE-AST, the Masked Autoencoding Audio Spectrogram Transformer, as a fairseq plugin",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11,<3.13",
    packages=[*find_packages(include=["mae_ast_fairseq", "mae_ast_fairseq.*"]), "hydra_plugins"],
    package_data={"mae_ast_fairseq": ["py.typed", "report/*.html", "weights/*"]},
    install_requires=[
        "argcomplete>=3",
        "numpy>=1.26",
        "omegaconf>=2.3",
        "safetensors>=0.4",
        "soundfile>=0.13",
        "soxr>=0.5",
        "tabulate>=0.9",
        "torch>=2.6",
        "tqdm>=4.66",
    ],
    extras_require={**EXTRAS, "all": sorted(set().union(*EXTRAS.values())), "dev": DEV},
    cmdclass={"build_py": BuildWithExamples},
    entry_points={"console_scripts": ["mae-ast = mae_ast_fairseq.cli:main"]},
)
