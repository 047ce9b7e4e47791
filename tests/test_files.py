import pytest

from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.files import prepare_folder


def test_folders_on_the_way_are_made(tmp_path):
    prepare_folder("--out", tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_file_in_its_place_is_an_error_that_names_the_option(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(ConfigError, match=r"--out .*taken: cannot be made"):
        prepare_folder("--out", tmp_path / "taken")
