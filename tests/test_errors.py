import pickle

import pytest

from mae_ast_fairseq import errors

CLASSES = [value for value in vars(errors).values() if isinstance(value, type)]


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
