"""Sizes, durations, argument vectors and times: what is printed is parsed again, and what is wrong is said in one line."""

from __future__ import annotations

import re
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydock.runtime import formats
from pydock.runtime.errors import Invalid

WORDS = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30), max_size=8).map(tuple)


@given(st.integers(0, (1 << 63) - 1))
def test_a_size_is_read_as_it_is_printed(size: int) -> None:
    assert formats.parse_limit(formats.print_limit(size)) == size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1K", 1024),
        ("2k", 2048),
        ("3M", 3 << 20),
        ("4G", 4 << 30),
        ("5T", 5 << 40),
        ("6KiB", 6144),
        ("7MB", 7 << 20),
        (" 8 ", 8),
    ],
)
def test_sizes_take_units_of_1024(text: str, size: int) -> None:
    assert formats.parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "K", "-1", "1.5M", "1 M", "1X", "0x10", "٣", "1e3", "9" * 21, str(1 << 63), "8388608T"]
)
def test_what_is_no_size_is_invalid(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        formats.parse_size(text)
    assert "\n" not in str(caught.value)


def test_max_is_no_limit() -> None:
    assert formats.parse_limit("max") is None
    assert formats.print_limit(None) == "max"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10", 10),
        ("1.5", 1.5),
        ("500ms", 0.5),
        ("1us", 1e-6),
        ("1ns", 1e-9),
        ("2s", 2),
        ("5m", 300),
        ("1h", 3600),
        ("0", 0),
        ("8760h", 31_536_000),
    ],
)
def test_durations_take_units(text: str, seconds: float) -> None:
    assert formats.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1", "1d", "1 s", "1e3", ".5", "5.", "inf", "nan", "8761h", "9" * 13])
def test_what_is_no_duration_is_invalid(text: str) -> None:
    with pytest.raises(Invalid):
        formats.parse_duration(text)


@given(st.floats(0, 31_536_000).map(lambda seconds: round(seconds, 9)))
def test_a_duration_is_read_as_it_is_printed(seconds: float) -> None:
    assert formats.parse_duration(formats.print_duration(seconds)) == pytest.approx(seconds, abs=1e-9)


@pytest.mark.parametrize(
    ("seconds", "text"), [(10.0, "10"), (0.5, "0.5"), (100.0, "100"), (1e-9, "0.000000001"), (0.0, "0")]
)
def test_durations_are_printed_without_exponents(seconds: float, text: str) -> None:
    assert formats.print_duration(seconds) == text


@given(WORDS)
def test_words_are_read_as_they_are_printed(words: tuple[str, ...]) -> None:
    assert formats.parse_arguments(formats.print_arguments(words)) == words


@given(WORDS)
def test_a_posix_shell_splits_what_is_printed_into_the_same_words(words: tuple[str, ...]) -> None:
    assert tuple(shlex.split(formats.print_arguments(words))) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ()),
        ("a b", ("a", "b")),
        ("sh -c 'a  b'", ("sh", "-c", "a  b")),
        ('["a", "b c"]', ("a", "b c")),
        (" [] ", ()),
        ("[ -e /x ]", ("[", "-e", "/x", "]")),
        ("a\\ b", ("a b",)),
        ("'a\nb'", ("a\nb",)),
        ('"$x" `y` *', ("$x", "`y`", "*")),
        (r'sh -c "x=5; echo \$x"', ("sh", "-c", "x=5; echo $x")),
        (r'"\`a\` \"\\\" \n"', ('`a` "\\" \\n',)),
        ('"a\\\nb"', ("ab",)),
        (r"""'\$x' \$x 'a'"b"c\d '' "" """, (r"\$x", "$x", "abcd", "", "")),
    ],
)
def test_a_line_is_shell_words_or_json(text: str, words: tuple[str, ...]) -> None:
    assert formats.parse_arguments(text) == words


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30))
def test_in_double_quotes_a_backslash_takes_its_meaning_from_what_has_one_there(word: str) -> None:
    quoted = re.sub(r'[$`"\\]', r"\\\g<0>", word)
    assert formats.parse_arguments(f'"{quoted}"') == (word,)


@given(st.text("ab \t'\\", max_size=30))
def test_outside_double_quotes_words_are_those_of_shlex(text: str) -> None:
    try:
        words = tuple(shlex.split(text.strip()))
    except ValueError as error:
        with pytest.raises(Invalid, match=str(error).lower()):
            formats.parse_arguments(text)
    else:
        assert formats.parse_arguments(text) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a '", "no closing quotation"),
        ('a "b', "no closing quotation"),
        ("a\\", "no escaped character"),
        ('"a\\', "no escaped character"),
        (r'"a\"', "no closing quotation"),
    ],
)
def test_what_does_not_end_is_said(text: str, words: str) -> None:
    with pytest.raises(Invalid, match=f"is not a line of shell words: {words}$"):
        formats.parse_arguments(text)


@pytest.mark.parametrize(
    "text",
    ["'", '"a', "a\\", '["a", 1]', '["a"', '["a"] x', "a\nb", '["\\u0000"]', '["\\ud800"]', '["a",' + "[" * 100_000],
)
def test_what_is_no_line_of_words_is_invalid(text: str) -> None:
    with pytest.raises(Invalid):
        formats.parse_arguments(text)


@pytest.mark.parametrize(("text", "value"), [("0", False), ("1", True), (" 1 ", True)])
def test_booleans_are_0_and_1(text: str, value: bool) -> None:
    assert formats.parse_boolean(text) is value
    assert formats.print_boolean(value) == text.strip()


@pytest.mark.parametrize("text", ["", "2", "yes", "true", "01", "1 1"])
def test_what_is_no_boolean_is_invalid(text: str) -> None:
    with pytest.raises(Invalid):
        formats.parse_boolean(text)


@pytest.mark.parametrize("text", ["", "x", "11", "-1", "1.0", "٣", "9" * 30])
def test_an_integer_outside_its_range_is_invalid(text: str) -> None:
    with pytest.raises(Invalid, match="a number from 0 to 10"):
        formats.parse_integer(text, low=0, high=10, what="one")


def test_times_are_rfc_3339_in_utc_with_nanoseconds() -> None:
    assert formats.print_time(1_700_000_000_000_000_001) == "2023-11-14T22:13:20.000000001Z"


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("2023-11-14T22:13:20Z", "2023-11-14T22:13:20.000000000Z"),
        ("2023-11-14T22:13:20.25Z", "2023-11-14T22:13:20.250000000Z"),
        ("2023-11-14T23:43:20.123456789012+01:30", "2023-11-14T22:13:20.123456789Z"),
        ("0001-01-01T00:00:00+23:00", "0001-01-01T00:00:00+23:00"),
        ("2023-13-14T22:13:20Z", "2023-13-14T22:13:20Z"),
        ("yesterday", "yesterday"),
        ("", ""),
    ],
)
def test_times_of_others_become_canonical(text: str, canonical: str) -> None:
    assert formats.canonical_time(text) == canonical


@given(st.text(), st.integers(1, 50))
def test_a_quotation_is_one_line_and_cut(text: str, limit: int) -> None:
    quoted = formats.quote(text, limit)
    assert "\n" not in quoted
    assert quoted[0] == quoted[-1] == '"'
    assert quoted.endswith('…"') == (len(text) > limit or text.endswith("…"))
