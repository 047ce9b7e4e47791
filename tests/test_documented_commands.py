"""Every command that README, docs, recipes and --help show is one that its program takes, and is run by a test."""

import argparse
import ast
import contextlib
import csv
import io
import re
import runpy
import shutil
import sys
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pytest
import soundfile as sf
import torch
from fairseq_cli import hydra_train
from hydra.core.plugins import Plugins
from torch.distributed.run import get_args_parser

from mae_ast_fairseq import cli
from mae_ast_fairseq.extras import EXTRAS
from tests.documented import PAGES, ROOT, Command, Text, commands, commands_of, files_of, python_of
from tests.training import SMALL, hydra_left_as_it_was

RUN_ELSEWHERE = {
    "torchrun ": "test_torchrun_starts_and_resumes_a_run_of_which_the_first_process_alone_writes",
    "srun ": "test_slurm_starts_a_run_in_a_folder_that_the_first_process_names",
    "hydra/launcher=submitit": "test_a_sweep_by_submitit_s_local_executor",
    "--config-dir examples --config-name finetune_": "test_every_recipe_trains_as_it_augments",
    "--config-dir examples --config-name ": "test_every_recipe_trains_padded_and_cropped",
    "12LayerEncoder.pt": "test_what_the_readme_shows_of_released_files",
    "mae-ast average": "test_the_mean_of_one_is_that_one",
    "mae-ast benchmark": "test_json_table_and_picture_have_every_row",
    "--to s3prl": "test_the_file_for_s3prl_is_exported",
    "run_downstream.py": "test_the_file_for_s3prl_is_exported",
    "xares.run": "test_the_file_for_xares_has_one_encoder_of_the_checkpoint",
    "hear-validator": "test_hears_commands_name_the_module_the_checkpoint_and_known_options",
    "heareval": "test_hears_commands_name_the_module_the_checkpoint_and_known_options",
    "make dist": "test_what_is_released_does_inference_and_with_extras_the_demo",
    "make demo": "test_the_demo_ends_with_figures_and_pictures_from_before_and_after",
    "make fuzz": "test_mutated_input_is_read_or_refused_in_one_line",
    "make chaos": "test_no_run_is_lost",
    "experiments/run.py": "test_what_failed_is_run_again_and_what_is_done_is_not",
    "examples/experiments/": "test_a_cell_is_the_model_that_its_name_says",
    "manifests/debian.py": "test_all_packages_are_listed_together_and_each_by_itself",
    "manifests/": "test_what_a_script_writes_is_read_as_labels",
    "docs/fields.py": "test_the_table_of_fields_is_up_to_date",
    "docs/masking.py": "test_the_script_draws_every_strategy_at_every_ratio",
    "test_adapters_in_tools.py": "test_xares_accepts_the_encoder_and_scores_a_task",
}
"""The test that runs a command, by what stands in it; the first that does counts."""

NOT_RUN = {
    "experiments/features.py": "trains for hours",
    "make soak": "trains for an hour",
    "make install": "what runs the tests does it",
    "make test": "it runs the tests",
    "make lint": ".ci/run does it behind the tests",
}
FOREIGN = {
    *(".", "cd", "[", "exit", "eval", "pip", "zip", "scontrol", "sox", "tensorboard", "hf", "twine"),
    *("register-python-argcomplete", "hear-validator", ".ci/run"),
}
"""Programs of others, of whose arguments we know nothing."""
FOREIGN_PYTHON = {"xares.run", "heareval.embeddings.runner", "heareval.predictions.runner", "run_downstream.py"}

PLACEHOLDERS = {"USER/my_model": "my_model", "SCRIPT.py": "esc50.py"}
QUICK = (
    *("common.cpu=true", "common.bf16=false", "common.wandb_project=null"),
    *("dataset.num_workers=0", "optimization.max_update=2", "lr_scheduler.warmup_updates=1"),
)
"""What is added to the training commands, and where no model says how large it is `SIZES`."""
SIZES = (*SMALL, "model.encoder_layers=3")

ALL = commands()
COMPOSED: set[frozenset[str]] = set()


class AcceptedError(Exception):
    """A program has read its arguments, and is kept from going on."""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with what a reader of the pages has: a clone, audio, a table of labels, and the files that they show."""
    home = tmp_path_factory.mktemp("home")
    for name in ("docs", "examples", "mae_ast_fairseq", "manifests"):
        (home / name).symlink_to(ROOT / name)
    shown = {name: text for page in PAGES for name, text in files_of(page).items()}
    for name, text in {"my/recipes/wide.yaml": "defaults: [mae_ast_tiny, _self_]\n", **shown}.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    audio = home / "folder" / "of" / "audio"
    rows = [["path", "class", "label", "split"]]
    time = np.arange(12_000) / 16_000
    for clip in range(36):
        label = ("low", "high")[clip % 2]
        (audio / label).mkdir(parents=True, exist_ok=True)
        tone = np.sin(2 * np.pi * (200 + 1_500 * (clip % 2) + 20 * clip) * time)
        sf.write(audio / label / f"{label}_{clip}.wav", 0.3 * tone, 16_000)
        rows.append([f"{label}/{label}_{clip}.wav", label, label, ("train", "train", "valid", "test")[clip // 2 % 4]])
    with (home / "clips.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    shutil.copytree(audio / "low", home / "recordings")
    shutil.copytree(audio, home / "data" / "corpus")
    for name in ("recording.wav", "music.mp3"):
        sf.write(home / name, 0.3 * tone, 16_000)
    return home


@pytest.fixture(autouse=True)
def at_home(home, monkeypatch):
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "argv", ["mae-ast"])
    with hydra_left_as_it_was():
        yield


def filled(word: str) -> str:
    """Return a word with small files for a reader's, below the current folder, and with what `$(...)` gives."""
    for name, small in PLACEHOLDERS.items():
        word = word.replace(name, small)
    word = re.sub(r"^N$|\$N", "1", word)
    word = re.sub(r"(^|[=\[,:])/(?=\w)", r"\1", word)
    return re.sub(r"\$\{(.+?)\}", lambda found: printed_by(found[1].split("\0")), word)


def printed_by(words: list[str]) -> str:
    if words[0] != "mae-ast":
        return ""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert cli.main(words[1:]) == 0
    return printed.getvalue().strip()


# --- each is accepted


class Checks:
    """Raises where a program does not take the arguments of a command; nothing is run."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.patch = patch
        self.composed = []
        patch.setattr(hydra_train, "_hydra_main", lambda cfg, **how: self.composed.append(cfg) or 0.0)
        sweeper = Plugins.instance().class_name_to_class["hydra._internal.core_plugins.basic_sweeper.BasicSweeper"]
        split = sweeper.split_arguments
        patch.setattr(sweeper, "split_arguments", lambda self, *given: [split(*given)[0][:1]])  # a sweep's first run

    def __call__(self, command: Command) -> None:
        program, *words = map(filled, command.words)
        if program == "torchrun":
            args = get_args_parser().parse_args(words)
            assert (args.module, args.training_script) == (True, "mae_ast_fairseq.cli")
            program, words = "mae-ast", args.training_script_args
        if program == "srun":
            program, words = "mae-ast", words[words.index("mae-ast") + 1 :]
        if program == "mae-ast":
            self.of_ours(words, command.in_prose)
        elif program in ("fairseq-hydra-train", "python", "make"):
            {"fairseq-hydra-train": self.of_fairseq, "python": self.of_python, "make": of_make}[program](words)
        else:
            assert program in FOREIGN
            of_foreign(program, words)

    def of_ours(self, words: list[str], in_prose: bool) -> None:
        parser = cli._build_parser(words)
        if in_prose:  # where a command may be named without all that it needs
            part = parser._subparsers._group_actions[0].choices[words[0]]
            for each in (*part._actions, *part._mutually_exclusive_groups):
                each.required = False
            if words[-1] in part._option_string_actions:
                words = words[:-1]
        args = parser.parse_args(words)
        if args.command == "train" and args.recipe and is_new(words):
            of_launcher = (
                "hydra/launcher=",
                "hydra.launcher.",
            )  # a plugin, which would start jobs
            assert cli.main([word for word in words if not word.startswith(of_launcher)]) == 0
            assert self.composed or "--cfg" in words

    def of_fairseq(self, words: list[str]) -> None:
        if not is_new(words):
            return
        self.patch.setattr(sys, "argv", ["fairseq-hydra-train", *words])
        hydra_train.cli_main()
        assert self.composed

    def of_python(self, words: list[str]) -> None:
        module, words = (words[1], words[1:]) if words[0] == "-m" else (None, words)
        if module == "pytest":
            assert all((ROOT / word).exists() for word in words[1:] if "/" in word)
        elif words[0] not in FOREIGN_PYTHON:
            assert module or (ROOT / words[0]).is_file()
            if len(words) > 1:
                self.of_arguments(words, module)

    def of_arguments(self, words: list[str], module: str | None) -> None:
        """Run a script of ours up to where it has read its arguments."""
        parse = argparse.ArgumentParser.parse_args

        def parse_alone(*args):
            parse(*args)
            raise AcceptedError

        self.patch.setattr(argparse.ArgumentParser, "parse_args", parse_alone)
        self.patch.setattr(sys, "argv", words)
        self.patch.syspath_prepend((ROOT / words[0]).parent)
        with pytest.raises(AcceptedError):
            runpy.run_module(module, None, "__main__") if module else runpy.run_path(ROOT / words[0], None, "__main__")


def is_new(words: list[str]) -> bool:
    """Tell whether a training command is the first with its recipe and fields, whatever the folders."""
    fields = frozenset(word for word in words if not word.startswith(("task.data=", "hydra.run.dir=")))
    return not (fields in COMPOSED or COMPOSED.add(fields))


@pytest.fixture
def check(monkeypatch):
    return Checks(monkeypatch)


def of_make(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.search(r"\.PHONY: (.*)", makefile)[1].split()
    for word in words:
        name, is_variable, _ = word.partition("=")
        assert f"$({name})" in makefile if is_variable else name in targets


def of_foreign(program: str, words: list[str]) -> None:
    """Check what others' commands say of this package: its extras, its command and its files."""
    for extras in re.findall(r"(?:^\.|mae_ast_fairseq)\[(.+)\]", "\n".join(words), re.MULTILINE):
        assert set(extras.split(",")) <= {*EXTRAS, "all", "dev"}
    if program == "register-python-argcomplete":
        assert words == [cli.PROG]
    if program == ".ci/run":
        assert (ROOT / program).is_file()


@pytest.mark.parametrize("command", ALL, ids=lambda command: command.place)
def test_a_documented_command_is_one_that_its_program_takes(command, check):
    check(command)


@pytest.mark.parametrize(
    "words",
    [
        ("mae-ast", "extrakt", "tiny"),
        ("mae-ast", "extract", "tiny", "a.wav", "--out", "b", "--layers", "1"),
        ("mae-ast", "train", "mae_ast_tini"),
        ("mae-ast", "train", "tiny", "model.encoder_layrs=3"),
        ("fairseq-hydra-train", "--config-dir", "examples", "--config-name", "mae_ast_tiny", "task.date=data"),
        ("torchrun", "--nproc", "8", "-m", "mae_ast_fairseq.cli", "train", "tini"),
        ("srun", "mae-ast", "train", "tini"),
        ("python", "manifests/gone.py", "FOLDER"),
        ("python", "manifests/esc50.py", "FOLDER", "--out", "data", "--fould", "1"),
        ("make", "tests"),
        ("pip", "install", "mae_ast_fairseq[plots]"),
        ("conda", "install", "mae_ast_fairseq"),
    ],
)
def test_one_that_its_program_does_not_take_is_found(words, check):
    with pytest.raises((AssertionError, SystemExit, Exception)):
        check(Command("a.md:1", words, in_prose=False))


@pytest.mark.parametrize("block", [block for page in PAGES for block in python_of(page)], ids=lambda block: block.place)
def test_what_documented_python_imports_is_there(block):
    for node in ast.walk(ast.parse("\n".join(block.lines))):
        if isinstance(node, ast.ImportFrom) and find_spec(node.module.split(".")[0]):
            module = import_module(node.module)
            for each in node.names:
                assert hasattr(module, each.name) or import_module(f"{node.module}.{each.name}")
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "mae_ast_fairseq":
            assert hasattr(import_module("mae_ast_fairseq"), node.attr)


# --- each is run


def elsewhere(command: Command) -> str | None:
    """Return the test that runs a command, or why none does; None if this file does, or nobody."""
    line = " ".join(command.words)
    return next((test for part, test in {**RUN_ELSEWHERE, **NOT_RUN}.items() if part in line), None)


def is_run_here(command: Command) -> bool:
    """Tell whether a command is run here: ours, of a page, and whole."""
    is_ours = command.words[0] in ("mae-ast", "fairseq-hydra-train") and command.place.split(":")[0].endswith(".md")
    return is_ours and not elsewhere(command) and (not command.in_prose or is_whole(command.words))


def is_whole(words: tuple[str, ...]) -> bool:
    """Tell whether prose has all of a command, of which it may also show the name or the form alone."""
    if len(words) < 3 or any(re.fullmatch("[A-Z]+", word) for word in words):
        return False
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            return bool(cli._build_parser(words[1:]).parse_args(words[1:]))
        except SystemExit:
            return False


def run(command: Command, monkeypatch: pytest.MonkeyPatch) -> int | str | None:
    """Run a command, its training cut short, and return its exit code."""
    program, *words = map(filled, command.words)
    is_training = program == "fairseq-hydra-train" or words[0] == "train"
    if is_training:
        words += [*QUICK, *(() if any("model.pretrained=" in word for word in words) else SIZES)]
    try:
        if program == "mae-ast":
            return cli.main(words)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", [program, *words])
            hydra_train.cli_main()
        return 0
    except SystemExit as exited:
        return exited.code


def test_the_commands_of_all_pages_run_one_after_another(home, monkeypatch, capsys):
    for command in (command for page in PAGES for command in commands_of(page) if is_run_here(command)):
        with hydra_left_as_it_was():
            code = run(command, monkeypatch)
        assert code == 0, f"{command.place}: {' '.join(command.words)}\n{capsys.readouterr().err}"
        for name, value in zip(command.words, command.words[1:], strict=False):
            assert name != "--out" or (home / filled(value)).exists(), command
            if found := re.fullmatch(r"hydra\.run\.dir=(.+)", value):
                assert (home / found[1] / "checkpoints" / "checkpoint_best.pt").is_file(), command
    for block in (block for page in PAGES for block in python_of(page)):
        if not any("adapters" in line for line in block.lines):  # whose tools tests/test_evaluating.py does without
            run_python(block)


def run_python(block: Text) -> None:
    """Run what a page shows in Python, on the checkpoint that the commands have trained."""
    code = re.sub(r'"[^"]*checkpoint_best\.pt"', '"runs/a/checkpoints/checkpoint_best.pt"', "\n".join(block.lines))
    lengths = {"waveform": (2, 16_000), "waveform_a": (9_000,), "waveform_b": (16_000,)}
    names = {"torch": torch, **{name: torch.randn(length) for name, length in lengths.items()}}
    exec(compile(code, block.place, "exec"), names)  # what stands in our own page
    assert {"encoded", "features"} & names.keys(), block
    assert all(value.isfinite().all() for value in names.values() if isinstance(value, torch.Tensor)), block


def test_each_command_is_run_or_its_test_is_named():
    run_here = {name_of(command) for command in ALL if is_run_here(command)}
    for command in ALL:
        # What prose names and --help shows is parsed; the same command is run with the arguments of a page.
        assert elsewhere(command) or name_of(command) in {*run_here, *RUN_ELSEWHERE, *FOREIGN}, command


def name_of(command: Command) -> str:
    return " ".join(command.words[: 2 if command.words[0] == "mae-ast" else 1])


def test_the_tests_that_are_named_are_there():
    texts = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py"))
    assert [test for test in RUN_ELSEWHERE.values() if f"def {test}(" not in texts] == []


def test_the_tables_have_nothing_that_is_documented_no_longer():
    lines = [" ".join(command.words) for command in ALL]
    for part in (*RUN_ELSEWHERE, *NOT_RUN):
        assert any(part in line for line in lines), part
    assert {command.words[0] for command in ALL} >= FOREIGN
