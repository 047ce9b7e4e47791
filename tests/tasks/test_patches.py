"""What is patched in fairseq: whole files, checkpoints that several processes read, and runs that are finished."""

import errno
import shutil
import subprocess
import sys

import fairseq
import pytest
import torch
from fairseq import checkpoint_utils, utils
from fairseq.distributed import utils as distributed_utils
from omegaconf import OmegaConf

from mae_ast_fairseq.tasks import patches
from mae_ast_fairseq.training_error import TrainingError
from tests.training import SMALL, train

STATE = {"model": {"weight": torch.arange(1_000.0)}}


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    monkeypatch.setattr(patches, "PAUSE_SECONDS", 0)
    patches.install()


def full_disk(times):
    """Return a torch.save that writes some bytes and finds the disk full, so many times."""
    left = [times]

    def save(state, stream):
        if left[0]:
            left[0] -= 1
            stream.write(b"PK garbage")
            raise OSError(errno.ENOSPC, "No space left on device")
        return torch_save(state, stream)

    torch_save = torch.save
    return save


def test_a_disk_that_was_full_for_a_moment_leaves_a_whole_file(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "save", full_disk(times=2))
    checkpoint_utils.torch_persistent_save(STATE, str(tmp_path / "a.pt"))
    assert torch.equal(torch.load(tmp_path / "a.pt")["model"]["weight"], STATE["model"]["weight"])


def test_a_disk_that_stays_full_leaves_the_former_file_and_one_line(tmp_path, monkeypatch):
    (tmp_path / "a.pt").write_bytes(b"former")
    monkeypatch.setattr(torch, "save", full_disk(times=3))
    with pytest.raises(TrainingError, match=r"a\.pt: .*No space left on device"):
        checkpoint_utils.torch_persistent_save(STATE, str(tmp_path / "a.pt"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]
    assert (tmp_path / "a.pt").read_bytes() == b"former"


def test_a_file_without_its_directory_is_not_put_in_the_place_of_one(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "save", lambda state, stream: stream.write(b"PK\3\4 and no more"))
    with pytest.raises(TrainingError, match=r"a\.pt"):
        checkpoint_utils.torch_persistent_save(STATE, str(tmp_path / "a.pt"))
    assert not list(tmp_path.iterdir())


def test_a_copy_too_is_tried_again_where_the_disk_was_full_for_a_moment(tmp_path, monkeypatch):
    (tmp_path / "new.pt").write_bytes(b"new")
    left, copy = [errno.ENOSPC] * 2, shutil.copyfileobj

    def full(source, target, length):
        copy(source, target, length)
        if left:
            raise OSError(left.pop(), "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    assert checkpoint_utils.PathManager.copy(str(tmp_path / "new.pt"), str(tmp_path / "last.pt"), overwrite=True)
    assert (tmp_path / "last.pt").read_bytes() == b"new"
    left += [errno.ENOSPC] * 3
    with pytest.raises(TrainingError, match=r"last\.pt: .*No space left on device"):
        checkpoint_utils.PathManager.copy(str(tmp_path / "new.pt"), str(tmp_path / "last.pt"), overwrite=True)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_copy_that_fails_leaves_the_former_file(tmp_path, monkeypatch):
    (tmp_path / "new.pt").write_bytes(b"new")
    (tmp_path / "checkpoint_last.pt").write_bytes(b"former")
    copy = checkpoint_utils.PathManager.copy

    def killed(source, target, length):
        target.write(b"ne")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfileobj", killed)
        with pytest.raises(KeyboardInterrupt):
            copy(str(tmp_path / "new.pt"), str(tmp_path / "checkpoint_last.pt"), overwrite=True)
    assert (tmp_path / "checkpoint_last.pt").read_bytes() == b"former"
    assert copy(str(tmp_path / "new.pt"), str(tmp_path / "checkpoint_last.pt"), overwrite=True)
    assert (tmp_path / "checkpoint_last.pt").read_bytes() == b"new"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_config_is_sent_as_plain_values():
    sent = []
    send = patches._broadcast_plain(lambda value, *args: sent.append(value))
    send({"cfg": OmegaConf.create({"model": {"width": 1}}), "epoch": 1}, 0)
    assert sent == [{"cfg": {"model": {"width": 1}}, "epoch": 1}]
    assert type(sent[0]["cfg"]["model"]) is dict


def test_another_version_is_left_alone_and_said(monkeypatch, caplog):
    monkeypatch.setattr(fairseq, "__version__", "1.0")
    monkeypatch.setattr(distributed_utils, "_broadcast_object_slow", original := lambda *args: None)
    patches.install()
    assert distributed_utils._broadcast_object_slow is original
    assert "fairseq 1.0 is not patched" in caplog.text


def test_a_finished_run_does_no_update_more(corpus, tmp_path, caplog):
    def run(max_update):
        settings = (
            f"checkpoint.save_dir={tmp_path}",
            "checkpoint.no_save=false",
            f"optimization.max_update={max_update}",
        )
        return len(train("mae_ast_tiny", f"task.data={corpus}", *SMALL, *settings).losses)

    assert run(3) == 3
    before = (tmp_path / "checkpoint_last.pt").read_bytes()
    caplog.set_level("INFO")
    assert run(3) == 0
    assert "this run is finished: 3 of optimization.max_update=3" in caplog.text
    assert (tmp_path / "checkpoint_last.pt").read_bytes() == before
    assert run(5) == 2


def gradients(*shapes):
    draws = torch.Generator().manual_seed(0)
    weights = [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]
    for weight in weights:
        weight.grad = torch.randn(weight.shape, generator=draws)
    return weights


@pytest.mark.parametrize("max_norm", [0.0, 2.0, 1e9])
def test_gradients_are_clipped_as_fairseq_does(monkeypatch, max_norm):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    ours, theirs = gradients((7, 5), (3,), (11,)), gradients((7, 5), (3,), (11,))
    norm = utils.clip_grad_norm_(ours, max_norm)
    assert float(norm) == pytest.approx(float(utils.clip_grad_norm_.__wrapped__(theirs, max_norm)), rel=1e-6)
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our.grad, their.grad)


def test_a_run_on_the_cpu_clips_there_on_a_machine_with_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: "meta")
    assert utils.clip_grad_norm_(gradients((7, 5), (3,)), 2.0).device.type == "cpu"


ENDS_WHILE_READING = """
import sys, time
import torch
from fairseq.data.iterators import BufferedIterator
from mae_ast_fairseq.tasks import patches

class Endless:
    def __len__(self):
        return 1 << 30

    def __iter__(self):
        weights = torch.randn(400, 400)
        while True:
            yield [weights @ weights for _ in range(100)]

patches.install()
batches = BufferedIterator(100_000, Endless())
next(batches)
time.sleep(0.5)
sys.exit(2)
"""


def test_a_run_that_ends_while_its_reader_is_at_work_has_its_own_exit_code():
    done = subprocess.run([sys.executable, "-c", ENDS_WHILE_READING], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
