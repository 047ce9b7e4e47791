"""Values of a stored config are of their declared types or refused, and messages stay short."""

from pathlib import Path
from typing import Any, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mae_ast_fairseq.checkpoints.fields import check_fields, first_fields, is_interpolated, is_plain, select_fields
from mae_ast_fairseq.errors import CheckpointError

PATH = Path("a.pt")
TYPES = {"a": int, "b": float, "c": Optional[str], "d": list[str], "e": bool, "f": Any}

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


def test_values_of_the_declared_types_are_taken_and_whole_numbers_for_fractions() -> None:
    values = {"a": 1, "b": 2, "c": None, "d": ["x"], "e": True, "f": {"g": [1]}}
    check_fields(PATH, "cfg", values, TYPES)
    assert select_fields(values, {"a": int, "b": float, "absent": int}) == {"a": 1, "b": 2.0}
    assert type(select_fields(values, {"b": float})["b"]) is float


@given(st.dictionaries(st.sampled_from([*TYPES, "unknown"]) | st.text(), plain | st.just(object()), max_size=4))
def test_any_value_passes_with_its_type_or_is_refused_in_one_short_line(values: dict[str, Any]) -> None:
    try:
        check_fields(PATH, "cfg", values, TYPES)
    except CheckpointError as error:
        text = str(error)
        assert text.startswith("a.pt: cfg.")
        assert len(text) < 400
        assert text.isprintable()
        return
    assert is_plain(values)
    found = {name: type(value) for name, value in values.items() if name in ("a", "b", "d", "e")}
    allowed = {"a": (int,), "b": (int, float), "d": (list,), "e": (bool,)}
    assert all(kind in allowed[name] for name, kind in found.items())


@pytest.mark.parametrize("value", ["${a}", ["x", "${a}"], {"a": {"b": ["a ${b:c} d"]}}])
def test_interpolations_are_found_at_any_depth(value: Any) -> None:
    assert is_interpolated(value)
    with pytest.raises(CheckpointError, match="interpolations are not resolved"):
        check_fields(PATH, "cfg", {"f": value}, TYPES)


@pytest.mark.parametrize("value", ["$", "{a}", ["$a"], {"${a}": 1}, 1, None])
def test_what_only_looks_alike_is_no_interpolation(value: Any) -> None:
    assert not is_interpolated(value)


@given(plain)
def test_plain_values_are_known(value: Any) -> None:
    assert is_plain(value)
    assert not is_plain([value, object()])
    assert not is_plain({"a": value, 3: value})


def test_of_many_names_the_first_are_listed() -> None:
    assert first_fields(["b", "a"]) == "a, b"
    assert first_fields(["e", "d", "c", "b", "a"]) == "a, b, c and 2 more"
