import os
import re

import pytest

from mae_ast_fairseq.corpus.pack import pack
from mae_ast_fairseq.errors import AudioError, ConfigError
from tests.data.test_archive import NAMES, folder  # noqa: F401  the fixture


def test_a_file_that_vanished_is_named_and_leaves_no_archive(folder):  # noqa: F811
    (folder / "sub/b.flac").unlink()
    with pytest.raises(AudioError, match=re.escape(f"{folder / 'sub/b.flac'}: cannot be packed (No such file")):
        pack(folder.parent / "a.zip", folder, NAMES)
    assert list(folder.parent.iterdir()) == [folder]


def test_an_archive_that_cannot_be_written_is_named(folder):  # noqa: F811
    with pytest.raises(ConfigError, match=re.escape(f"{folder / 'none/a.zip'}: cannot be written (No such file")):
        pack(folder / "none/a.zip", folder, NAMES)


def test_a_file_older_than_zip_can_say_is_packed(folder):  # noqa: F811
    os.utime(folder / "a.wav", (0, 0))
    (member,) = pack(folder.parent / "a.zip", folder, ["a.wav"])
    assert member.length == (folder / "a.wav").stat().st_size
