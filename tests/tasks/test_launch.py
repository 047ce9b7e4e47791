from pathlib import Path

import pytest
from hydra.errors import CompactHydraException

from mae_ast_fairseq.errors import ManifestError, UserError
from mae_ast_fairseq.tasks.launch import TrainingError, data_folder, plain_errors


def test_a_persons_mistake_is_one_that_hydra_prints_without_a_traceback():
    @plain_errors
    def load():
        raise ManifestError("train.tsv:3: wrong")

    with pytest.raises(TrainingError, match=r"^train\.tsv:3: wrong$") as caught:
        load()
    assert isinstance(caught.value, CompactHydraException)
    assert isinstance(caught.value, UserError)


def test_our_own_mistakes_keep_their_traceback():
    @plain_errors
    def load():
        raise KeyError("bug")

    with pytest.raises(KeyError):
        load()


def test_relative_data_counts_from_where_the_command_was_started(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert data_folder("data") == tmp_path / "data"
    assert data_folder("/data") == Path("/data")
