"""What checkpoints are called: files, folders, models on the hub, of which a cache is faked and none is fetched."""

import json
from pathlib import Path

import httpx2
import huggingface_hub
import pytest
import torch
from huggingface_hub import constants, errors
from hypothesis import given, settings
from hypothesis import strategies as st

import mae_ast_fairseq
from mae_ast_fairseq import extras
from mae_ast_fairseq.checkpoints import names
from mae_ast_fairseq.checkpoints.folder import export_folder
from mae_ast_fairseq.checkpoints.names import BUNDLED, CONFIG, WEIGHTS, checkpoint_path
from mae_ast_fairseq.checkpoints.read import read_checkpoint
from mae_ast_fairseq.cli import main
from mae_ast_fairseq.errors import CheckpointError, ConfigError
from tests.checkpoints.test_read import save_tiny_checkpoint

COMMITS = {"main": "a" * 40, "v1": "b" * 40}


def put_into_cache(cache: Path, name: str, revision: str = "main", **fields) -> Path:
    """Put a tiny model into a cache of huggingface_hub as if it had been fetched; return the folder of the revision."""
    model = cache / f"models--{name.replace('/', '--')}"
    folder = model / "snapshots" / COMMITS[revision]
    folder.mkdir(parents=True)
    (model / "refs").mkdir(exist_ok=True)
    (model / "refs" / revision).write_text(COMMITS[revision])
    export_folder(read_checkpoint(save_tiny_checkpoint(cache / "tiny.pt", **fields)), folder)
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of huggingface_hub, empty, in a process that is offline and whose folder is an empty one."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def refusal(name: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        checkpoint_path(name)
    assert str(caught.value).startswith(f"{name}: ")
    return str(caught.value)


def test_a_model_in_the_cache_is_read_by_its_name(cache: Path) -> None:
    folder = put_into_cache(cache, "somebody/some.model-1")
    assert checkpoint_path("somebody/some.model-1") == folder / WEIGHTS
    encoder = mae_ast_fairseq.load_pretrained("somebody/some.model-1")
    expected = mae_ast_fairseq.load_pretrained(cache / "tiny.pt")
    waveform = torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0)) * 0.1
    assert encoder(waveform).equal(expected(waveform))


def test_a_revision_follows_the_name(cache: Path) -> None:
    put_into_cache(cache, "somebody/model", encoder_layers=1)
    older = put_into_cache(cache, "somebody/model", "v1", encoder_layers=3)
    assert read_checkpoint("somebody/model@v1").model.encoder_layers == 3
    assert read_checkpoint("somebody/model").model.encoder_layers == 1
    assert checkpoint_path(f"somebody/model@{COMMITS['v1']}") == older / WEIGHTS


def test_commands_and_fine_tuning_take_the_name(cache: Path, corpus: Path, capsys) -> None:
    put_into_cache(cache, "somebody/model")
    assert main(["extract", "somebody/model", str(corpus / "00.wav"), "--out", "features", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_clips"] == 1
    assert main(["export", "somebody/model", "--to", "s3prl", "--out", "a.pt"]) == 0
    assert main(["average", "somebody/model", str(cache / "tiny.pt"), "--out", "b.pt"]) == 0
    assert read_checkpoint("b.pt").state.keys() == read_checkpoint("a.pt").state.keys()


def test_a_folder_or_file_of_the_name_comes_first(cache: Path, tmp_path: Path) -> None:
    put_into_cache(cache, "somebody/model")
    own = Path("somebody/model")
    own.mkdir(parents=True)
    assert checkpoint_path("somebody/model") == own  # a folder of something else
    export_folder(read_checkpoint(cache / "tiny.pt"), own)
    assert checkpoint_path("somebody/model") == own / WEIGHTS
    assert checkpoint_path(own.resolve()) == own.resolve() / WEIGHTS


@pytest.mark.parametrize(
    "name", ["runs/checkpoint_best.pt", "a/b.safetensors", "a/b/c", "/a/b", "../a/b", "a//b", "a@b/c"]
)
def test_what_looks_like_a_file_is_never_sought_on_the_hub(cache: Path, monkeypatch, name: str) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("sought"))
    assert checkpoint_path(name) == Path(name)
    with pytest.raises(CheckpointError, match="there is no such file"):
        read_checkpoint(name)


def test_a_name_in_a_folder_that_is_here_is_never_sought_on_the_hub(cache: Path, monkeypatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("sought"))
    Path("runs").mkdir()
    with pytest.raises(CheckpointError, match="runs/misspelt: there is no such file"):
        read_checkpoint("runs/misspelt")


@given(st.text(max_size=300) | st.from_regex(r"[\w./@-]{1,40}", fullmatch=True))
@settings(deadline=None)
def test_no_text_is_a_traceback_and_what_is_sought_is_a_user_and_a_model(text: str) -> None:
    sought = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(names, "_fetch", lambda name, model, revision: sought.append((model, revision)) or Path(name))
        assert checkpoint_path(text) in (Path(text), Path(text) / WEIGHTS, *BUNDLED.values())
    for model, revision in sought:
        assert model.count("/") == 1
        assert text == (model if revision is None else f"{model}@{revision}")


# --- what cannot be had


def test_what_is_not_in_the_cache_is_one_line_without_network(cache: Path, capsys) -> None:
    assert "there is no such file or folder, and the hub gives no model" in refusal("nobody/nothing")
    assert main(["predict", "nobody/nothing", "a.wav"]) == 2
    assert capsys.readouterr().err.startswith("mae-ast predict: nobody/nothing: there is no such file or folder")


def response(code: int) -> httpx2.Response:
    return httpx2.Response(code, request=httpx2.Request("GET", "https://huggingface.co"))


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (errors.RepositoryNotFoundError("404\n\nNot Found", response=response(404)), "or it is private"),
        (errors.GatedRepoError("403", response=response(403)), "asks for its terms to be accepted"),
        (errors.RevisionNotFoundError("404", response=response(404)), "has no revision 'v9'"),
        (errors.LocalEntryNotFoundError("not in\n the cache."), "(not in the cache.)"),
        (errors.HfHubHTTPError("500 down", response=response(500)), "(500 down)"),
        (errors.HFValidationError("bad name"), "(bad name)"),
        (httpx2.ConnectError(""), "(ConnectError)"),
        (OSError(28, "No space left on device"), "No space left"),
    ],
)
def test_what_the_hub_refuses_is_one_line(cache: Path, monkeypatch, error: Exception, found: str) -> None:
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    assert found in refusal("somebody/model@v9")


def test_without_huggingface_hub_it_says_how_to_install_it(cache: Path, monkeypatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"somebody/model: no file .*pip install 'mae_ast_fairseq\[hub\]'"):
        checkpoint_path("somebody/model")


def test_no_more_than_weights_and_config_is_fetched(cache: Path, monkeypatch) -> None:
    asked = {}
    folder = put_into_cache(cache, "somebody/model")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **how: asked.update({name: how}) or folder)
    assert checkpoint_path("other/model@v1") == folder / WEIGHTS
    assert asked == {"other/model": {"revision": "v1", "allow_patterns": [WEIGHTS, CONFIG]}}


def test_a_model_of_pickles_alone_is_refused_unread(cache: Path) -> None:
    folder = put_into_cache(cache, "somebody/model")
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    assert f"has no {WEIGHTS}" in refusal("somebody/model")


def test_weights_that_are_a_pickle_are_still_read_without_trust(cache: Path) -> None:
    folder = put_into_cache(cache, "somebody/model")
    (folder / WEIGHTS).write_bytes(b"\x80\x04cposix\nsystem\n(S'false'\ntR.")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: "):
        read_checkpoint("somebody/model")


def test_a_model_of_another_program_is_refused(cache: Path) -> None:
    folder = put_into_cache(cache, "somebody/model")
    (folder / CONFIG).write_text('{"model_type": "audio-spectrogram-transformer"}')
    with pytest.raises(CheckpointError, match="another program"):
        read_checkpoint("somebody/model")
