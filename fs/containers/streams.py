"""The streams of a container: ``wait``, ``stdin``, ``stdout``, ``stderr``, ``console``."""

from __future__ import annotations

from pydock.fs.containers.channels import Input, Output, Wait, console
from pydock.fs.containers.subject import ContainerSubject
from pydock.fs.node import Entry, Stream

C = ContainerSubject


STREAMS: tuple[Entry[C], ...] = (
    Stream(
        name="wait",
        open=lambda c: Wait(c.container.process),
        doc="Blocks until the container is not running (or restarting), then gives the exit code; at once if it has "
        "exited; before the first start, until that run ends.",
    ),
    Stream(
        name="stdin",
        writable=True,
        open=lambda c: Input(c.container.process, lambda: c.container.name),
        doc="The container's standard input, once it runs: blocks until what is written has been taken by the pipe. EBUSY while "
        "it does not run, EPIPE when it has closed it or after the command ``eof``.",
    ),
    Stream(
        name="stdout",
        open=lambda c: Output(c.container.process, ("stdout",)),
        doc="What it writes to standard output from the open on, until the run ends; before the first start, all of that run. Any "
        "number may read. EOVERFLOW, once, for a reader that is more than log_max behind. "
        "``cat a/stdout > b/stdin`` is a pipeline.",
    ),
    Stream(
        name="stderr",
        open=lambda c: Output(c.container.process, ("stderr",)),
        doc="The same of standard error.",
    ),
    Stream(
        name="console",
        writable=True,
        open=lambda c: console(c.container.process, lambda: c.container.name, tty=bool(c.container.spec.tty)),
        doc="The terminal of a container with tty, both ways: the last screenful first, then what it shows; what is written is "
        "typed. Any number may have it open. ``socat -,raw,echo=0 console``. Without tty it is empty, and writing is ENOTTY.",
    ),
)
