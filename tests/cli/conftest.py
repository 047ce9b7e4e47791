"""What the tests of commands share."""

from collections.abc import Callable

import pytest

from mae_ast_fairseq.cli import main


@pytest.fixture
def refusal(capsys) -> Callable[..., str]:
    """A function that runs a command and returns the one line with which it refuses."""

    def run(command: str, *argv: object) -> str:
        try:
            code = main([command, *map(str, argv)])
        except SystemExit as stopped:  # by argparse
            code = stopped.code
        printed, err = capsys.readouterr()
        err = err.rsplit("\r", 1)[-1]  # what stands behind a progress bar
        assert (code, printed) == (2, "")
        assert err.startswith(f"mae-ast {command}: ")
        assert err.count("\n") == 1
        return err.removeprefix(f"mae-ast {command}: ")

    return run
