import pickle
from pathlib import Path

import pytest

from mae_ast_fairseq import errors

CLASSES = [value for value in vars(errors).values() if isinstance(value, type) and value.__module__ == errors.__name__]


@pytest.mark.parametrize("error_class", CLASSES)
def test_an_error_crosses_to_another_process_with_its_message(error_class):
    error = pickle.loads(pickle.dumps(error_class("train.tsv:3: wrong")))
    assert type(error) is error_class
    assert str(error) == "train.tsv:3: wrong"
    assert isinstance(error, errors.UserError)
    assert isinstance(error, ValueError)


def test_what_a_terminal_would_obey_is_escaped():
    assert errors.printable("a\x1b[31m\nb\u202ec\udcff é") == "a\\x1b[31m\\nb\\u202ec? é"
    assert errors.printable("müsli 日本.wav") == "müsli 日本.wav"


def test_a_message_is_one_line_of_bounded_length_with_its_end():
    error = errors.AudioError(f"{'a' * 5_000}\x1b[31m\n: broken; fetch it again")
    assert str(error).isprintable()
    assert len(str(error)) <= errors.MAX_CHARACTERS
    assert str(error).endswith("\\x1b[31m\\n: broken; fetch it again")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_what_is_logged_is_one_line(caplog):
    errors.get_logger("mae_ast_fairseq.of_a_test").warning("%s: 100%% of %s", "a\x1b[2J\nb.wav", "x" * 5_000)
    assert caplog.records[0].getMessage().startswith("a\\x1b[2J\\nb.wav: 100% of xxx")
    assert len(caplog.records[0].getMessage()) <= errors.MAX_CHARACTERS


def test_every_module_logs_so():
    package = Path(errors.__file__).parent
    makers = [path for path in package.rglob("*.py") if "logging.getLogger(__name__)" in path.read_text()]
    assert makers == []
