"""A minute of `make chaos`."""

import json
import subprocess
import sys

import pytest

from tests.training import EXAMPLES


@pytest.mark.slow
def test_no_run_is_lost():
    command = [sys.executable, "-m", "tests.chaos", "--quick", "--json"]
    done = subprocess.run(command, cwd=EXAMPLES.parent, capture_output=True, text=True, timeout=900)
    assert done.stdout, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert not {name: row["faults"] for name, row in found["rows"].items() if row["faults"]}
    assert (done.returncode, found["lost"]) == (0, 0)
    assert found["cases"] > 12
