"""From exception to errno and words."""

from __future__ import annotations

import errno
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydock.fs.errors import one_line, translate
from pydock.fs.node import Refused
from pydock.overlay import errors as overlay
from pydock.runtime import errors as runtime


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "spec.toml"), "spec.toml: No space left on device"),
        (OSError(errno.ENOSPC, "No space left on device", b"x"), "x: No space left on device"),
        (OSError(errno.ENOSPC, None), "No space left on device"),
        (OSError("text"), "text"),
        (runtime.Failed(errno.EIO, "text"), "text"),
    ],
    ids=repr,
)
def test_the_words_of_an_error_are_a_person_s(error: Exception, words: str) -> None:
    assert runtime.words_of(error) == words


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (runtime.Invalid("x"), errno.EINVAL),
        (runtime.NotFound("x"), errno.ENOENT),
        (runtime.Busy("x"), errno.EBUSY),
        (runtime.Exists("x"), errno.EEXIST),
        (runtime.Taken("x"), errno.EADDRINUSE),
        (runtime.Forbidden("x"), errno.EPERM),
        (runtime.Unsupported("x"), errno.EOPNOTSUPP),
        (runtime.TimedOut("x"), errno.ETIMEDOUT),
        (runtime.Failed(errno.ENOSPC, "x"), errno.ENOSPC),
        (overlay.Invalid("x"), errno.EINVAL),
        (overlay.NotFound("x"), errno.ENOENT),
        (overlay.Busy("x"), errno.EBUSY),
        (overlay.Exists("x"), errno.EEXIST),
        (Refused(errno.EXDEV, "x"), errno.EXDEV),
        (ExceptionGroup("group", [runtime.Invalid("x")]), errno.EINVAL),
    ],
    ids=repr,
)
def test_what_is_known_has_its_errno_and_words(error: Exception, number: int) -> None:
    assert translate(error) == (number, "x")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left"), "No space left"),
        (OSError(errno.EIO, "I/O", "/a\nb"), "/a b: I/O"),
        (PermissionError(errno.EPERM, ""), "Operation not permitted"),
    ],
    ids=repr,
)
def test_an_error_of_a_system_call_keeps_its_errno(error: OSError, words: str) -> None:
    assert translate(error) == (error.errno, words)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        KeyError("x"),
        RuntimeError("x"),
        OSError("no errno"),
        AssertionError(),
        ExceptionGroup("two", [ValueError(), ValueError()]),
    ],
    ids=repr,
)
def test_what_is_not_known_is_a_fault_and_is_logged(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    number, words = translate(error)
    assert number == errno.EIO
    assert words.startswith("a fault in pydock: ")
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert caplog.records[0].exc_info


@given(st.text())
def test_words_are_one_printable_line_of_bounded_length(words: str) -> None:
    line = one_line(words * 50)
    assert "\n" not in line
    assert line.isprintable()
    assert len(line) <= 601


def test_long_words_keep_their_beginning_and_their_end() -> None:
    line = one_line("name: " + "x" * 65536 + " is not a size")
    assert line.startswith("name: ")
    assert line.endswith(" is not a size")
