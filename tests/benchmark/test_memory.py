import json
import subprocess
from typing import Any

import pytest

from mae_ast_fairseq.benchmark import limits, memory
from tests.benchmark.small import CPU, small_case, small_settings

SETTINGS = small_settings("mae_ast_patch")


@pytest.mark.slow
def test_a_process_of_its_own_measures_more_for_larger_batches() -> None:
    small, large = (
        memory.measure(small_case(batch_size=size, seconds=4.0), SETTINGS, CPU, num_threads=1) for size in (4, 32)
    )
    # Forward keeps 8 times as much; temporaries make it no more than twice what is kept.
    assert 4 < large["step_bytes"] / small["step_bytes"] < 12
    assert small["static_bytes"] == large["static_bytes"]
    assert large["peak_bytes"] > large["step_bytes"] + large["static_bytes"]


def reply(code: int, text: str = "") -> Any:
    return lambda *args, **kwargs: subprocess.CompletedProcess(args, code, text, "the reason")


def test_a_killed_process_is_an_error_of_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", reply(-9))
    assert memory.measure(small_case(), [], CPU, 1) == {"error": "not enough memory: the process was killed"}


def test_a_process_that_fails_otherwise_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", reply(1))
    with pytest.raises(RuntimeError, match="the reason"):
        memory.measure(small_case(), [], CPU, 1)


def test_the_last_line_is_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", reply(0, 'some log\n{"step_bytes": 5}\n'))
    assert memory.measure(small_case(), [], CPU, 1) == {"step_bytes": 5}


def test_a_size_that_does_not_fit_is_told_before_it_is_tried(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(limits, "available_bytes", lambda device: 1000)
    monkeypatch.setattr(memory, "_volunteer", lambda: None)
    request = {
        "case": small_case()._asdict(),
        "settings": [setting._asdict() for setting in SETTINGS],
        "device": "cpu",
        "num_threads": 1,
    }
    monkeypatch.setattr(json, "load", lambda stream: request)
    assert memory.main() == 0
    assert json.loads(capsys.readouterr().out)["error"].startswith("not enough memory: needs about ")
