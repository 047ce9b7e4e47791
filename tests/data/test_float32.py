import copy
import pickle
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from fairseq import utils

from mae_ast_fairseq.data.float32 import Float32Tensor


@pytest.fixture
def tensor():
    return Float32Tensor.of(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("kind", [torch.half, torch.bfloat16])
def test_the_trainers_cast_leaves_it_float32(tensor, kind):
    # what Trainer._fp_convert_sample does to a batch
    cast = utils.apply_to_sample(
        lambda t: t.to(dtype=kind) if t.dtype is torch.float32 else t, {"net_input": {"source": tensor}}
    )
    assert cast["net_input"]["source"].dtype is torch.float32
    assert torch.equal(cast["net_input"]["source"].plain, tensor.plain)


def test_moving_it_keeps_it_what_it_is(tensor):
    moved = tensor.to(device="meta", non_blocking=True)
    assert isinstance(moved, Float32Tensor)
    assert moved.device.type == "meta"
    assert isinstance(moved.to(torch.float16), Float32Tensor)


def test_operations_give_plain_tensors(tensor):
    assert type(tensor * 2) is torch.Tensor
    assert type(tensor.plain) is torch.Tensor


def test_crosses_to_another_process_in_shared_memory(tensor):
    arrived = pickle.loads(ForkingPickler.dumps(tensor))
    assert isinstance(arrived, Float32Tensor)
    assert arrived.is_shared()
    assert torch.equal(arrived.plain, tensor.plain)


def test_copies_as_other_tensors_do(tensor):
    for copied in (copy.deepcopy({"source": tensor})["source"], tensor.to("cpu", copy=True)):
        assert isinstance(copied, Float32Tensor)
        assert torch.equal(copied.plain, tensor.plain)
        assert copied.data_ptr() != tensor.data_ptr()


def test_is_saved_as_a_plain_tensor(tensor, tmp_path):
    torch.save({"source": tensor}, tmp_path / "batch.pt")
    loaded = torch.load(tmp_path / "batch.pt", weights_only=True)["source"]
    assert type(loaded) is torch.Tensor
    assert torch.equal(loaded, tensor.plain)


def test_wrapping_does_not_copy():
    plain = torch.zeros(2)
    assert Float32Tensor.of(plain).data_ptr() == plain.data_ptr()
