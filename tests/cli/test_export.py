"""`mae-ast export` from one file to another, and its errors."""

import json
import os
import subprocess
import sys

import pytest
import torch

from mae_ast_fairseq.checkpoints.export import LAYOUTS
from mae_ast_fairseq.checkpoints.read import read_checkpoint
from mae_ast_fairseq.cli import main
from tests.checkpoints.test_read import save_tiny_checkpoint


@pytest.fixture
def source(tmp_path):
    """A checkpoint of a tiny model, alone in its folder."""
    return save_tiny_checkpoint(tmp_path / "checkpoint_best.pt")


def _run(capsys, *argv):
    assert main(["export", *map(str, argv)]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_was_written_can_be_read_and_is_summed_up(source, tmp_path, capsys, layout):
    out = tmp_path / "copy"
    lines = _run(capsys, source, "--to", layout, "--out", out).splitlines()
    assert lines[0].startswith("mae_ast after 1,234 updates, ")
    assert lines[1] == f"written to {out}"
    original, copied = read_checkpoint(source).state, read_checkpoint(out).state
    assert all(value.equal(copied[key]) for key, value in original.items())


def test_json_has_the_sizes(source, tmp_path, capsys):
    out = tmp_path / "copy.safetensors"
    summary = json.loads(_run(capsys, source, "--to", "safetensors", "--out", out, "--json"))
    assert summary["num_bytes"] == out.stat().st_size
    names = ("model", "num_updates", "layout", "out", "checkpoint")
    assert [summary[name] for name in names] == ["mae_ast", 1234, "safetensors", str(out), str(source)]


def test_a_file_that_is_there_is_replaced(source, tmp_path, capsys):
    out = tmp_path / "copy.pt"
    out.write_bytes(b"old")
    _run(capsys, source, "--to", "s3prl", "--out", out)
    assert set(torch.load(out, weights_only=True)) == {"cfg", "model", "task_state"}


def test_it_needs_no_fairseq(source, tmp_path):
    code = (
        "import sys; sys.modules['fairseq'] = None; sys.argv = ['mae-ast']\n"
        "from mae_ast_fairseq.cli import main\n"
        f"sys.exit(main(['export', {str(source)!r}, '--to', 's3prl', '--out', {str(tmp_path / 'a.pt')!r}]))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)
    assert (tmp_path / "a.pt").is_file()


WEIGHT = "encoder.layers.0.fc1.weight"


def _with_weights(whole, **weights):
    return {**whole, "model": {**whole["model"], **weights}}


def _with_field(whole, field, value):
    return {**whole, "cfg": {**whole["cfg"], "model": {**whole["cfg"]["model"], field: value}}}


BAD_CONTENT = {
    f"missing: model.{WEIGHT}": lambda whole: {
        **whole,
        "model": {k: v for k, v in whole["model"].items() if k != WEIGHT},
    },
    "unexpected: model.surprise": lambda whole: _with_weights(whole, surprise=torch.ones(1)),
    f"misshapen: model.{WEIGHT}": lambda whole: _with_weights(whole, **{WEIGHT: torch.ones(2)}),
    f"NaN, infinite or without values: model.{WEIGHT}": lambda whole: _with_weights(
        whole, **{WEIGHT: whole["model"][WEIGHT] * torch.nan}
    ),
    "unknown here (surprise)": lambda whole: _with_field(whole, "surprise", 1),
    "cfg.model.dropout": lambda whole: _with_field(whole, "dropout", "${oc.env:HOME}"),
    "posix.system": lambda whole: {**whole, "args": os.system},
    "content is list": lambda whole: [whole],
}


def _refused(refusal, path):
    """Return the message, and see to it that nothing was written."""
    before = sorted(path.parent.iterdir())
    text = refusal("export", path, "--to", "safetensors", "--out", path.parent / "out")
    assert text.startswith(f"{path}: ")
    assert sorted(path.parent.iterdir()) == before
    return text


@pytest.mark.parametrize("found", BAD_CONTENT)
def test_bad_content_is_one_message_and_nothing_is_written(source, tmp_path, refusal, found):
    torch.save(BAD_CONTENT[found](torch.load(source, weights_only=True)), tmp_path / "bad.pt")
    assert found in _refused(refusal, tmp_path / "bad.pt")


def test_what_is_no_checkpoint_is_one_message_and_nothing_is_written(source, tmp_path, refusal):
    assert "no such file" in _refused(refusal, tmp_path / "missing.pt")
    (tmp_path / "folder").mkdir()
    assert "Is a directory" in _refused(refusal, tmp_path / "folder")
    (tmp_path / "text").write_text("no checkpoint at all")
    assert "this is not a checkpoint" in _refused(refusal, tmp_path / "text")
    (tmp_path / "cut.pt").write_bytes(source.read_bytes()[:-100])
    assert "the file is truncated" in _refused(refusal, tmp_path / "cut.pt")


def test_an_unknown_field_may_be_ignored(source, tmp_path):
    whole = torch.load(source, weights_only=True)
    torch.save(_with_field(_with_field(whole, "surprise", 1), "window", 2), tmp_path / "fork.pt")
    options = ["--ignore-unknown", "surprise", "--ignore-unknown", "window"]
    out = str(tmp_path / "out.safetensors")
    assert main(["export", str(tmp_path / "fork.pt"), "--to", "safetensors", "--out", out, *options]) == 0
    assert read_checkpoint(out).state.keys() == read_checkpoint(source).state.keys()


def test_the_checkpoint_itself_is_not_overwritten(source, tmp_path, refusal):
    before = source.read_bytes()
    (tmp_path / "link.pt").symlink_to(source)
    for out in (source, tmp_path / "link.pt", tmp_path / "." / source.name):
        assert "this is the checkpoint itself" in refusal("export", source, "--to", "s3prl", "--out", out)
    assert source.read_bytes() == before


@pytest.mark.parametrize(("out", "found"), [("", "this is a folder"), ("checkpoint_best.pt/a.pt", "cannot be made")])
def test_an_out_that_cannot_be_written_is_refused(source, tmp_path, refusal, out, found):
    assert found in refusal("export", source, "--to", "s3prl", "--out", tmp_path / out)


@pytest.mark.parametrize("layout", ["s3prl", "huggingface"])
def test_folders_that_are_missing_are_made(source, tmp_path, capsys, layout):
    out = tmp_path / "new" / "and newer"
    _run(capsys, source, "--to", layout, "--out", out)
    assert read_checkpoint(out).state.keys() == read_checkpoint(source).state.keys()


def test_a_folder_for_the_hub_is_summed_up_and_may_be_exported_again(source, tmp_path, capsys, refusal):
    out = tmp_path / "model"
    summary = json.loads(_run(capsys, source, "--to", "huggingface", "--out", out, "--json"))
    assert summary["num_bytes"] == sum(path.stat().st_size for path in out.iterdir())
    assert summary["layout"] == "huggingface"
    for name in (out, out / "model.safetensors"):
        message = refusal("export", name, "--to", "huggingface", "--out", out)
        assert "this is the checkpoint itself" in message
        _run(capsys, name, "--to", "released", "--out", tmp_path / "back.pt")
        assert read_checkpoint(tmp_path / "back.pt").num_updates == 1234


def test_a_file_where_the_folder_for_the_hub_should_be_is_named(source, tmp_path, refusal):
    (tmp_path / "file").write_text("")
    assert "file: cannot be made" in refusal("export", source, "--to", "huggingface", "--out", tmp_path / "file")


def test_a_full_disk_is_a_message_and_leaves_nothing(source, tmp_path, refusal, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    text = refusal("export", source, "--to", "s3prl", "--out", tmp_path / "a.pt")
    assert f"--out {tmp_path / 'a.pt'}: cannot be written (No space left on device)" in text
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(("option", "known"), [("--to=onnx", LAYOUTS), ("--precision=int8", ["bfloat16"])])
def test_an_unknown_choice_is_named_with_the_known_ones(source, tmp_path, capsys, option, known):
    with pytest.raises(SystemExit, match="2"):
        main(["export", str(source), "--to", "s3prl", "--out", str(tmp_path / "a"), option])
    err = capsys.readouterr().err
    assert all(name in err for name in [*option.split("="), *known])
