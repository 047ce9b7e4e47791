"""Where the features of a clip go on disk, and the record of an extraction."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.inference.extract import begin_record, mirrored_path


@given(st.text(st.sampled_from("ab./:7") | st.characters(exclude_characters="\0"), max_size=30))
def test_a_mirrored_path_never_leads_outside(text: str) -> None:
    path = mirrored_path(text)
    parts = path.split("/")
    assert not path.startswith("/")
    assert path.endswith(".npy")
    assert not {"", ".", ".."} & set(parts)


@given(st.lists(st.text("ab.", min_size=1, max_size=4).filter(lambda part: part.strip(".")), min_size=1, max_size=4))
def test_a_plain_path_is_kept_with_its_extension(parts: list[str]) -> None:
    assert mirrored_path("/".join(parts)) == "/".join(parts) + ".npy"


@pytest.mark.parametrize(
    ("path", "mirrored"),
    [
        ("a/b.wav", "a/b.wav.npy"),
        ("/data/b.flac", "data/b.flac.npy"),
        ("../../etc/b.wav", "etc/b.wav.npy"),
        ("a/./c/../b.wav", "a/b.wav.npy"),
        ("sets/speech.zip:123:4567", "sets/speech.zip/123_4567.npy"),
    ],
)
def test_paths_are_mirrored(path: str, mirrored: str) -> None:
    assert mirrored_path(path) == mirrored


@pytest.mark.parametrize(
    "content",
    [
        b"\xff" * 100_000,
        b"[" * 100_000,
        b'{"settings": {}, "bad": [["' + b"x" * 100_000 + b'", "y"]]}',
        b'{"settings": {}, "bad": [[Infinity, "y"]]}',
    ],
    ids=["no UTF-8", "deep", "a row of text", "no row"],
)
def test_a_record_that_is_none_is_one_short_message(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "files.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"files\.json.*expected the settings of an extraction") as caught:
        begin_record(path, {}, [])
    assert len(str(caught.value)) < 500
