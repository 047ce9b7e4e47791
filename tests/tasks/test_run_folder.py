"""The folder of a run's checkpoints: one run at a time, and a last checkpoint that can be read."""

import os
import signal
import subprocess
import sys

import pytest
import torch

from mae_ast_fairseq.errors import CheckpointError, ConfigError
from mae_ast_fairseq.files import lock, unlock
from mae_ast_fairseq.tasks.run_folder import LOCK, prepare_run_folder


@pytest.fixture
def folder(tmp_path):
    """A folder with an old, a newer and a last checkpoint."""
    for age, name in enumerate(("checkpoint_last.pt", "checkpoint_1_20.pt", "checkpoint_1_10.pt")):
        torch.save({"model": {"weight": torch.full((5_000,), float(age))}}, tmp_path / name)
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    yield tmp_path
    unlock(tmp_path / LOCK)


def cut(path):
    path.write_bytes(path.read_bytes()[:10_000])


def flip(path):
    content = bytearray(path.read_bytes())
    content[10_000] ^= 4
    path.write_bytes(content)


def value(path):
    return float(torch.load(path)["model"]["weight"][0])


def test_an_intact_last_checkpoint_stays(folder, caplog):
    prepare_run_folder(folder)
    assert value(folder / "checkpoint_last.pt") == 0
    assert not caplog.records


@pytest.mark.parametrize("spoil", [cut, flip, lambda path: path.write_bytes(b"")])
def test_a_damaged_last_one_is_passed_over_for_the_newest_intact(folder, caplog, spoil):
    spoil(folder / "checkpoint_last.pt")
    flip(folder / "checkpoint_1_20.pt")
    prepare_run_folder(folder)
    assert value(folder / "checkpoint_last.pt") == 2
    assert "checkpoint_last.pt: " in caplog.text and "checkpoint_1_10.pt" in caplog.text
    assert (folder / "checkpoint_last.pt.damaged").is_file()


def test_a_folder_in_its_place_is_passed_over_too(folder):
    (folder / "checkpoint_last.pt").unlink()
    (folder / "checkpoint_last.pt").mkdir()
    prepare_run_folder(folder)
    assert value(folder / "checkpoint_last.pt") == 1
    assert (folder / "checkpoint_last.pt.damaged").is_dir()


def test_a_last_one_that_is_gone_is_replaced_too(folder, caplog):
    (folder / "checkpoint_last.pt").unlink()
    prepare_run_folder(folder)
    assert value(folder / "checkpoint_last.pt") == 1
    assert "checkpoint_last.pt: the file is gone" in caplog.text and "checkpoint_1_20.pt" in caplog.text
    (folder / "checkpoint_1_20.pt").unlink()  # to which a link leads now
    prepare_run_folder(folder)
    assert value(folder / "checkpoint_last.pt") == 2


def test_checkpoints_of_a_run_that_keeps_no_last_one_are_not_written_over(folder):
    (folder / "checkpoint_last.pt").unlink()
    with pytest.raises(ConfigError, match=r"no_last_checkpoints: .*checkpoint\.restore_file.*hydra\.run\.dir"):
        prepare_run_folder(folder, keeps_last=False)
    assert not (folder / "checkpoint_last.pt").exists()


def test_a_run_that_wants_no_last_one_gets_none(folder, caplog):
    (folder / "checkpoint_last.pt").unlink()
    prepare_run_folder(folder, needs_last=False)
    assert not (folder / "checkpoint_last.pt").exists()
    assert not caplog.records


def test_a_folder_without_checkpoints_is_a_new_run(tmp_path, caplog):
    prepare_run_folder(tmp_path)
    unlock(tmp_path / LOCK)
    assert not list(tmp_path.iterdir())
    assert not caplog.records


def test_what_a_killed_run_was_writing_is_removed(folder):
    for name in (".checkpoint_1_21.pt.77.tmp", ".checkpoint_last.pt.78.tmp", ".mine.tmp"):
        (folder / name).write_bytes(b"PK")
    prepare_run_folder(folder)
    assert [path.name for path in folder.glob(".*.tmp")] == [".mine.tmp"]


def test_where_none_is_intact_it_is_one_line(folder):
    for path in folder.glob("*.pt"):
        cut(path)
    with pytest.raises(CheckpointError, match=r"checkpoint_last\.pt: .*truncated"):
        prepare_run_folder(folder)
    assert (folder / "checkpoint_last.pt").is_file()


HOLD = "import os, sys, time; from pathlib import Path; from mae_ast_fairseq.files import lock; " \
    "lock(Path(sys.argv[1]) / '.lock'); os.write(1, b'held\\n'); time.sleep(60)"  # fmt: skip


def test_a_second_process_is_told_who_is_in_the_folder_and_a_killed_one_is_no_obstacle(tmp_path):
    first = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE)
    assert first.stdout.readline() == b"held\n"
    with pytest.raises(ConfigError, match=f"in use by process {first.pid} on "):
        lock(tmp_path / LOCK)
    first.kill()
    first.wait()
    lock(tmp_path / LOCK)
    unlock(tmp_path / LOCK)


def test_a_child_does_not_hold_the_folder_beyond_its_parent(tmp_path):
    forking = HOLD.replace("os.write(", "os.fork() or (os.write(1, b'forked\\n'), time.sleep(60)); os.write(", 1)
    first = subprocess.Popen([sys.executable, "-c", forking, tmp_path], stdout=subprocess.PIPE, start_new_session=True)
    assert {first.stdout.readline(), first.stdout.readline()} == {b"held\n", b"forked\n"}
    first.kill()
    first.wait()
    lock(tmp_path / LOCK)
    unlock(tmp_path / LOCK)
    os.killpg(first.pid, signal.SIGKILL)
