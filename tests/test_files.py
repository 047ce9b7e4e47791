import os

import pytest

from mae_ast_fairseq import files
from mae_ast_fairseq.checkpoints.read import read_checkpoint
from mae_ast_fairseq.corpus.scan import examine
from mae_ast_fairseq.corpus.statistics import read_statistics
from mae_ast_fairseq.data.audio import load_audio
from mae_ast_fairseq.data.labels import read_vocabulary
from mae_ast_fairseq.data.manifest import read_manifest
from mae_ast_fairseq.errors import ConfigError, UserError
from mae_ast_fairseq.files import open_regular, prepare_folder, remove_partial


def test_json_that_is_too_long_is_not_read(tmp_path):
    path = tmp_path / "a.json"
    with path.open("wb") as stream:
        stream.truncate(files.MAX_JSON_BYTES + 1)
    with pytest.raises(ValueError, match="more than"):
        files.read_json(path)
    path.write_bytes(b'{"a": [1]}')
    assert files.read_json(path) == {"a": [1]}


def test_folders_on_the_way_are_made(tmp_path):
    prepare_folder("--out", tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_file_in_its_place_is_an_error_that_names_the_option(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(ConfigError, match=r"--out .*taken: cannot be made"):
        prepare_folder("--out", tmp_path / "taken")


def test_a_pipe_a_device_and_a_folder_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    for path in (tmp_path / "pipe.wav", "/dev/zero", tmp_path):
        with pytest.raises(OSError, match=r"pipe or a device|Is a directory"):
            open_regular(path)


@pytest.mark.parametrize(
    "read", [load_audio, examine, read_manifest, read_vocabulary, read_statistics, read_checkpoint]
)
def test_nothing_waits_for_a_pipe(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    try:
        found = str(read(tmp_path / "pipe"))
    except UserError as error:
        found = str(error)
    assert "pipe or a device" in found


def test_of_what_killed_processes_left_only_the_named_files_are_removed(tmp_path):
    names = (".a.npy.77.tmp", ".a.b.npy.78.tmp", ".other.npy.77.tmp", "a.npy", "a.npy.77.tmp")
    for name in names:
        (tmp_path / name).write_text("")
    remove_partial([tmp_path / "a.npy", tmp_path / "a.b.npy", tmp_path / "no such folder" / "a.npy"])
    assert {path.name for path in tmp_path.iterdir()} == set(names[2:])
