"""The command's frame: choosing a subcommand, exit codes, messages."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mae_ast_fairseq
from mae_ast_fairseq import cli
from mae_ast_fairseq.errors import ConfigError

MODULE = """
EXAMPLE = "mae-ast probe --depth 3"
def add_arguments(parser):
    parser.add_argument("--depth", type=int, default=1)
def run(args):
    return args.depth
"""


@pytest.fixture
def command(tmp_path, monkeypatch):
    """A subcommand `probe` whose run is set by the test."""
    (tmp_path / "probe_command.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "probe_command", raising=False)
    module = importlib.import_module("probe_command")
    monkeypatch.setitem(sys.modules, "mae_ast_fairseq.cli.probe", module)
    monkeypatch.setitem(cli.COMMANDS, "probe", "Probe the frame.")
    return module


def _raise(error):
    raise error


def test_the_commands_code_is_returned(command):
    assert cli.main(["probe", "--depth", "7"]) == 7


def test_only_the_wanted_command_is_imported(command, monkeypatch):
    monkeypatch.setitem(cli.COMMANDS, "absent", "No such module.")
    assert cli.main(["probe"]) == 1


def test_a_users_error_is_one_line_and_code_2(command, capsys):
    command.run = lambda args: _raise(ConfigError("depth is 9; expected less"))
    assert cli.main(["probe"]) == 2
    assert capsys.readouterr() == ("", "mae-ast probe: depth is 9; expected less\n")


def test_an_error_of_the_code_is_not_hidden(command):
    command.run = lambda args: _raise(ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        cli.main(["probe"])


def test_an_interrupt_is_code_130(command):
    command.run = lambda args: _raise(KeyboardInterrupt)
    assert cli.main(["probe"]) == 130


@pytest.mark.parametrize("argv", [[], ["nonsense"], ["probe", "--depth", "deep"]])
def test_wrong_arguments_are_code_2(command, argv):
    with pytest.raises(SystemExit) as exited:
        cli.main(argv)
    assert exited.value.code == 2


def test_help_lists_every_command(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--help"])
    text = capsys.readouterr().out
    assert "Probe the frame." in text
    assert "manifest" in text


def test_help_of_a_command_shows_its_example(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["probe", "--help"])
    assert "  mae-ast probe --depth 3\n" in capsys.readouterr().out


def test_the_version_is_the_packages(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"mae-ast {mae_ast_fairseq.__version__}\n"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_what_the_frame_asks_for(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main([name, "--help"])
    assert "example:\n  mae-ast " in capsys.readouterr().out


def test_a_reader_that_left_is_met_with_silence():
    code = "import sys; sys.argv[0] = 'mae-ast'\nfrom mae_ast_fairseq import cli\nimport types\n"
    code += "module = types.ModuleType('m'); module.EXAMPLE = ''\n"
    code += "module.add_arguments = lambda parser: None\nmodule.run = lambda args: print('x' * 100_000) or 0\n"
    code += "sys.modules['mae_ast_fairseq.cli.m'] = module; cli.COMMANDS['m'] = 'm'; sys.exit(cli.main(['m']))"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
        cwd=Path(cli.__file__).parents[2],
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize(
    ("line", "expected"), [("mae-ast ex", {"export", "extract"}), ("mae-ast check --wor", {"--workers"})]
)
def test_the_shell_is_told_what_may_follow(tmp_path: Path, line: str, expected: set[str]) -> None:
    answer = tmp_path / "answer"
    environment = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "\n"}
    subprocess.run(
        [sys.executable, "-m", "mae_ast_fairseq.cli"],
        env={**os.environ, **environment, "_ARGCOMPLETE_STDOUT_FILENAME": str(answer)},
        check=True,
    )
    assert set(answer.read_text().split()) == expected
