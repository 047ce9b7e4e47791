import argparse
import json

import pytest
import torch

from mae_ast_fairseq.checkpoints.read import read_checkpoint
from mae_ast_fairseq.cli import average
from mae_ast_fairseq.errors import ConfigError
from tests.finetuning import pretrained


def run(*arguments):
    parser = argparse.ArgumentParser()
    average.add_arguments(parser)
    return average.run(parser.parse_args([str(argument) for argument in arguments]))


@pytest.mark.parametrize("json_option", [[], ["--json"]])
def test_the_mean_of_one_is_that_one(tmp_path, capsys, json_option):
    file, out = pretrained(tmp_path / "a.pt"), tmp_path / "mean.pt"
    assert run(file, file, "--out", out, *json_option) == 0
    expected = read_checkpoint(file).state
    assert all(torch.equal(value, expected[name]) for name, value in read_checkpoint(out).state.items())
    text = capsys.readouterr().out
    if json_option:
        assert json.loads(text) == {"checkpoints": [str(file)] * 2, "model": "mae_ast", "out": str(out)}
    else:
        assert text == f"mae_ast: the mean of 2 checkpoints\nwritten to {out}\n"


@pytest.mark.parametrize("out", ["a.pt", "a.pt/mean.pt", "."])
def test_a_file_that_cannot_be_written_is_named(tmp_path, out):
    file = pretrained(tmp_path / "a.pt")
    before = file.read_bytes()
    with pytest.raises(ConfigError, match="--out "):
        run(file, "--out", tmp_path / out)
    assert file.read_bytes() == before
