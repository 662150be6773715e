"""What is logged about the mount."""

from __future__ import annotations

import errno
import logging
import os

import pytest
from pydock.fs.mounting import GivenUp


@pytest.mark.parametrize(
    ("request_", "number", "said"),
    [
        ("fuse_release", errno.ENOENT, False),
        ("fuse_releasedir", errno.ENOENT, False),
        ("fuse_release", errno.EINVAL, True),
        ("fuse_read", errno.ENOENT, True),
    ],
)
def test_only_releases_that_the_kernel_has_given_up_are_no_errors(request_: str, number: int, said: bool) -> None:
    words = f"{request_}(): fuse_reply_* failed with %s"
    record = logging.LogRecord("pyfuse3", logging.ERROR, "", 0, words, (os.strerror(number),), None)
    assert GivenUp().filter(record) is said
