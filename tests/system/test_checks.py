"""The one checker of numbers, the one writer of JSON and the one of tables."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from whisperq_edge import OptionError
from whisperq_edge._system.checks import as_number, check_one_of, check_whole, is_number, is_whole
from whisperq_edge._system.json_files import json_text, write_json
from whisperq_edge._system.markdown import markdown_table


@pytest.mark.parametrize("value", [0, -3, 10**40, np.int64(2), np.uint8(2)])
def test_whole_numbers_are_those_of_python_and_numpy(value: Any) -> None:
    assert is_whole(value) and is_number(value)


@pytest.mark.parametrize("value", [True, np.True_, 2.0, np.float32(2), "2", None, [2]])
def test_a_bool_a_float_and_a_text_are_no_whole_numbers(value: Any) -> None:
    assert not is_whole(value)
    with pytest.raises(OptionError, match="a whole number from 0 to 9"):
        check_whole("n", value, 0, 9)


def test_a_whole_number_comes_back_as_an_int_within_its_range() -> None:
    assert type(check_whole("n", np.int16(9), 0, 9)) is int
    for value in (-1, 10, 10**400):
        with pytest.raises(OptionError, match=r"0 \(all\) to 9"):
            check_whole("n", value, 0, 9, "0 (all) to 9")


def test_numbers_become_floats_and_anything_else_fails_every_comparison() -> None:
    assert [as_number(value) for value in (1, np.float32(0.5), Fraction(1, 4))] == [1.0, 0.5, 0.25]
    assert (as_number(10**400), as_number(-(10**400))) == (math.inf, -math.inf)
    assert all(math.isnan(as_number(value)) for value in (True, np.False_, "1", None, 1j))


def test_a_choice_is_one_of_those_there_are() -> None:
    check_one_of("kind", "a", ("a", "b"))
    with pytest.raises(OptionError, match="one of a, b"):
        check_one_of("kind", "c", ("a", "b"))


def test_a_cell_neither_ends_its_cell_nor_its_row() -> None:
    table = markdown_table(["name", "n"], [["a|b\nc", "1"]], right=True)
    assert table.splitlines() == ["| name | n |", "| --- | ---: |", "| a\\|b c | 1 |"]
    assert markdown_table(["name", "n"], []).splitlines()[1] == "| --- | --- |"


def test_json_keeps_names_that_are_no_text(tmp_path: Path) -> None:
    name = b"caf\xc3\xa9-\xff".decode("utf-8", "surrogateescape")
    write_json(tmp_path / "x.json", {"name": name})
    assert json.loads((tmp_path / "x.json").read_bytes())["name"] == name
    assert json_text({"name": name}) == '{"name": "café-\\udcff"}'
    assert json_text({"name": name}, is_ascii=True).isascii()
