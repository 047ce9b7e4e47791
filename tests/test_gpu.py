"""What only a GPU shows: its losses beside the CPU's, no waiting in a step, fused attention, whole runs, commands."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from fairseq import utils
from torch.nn.attention import SDPBackend, sdpa_kernel

from mae_ast_fairseq.cli import main
from mae_ast_fairseq.inference.encoder import load_pretrained
from mae_ast_fairseq.optim.fused_adam import FusedAdam, FusedAdamConfig
from tests.finetuning import finetune, pretrained, write_tones
from tests.test_meta_device import LENGTHS, MODELS, criterion_for, sample_for, step
from tests.tiny import tiny_autoencoder
from tests.training import EXAMPLES, SMALL, train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here"),
]
FUSED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION]
PRECISIONS = {
    "float32": ("common.fp16=false", "common.bf16=false"),
    "bfloat16": ("common.fp16=false", "common.bf16=true"),
    "float16": ("common.fp16=true", "common.bf16=false", "common.fp16_init_scale=128"),
    "autocast": ("common.fp16=false", "common.bf16=false", "common.amp=true", "common.fp16_init_scale=128"),
}
NO_LAYER_DROP = ("model.encoder_layerdrop=0", "model.decoder_layerdrop=0")


def on_gpu(sample):
    moved = utils.move_to_cuda(sample)
    if "target" in moved:
        moved["target"] = copy.copy(sample["target"])
        moved["target"].plain = sample["target"].plain.cuda()
    return moved


def in_evaluation(model, sample):
    """Return loss and gradients of a batch without anything drawn."""
    loss, _, _ = criterion_for(model)(model.eval(), sample)
    loss.backward()
    return loss.item(), {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("kind", MODELS)
def test_losses_and_gradients_are_those_of_the_cpu(kind, lengths):
    model = MODELS[kind]()
    sample = sample_for(model, lengths)
    loss, gradients = in_evaluation(copy.deepcopy(model), sample)
    gpu_loss, gpu_gradients = in_evaluation(model.cuda(), on_gpu(sample))
    assert gpu_loss == pytest.approx(loss, rel=1e-5)
    assert gpu_gradients.keys() == gradients.keys()
    noise = 1e-6 * float(sum(gradient.square().sum() for gradient in gradients.values()).sqrt())
    for name, gradient in gradients.items():  # that of k_proj.bias is 0: softmax does not see it
        error = (gpu_gradients[name] - gradient).norm()
        assert float(error) <= 1e-3 * float(gradient.norm()) + noise, name


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", MODELS)
def test_a_training_step_never_waits_for_the_device(kind, dtype, lengths):
    model = MODELS[kind]()
    sample = on_gpu(sample_for(model, lengths))
    model = model.to("cuda", dtype)
    optimizer = FusedAdam(FusedAdamConfig(lr=[1e-4]), list(model.parameters()))
    step(model, sample)  # what is made once may wait
    optimizer.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(model, sample)
        optimizer.step()
        model.zero_grad(set_to_none=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_attention_is_fused(dropout, dtype, lengths):
    heads = {"encoder_attention_heads": 3, "decoder_attention_heads": 3}  # of width 16: fused ones take multiples of 8
    model = tiny_autoencoder(attention_dropout=dropout, **heads)
    sample = on_gpu(sample_for(model, lengths))
    with sdpa_kernel(FUSED):  # without plain products, attention that cannot be fused raises
        step(model.to("cuda", dtype), sample)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_run_has_the_losses_of_the_cpu(corpus, precision):
    def losses(*overrides):
        settings = (*SMALL, *NO_LAYER_DROP, "optimization.max_update=12", "lr_scheduler.warmup_updates=4")
        return train("mae_ast_tiny", f"task.data={corpus}", *settings, *overrides).losses

    expected = losses("common.cpu=true", *PRECISIONS["float32"])
    found = losses("common.cpu=false", *PRECISIONS[precision])
    assert found == pytest.approx(expected, rel=1e-4 if precision == "float32" else 0.02)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_resumed_run_goes_on_as_the_uninterrupted_one(corpus, tmp_path, precision):
    def run(folder, max_update):
        return train(
            "mae_ast_tiny", f"task.data={corpus}", *SMALL, "common.cpu=false", *PRECISIONS[precision],
            f"checkpoint.save_dir={tmp_path / folder}", "checkpoint.no_save=false", "model.encoder_layerdrop=0.3",
            f"optimization.max_update={max_update}", "lr_scheduler.total_num_update=100",
        )  # fmt: skip

    uninterrupted = run("one", 22).losses
    resumed = run("two", 13).losses + run("two", 22).losses
    assert resumed == pytest.approx(uninterrupted, rel=1e-5)  # sums over threads have no fixed order


@pytest.mark.parametrize("precision", PRECISIONS)
def test_reconstructions_are_drawn_of_a_model_on_the_device(corpus, tmp_path, precision):
    train(
        "mae_ast_tiny", f"task.data={corpus}", *SMALL, "common.cpu=false", *PRECISIONS[precision],
        f"checkpoint.save_dir={tmp_path}", "task.log_reconstructions=1",
    )  # fmt: skip
    assert [path.name.split("_")[-1] for path in tmp_path.glob("pictures/*")] == ["update0000004.png"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_fine_tuning_learns(tmp_path, precision):
    data = write_tones(tmp_path)
    run = finetune(
        data, "common.cpu=false", *PRECISIONS[precision], f"model.pretrained={pretrained(tmp_path / 'p.pt')}",
        "optimization.max_update=60", "optimization.lr=[0.003]", "lr_scheduler.warmup_updates=5",
    )  # fmt: skip
    assert sum(run.losses[-5:]) < 0.8 * sum(run.losses[:5])


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_command_trains_with_workers_and_goes_on(corpus, tmp_path, precision):
    for updates in (3, 6):
        done = subprocess.run(
            [
                sys.executable, "-m", "fairseq_cli.hydra_train", "--config-dir", EXAMPLES, "--config-name",
                "mae_ast_tiny", f"task.data={corpus}", f"hydra.run.dir={tmp_path}", *SMALL, *PRECISIONS[precision],
                "common.cpu=false", "common.log_interval=1", "common.log_format=simple",
                f"optimization.max_update={updates}", "dataset.num_workers=2", "lr_scheduler.total_num_update=100",
            ],
            cwd=EXAMPLES.parent, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
    output = done.stderr + done.stdout
    assert "num_updates=4" in output and "num_updates=3," not in output
    assert "num_updates=6" in output


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_features_are_those_of_the_cpu(tmp_path, precision):
    path = pretrained(tmp_path / "p.pt")
    waveforms = [torch.sin(torch.arange(n) / 7) * 0.3 for n in (16_000, 9_000, 30_000)]
    expected = load_pretrained(path).encode(waveforms)
    found = load_pretrained(path, "cuda", precision).encode(waveforms)
    keep = ~expected.token_padding_mask
    error = (found.features.float().cpu() - expected.features)[keep].norm() / expected.features[keep].norm()
    assert float(error) < {"float32": 1e-4, "bfloat16": 3e-2, "float16": 5e-3}[precision]
    assert torch.equal(found.frame_seconds.cpu(), expected.frame_seconds)


def test_the_commands_take_the_device(corpus, tmp_path):
    path = pretrained(tmp_path / "p.pt")
    for device in ("cpu", "cuda"):
        out = tmp_path / device
        assert (
            main(["extract", str(path), "--manifest", str(corpus / "valid.tsv"), "--out", str(out), "--device", device])
            == 0
        )
        assert main(["reconstruct", str(path), str(corpus / "00.wav"), "--out", str(out), "--device", device]) == 0
    files = sorted(file.relative_to(tmp_path / "cpu") for file in (tmp_path / "cpu").rglob("*") if file.is_file())
    assert files == sorted(
        file.relative_to(tmp_path / "cuda") for file in (tmp_path / "cuda").rglob("*") if file.is_file()
    )


def test_the_benchmark_measures_the_device(capsys):
    sizes = ["--rounds", "2", "--batch-size", "2", "--seconds", "1", "--updates", "2", *(f"--set={s}" for s in SMALL)]
    assert main(["benchmark", "mae_ast_tiny", "--device", "cuda", "--json", *sizes]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["machine"]["device"] == torch.cuda.get_device_name()
    row = result["rows"][0]
    assert row["time"]["update"]["median"] > 0
    assert row["memory"]["step_bytes"] > 0
