"""A spec and its document: there and back, and what a document may not say."""

from __future__ import annotations

import dataclasses
import signal
import string
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydock.runtime.errors import Invalid
from pydock.runtime.spec import Spec, parse_signal, print_signal

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)
LIST = st.lists(TEXT, max_size=5).map(tuple)
KINDS = {
    "str | None": TEXT,
    "tuple[str, ...] | None": LIST,
    "bool | None": st.booleans(),
    "float | None": st.floats(0, 1e6),
    "int | None": st.integers(0, 1 << 60),
}
FIELDS = {item.name: KINDS[str(item.type)] for item in dataclasses.fields(Spec) if item.name != "cgroup"}
KEY = st.text(string.ascii_lowercase + "._", min_size=1, max_size=12)
SPECS = st.builds(
    Spec,
    **{name: st.one_of(st.none(), values) for name, values in FIELDS.items()},
    cgroup=st.dictionaries(KEY, TEXT, max_size=3).map(MappingProxyType),
)


@given(SPECS)
def test_a_document_gives_the_spec_that_wrote_it(spec: Spec) -> None:
    assert Spec.from_toml(spec.to_toml()) == spec


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("imege = 'x'", 'line 1: "imege" is not a setting: did you mean image?'),
        ("# a\n\nzzzzzz = 1", 'line 3: "zzzzzz" is not a setting'),
        ("env = [\n  'A=1',\n]\ntty = 1", "line 4: tty is neither true nor false"),
        ("user = QQQ\ntty = 5\nQQQ\ntty = 1".replace("Q", "'"), "line 4: tty"),
        ("\n'tty' = 1", "line 2: tty"),
        ("[cgroup]\n'memory.max' = 1", "line 1: cgroup is not a table of texts"),
        ("image = 'x'\nimage = 'y'", "at line 2"),
        ("image = ", "at line 1"),
        ("memory.max = '1M'", 'line 1: "memory" is not a setting'),
        ("stop_timeout = 'x'", 'line 1: stop_timeout: "x" is not a duration'),
        ("tty = 'yes'", 'line 1: tty: "yes" is neither 0 nor 1'),
        ("stop_timeout = true", "line 1: stop_timeout is not a number of seconds"),
        ("shm_size = '1Z'", 'line 1: shm_size: "1Z" is not a size'),
    ],
)
def test_a_refusal_names_the_line(document: str, words: str) -> None:
    with pytest.raises(Invalid) as caught:
        Spec.from_toml(document)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("shm_size = '64K'", "shm_size = 65536\n"),
        ("stop_timeout = '1m'", "stop_timeout = 60.0\n"),
        ("stop_timeout = '500ms'", "stop_timeout = 0.5\n"),
        ("stop_timeout = 3", "stop_timeout = 3.0\n"),
        ("health.interval = '1h'", "[health]\ninterval = 3600.0\n"),
        ("health.retries = '5'", "[health]\nretries = 5\n"),
        ("oom_score_adj = '-7'", "oom_score_adj = -7\n"),
        ("tty = '1'", "tty = true\n"),
        ("readonly = '0'", "readonly = false\n"),
    ],
)
def test_a_text_is_read_as_the_setting_s_file_reads_it(text: str, canonical: str) -> None:
    assert Spec.from_toml(text).to_toml() == canonical


@given(SPECS)
def test_a_document_is_canonical(spec: Spec) -> None:
    assert Spec.from_toml(spec.to_toml()).to_toml() == spec.to_toml()


def test_nothing_that_is_unset_is_in_the_document() -> None:
    assert Spec().to_toml() == ""
    assert Spec(tty=False, env=()).plain() == {"tty": False, "env": []}


@pytest.mark.parametrize(
    "document",
    [
        "image",
        "image = 1",
        "image = ['a']",
        "nope = 1",
        "env = 'A=1'",
        "env = [1]",
        "env = [['A=1']]",
        "tty = 1",
        "tty = 'true'",
        "stop_timeout = '-1'",
        "oom_score_adj = '1.5'",
        "health.retries = ''",
        "stop_timeout = -1",
        "stop_timeout = nan",
        "stop_timeout = true",
        "shm_size = 1.5",
        "shm_size = -1",
        "shm_size = true",
        "cgroup = 'x'",
        "[cgroup]\n'memory.max' = 1",
        "image = 'a'\nimage = 'b'",
        "[image]\na = 1",
        "x = " + "[" * 50_000,
        "image = 1979-05-27",
    ],
)
def test_a_document_that_says_something_else_is_invalid(document: str) -> None:
    with pytest.raises(Invalid) as caught:
        Spec.from_toml(document)
    assert str(caught.value)


@pytest.mark.parametrize("number", range(1, signal.SIGRTMAX + 1))
def test_a_signal_is_read_as_it_is_printed(number: int) -> None:
    assert int(parse_signal(print_signal(parse_signal(str(number))))) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("TERM", 15),
        ("sigterm", 15),
        ("SIGKILL", 9),
        ("9", 9),
        (" INT ", 2),
        ("RTMIN", 34),
        ("RTMIN+3", 37),
        ("SIGRTMIN+30", 64),
        ("RTMAX", 64),
        ("RTMAX-1", 63),
        ("sigrtmax-14", 50),
        ("RTMAX-30", 34),
    ],
)
def test_signals_have_names_and_numbers(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize(
    ("text", "printed"),
    [("RTMAX-1", "SIGRTMIN+29"), ("RTMAX-0", "SIGRTMAX"), ("RTMIN+0", "SIGRTMIN"), ("RTMAX-30", "SIGRTMIN")],
)
def test_a_real_time_signal_has_one_name(text: str, printed: str) -> None:
    assert print_signal(parse_signal(text)) == printed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SIG",
        "NOPE",
        "0",
        "65",
        "-1",
        "9" * 5000,
        "²",
        "٣",
        "RTMIN+31",
        "RTMIN+",
        "RTMIN+²",
        "RTMAX-31",
        "RTMAX-",
        "RTMAX+1",
        "RTMIN-1",
        "TERM 9",
        "_TERM",
    ],
)
def test_what_is_no_signal_is_invalid(text: str) -> None:
    with pytest.raises(Invalid):
        parse_signal(text)
