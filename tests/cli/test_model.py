"""Files, folders and archives that are named, or a manifest, become the clips that a model runs on."""

import argparse
import zipfile
from pathlib import Path

import pytest

from mae_ast_fairseq.cli.model import add_input_arguments, read_clips
from mae_ast_fairseq.data.audio import ClipList
from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.inference.loading import FileList


def read(*argv: object) -> ClipList:
    parser = argparse.ArgumentParser()
    add_input_arguments(parser)
    return read_clips(parser.parse_args(list(map(str, argv))))


def test_files_folders_archives_and_manifests_are_clips(corpus: Path, tmp_path: Path) -> None:
    files = sorted(corpus.glob("*.wav"))
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        for path in files[:5]:
            archive.write(path, path.name)
    folder, zipped = read(files[3], corpus), read(tmp_path / "some.zip")
    assert [folder.path(row) for row in range(len(folder))] == list(map(str, [files[3], *files]))
    assert zipped.num_samples.tolist() == folder.num_samples[1:6].tolist()
    assert zipped.path(0).startswith(f"{tmp_path / 'some.zip'}:")
    manifest = read("--manifest", corpus / "train.tsv")
    assert manifest.num_samples.tolist() == folder.num_samples[1:41].tolist()


def test_clips_are_needed_from_one_place(corpus: Path) -> None:
    with pytest.raises(ConfigError, match=r"^neither audio files nor --manifest was given; expected one of them"):
        read()
    with pytest.raises(ConfigError, match=r"^both audio files and --manifest were given; expected one of them"):
        read(corpus / "00.wav", "--manifest", corpus / "train.tsv")


def test_a_folder_without_audio_is_named(tmp_path: Path) -> None:
    clips = read(tmp_path)
    assert isinstance(clips, FileList)
    assert str(clips.errors[0]).startswith(f"{tmp_path}: there is no audio file in it")
