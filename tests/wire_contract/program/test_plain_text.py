"""What others send is printed in one line, without control over the terminal or the spreadsheet."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire_contract.program.plain_text import csv_cell, printable

ANY_TEXT = st.text(alphabet=st.characters(codec=None, exclude_categories=()))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Übung 3, 你好 é", "Übung 3, 你好 é"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("a\r\nb\tc", r"a\r\nb\tc"),
        ("\x9b31m", r"\x9b31m"),
        ("safe\u202etxt.exe", r"safe\u202etxt.exe"),
        ("one\u2028two\x7f", r"one\u2028two\x7f"),
        ("\ud800", r"\ud800"),
    ],
)
def test_control_characters_become_escapes(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(ANY_TEXT)
def test_nothing_unprintable_is_left(text: str) -> None:
    shown = printable(text)
    assert not any(unicodedata.category(one).startswith("C") for one in shown)
    assert len(shown.splitlines()) <= 1
    assert printable(shown) == shown
    shown.encode()


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "  =1", "\t=1", "\r=1"])
def test_no_cell_is_a_formula(text: str) -> None:
    assert csv_cell(text)[0] in {"'", "\\"}
    assert csv_cell(csv_cell(text)) == csv_cell(text)


def test_a_cell_of_plain_text_stays_as_it_is() -> None:
    assert csv_cell("watch-1") == "watch-1"
