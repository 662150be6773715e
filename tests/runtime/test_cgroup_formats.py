"""pydock.runtime.cgroup.formats: text to numbers and back, and the words for what is neither."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydock.runtime.cgroup import formats
from pydock.runtime.cgroup.aliases import shares_of_weight, weight_of_shares
from pydock.runtime.errors import Invalid


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("4097", 4096),
        ("12K", 12288),
        ("12k", 12288),
        ("512M", 512 * 2**20),
        ("2G", 2 * 2**30),
        ("1T", 2**40),
        ("max", None),
        ("9223372036854775807", None),
        ("18446744073709551615", None),
    ],
)
def test_size_is_bytes_rounded_down_to_a_page(text: str, size: int | None) -> None:
    assert formats.parse_size("memory.max", text) == size


@pytest.mark.parametrize("text", ["18446744073709551616", "16777216T", "9" * 20])
def test_size_that_overflows_64_bits_is_invalid(text: str) -> None:
    with pytest.raises(Invalid, match="too large"):
        formats.parse_size("memory.max", text)


@pytest.mark.parametrize("text", ["12Q", "9" * 5000, "", "-1", "1.5G", "M", "1 G", "0x10", "١", "1KB"])
def test_garbage_as_a_size_is_invalid_and_says_what_would_do(text: str) -> None:
    with pytest.raises(Invalid) as error:
        formats.parse_size("memory.max", text)
    assert str(error.value) == f'memory.max: "{text}" is not a size: bytes, or with K, M, G, T, or max'


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("max", (None, 200_000)),
        ("max 100000", (None, 100_000)),
        ("50000", (50_000, 200_000)),
        ("50000 1000000", (50_000, 1_000_000)),
        ("1000 1000", (1000, 1000)),
    ],
)
def test_cpu_max_keeps_the_period_that_is_not_said(text: str, value: tuple[int | None, int]) -> None:
    assert formats.parse_cpu_max("cpu.max", text, 200_000) == value


@pytest.mark.parametrize("text", ["", "x", "50000 x", "50000 999", "50000 1000001", "999", "1 2 3", "-1", "50000 max"])
def test_garbage_as_cpu_max_is_invalid(text: str) -> None:
    with pytest.raises(Invalid, match=r"^cpu\.max: "):
        formats.parse_cpu_max("cpu.max", text, 100_000)


@pytest.mark.parametrize(
    ("text", "numbers", "canonical"),
    [
        ("", set(), ""),
        ("0", {0}, "0"),
        ("0-3,8", {0, 1, 2, 3, 8}, "0-3,8"),
        ("8,0,1", {0, 1, 8}, "0-1,8"),
        ("1 2", {1, 2}, "1-2"),
    ],
)
def test_list_of_processors_has_a_shortest_form(text: str, numbers: set[int], canonical: str) -> None:
    assert formats.parse_list("cpuset.cpus", text) == numbers
    assert formats.format_list(numbers) == canonical


@pytest.mark.parametrize("text", ["x", "3-1", "-1", "1-", "0-3-5", "1;2"])
def test_garbage_as_list_of_processors_is_invalid(text: str) -> None:
    with pytest.raises(Invalid, match=r"as in 0-3,8"):
        formats.parse_list("cpuset.cpus", text)


@given(st.frozensets(st.integers(0, 300)))
def test_list_written_is_the_list_read(numbers: frozenset[int]) -> None:
    assert formats.parse_list("cpuset.cpus", formats.format_list(numbers)) == numbers


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("rbps=1048576 wiops=max", {"rbps": 1048576, "wiops": None}),
        ("rbps=1K wbps=3m", {"rbps": 1024, "wbps": 3 << 20}),
        ("wbps=2G rbps=1t riops=7", {"wbps": 2 << 30, "rbps": 1 << 40, "riops": 7}),
    ],
)
def test_io_max_names_some_keys_of_a_device(text: str, limits: dict[str, int | None]) -> None:
    assert formats.parse_io_max("io.max", f"08:16 {text}") == ("8:16", limits)


@pytest.mark.parametrize(
    "text",
    [
        *("", "8:16", "8 rbps=1", "8:16 rbps", "8:16 rbps=0", "8:16 x=1", "8:16 riops=1K", "8:16 rbps=K"),
        *("8:16 rbps=99999999T", "8:16 rbps=1KB", "8:16 wbps=0M", "8:16 rbps=1.5M"),
    ],
)
def test_garbage_as_io_max_is_invalid(text: str) -> None:
    with pytest.raises(Invalid, match=r"^io\.max: "):
        formats.parse_io_max("io.max", text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("100", ("default", 100)), ("default 7", ("default", 7)), ("8:0 7", ("8:0", 7)), ("8:0 default", ("8:0", None))],
)
def test_io_weight_is_of_all_devices_or_of_one(text: str, value: tuple[str, int | None]) -> None:
    assert formats.parse_io_weight("io.weight", text) == value


@pytest.mark.parametrize("text", ["0", "10001", "x", "8:0", "default default", "8:0 0", "a b c"])
def test_garbage_as_io_weight_is_invalid(text: str) -> None:
    with pytest.raises(Invalid, match=r"^io\.weight: "):
        formats.parse_io_weight("io.weight", text)


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "1K"])
def test_garbage_as_count_is_invalid(text: str) -> None:
    with pytest.raises(Invalid, match="a whole number from 0, or max"):
        formats.parse_count("pids.max", text)


def test_default_weight_is_the_default_shares() -> None:
    assert shares_of_weight(100) == 1024
    assert weight_of_shares(1024) == 100


@given(st.integers(1, 10000))
def test_weight_survives_the_way_through_shares(weight: int) -> None:
    assert weight_of_shares(shares_of_weight(weight)) == weight


def test_flat_keyed_lines_without_a_number_are_passed_over() -> None:
    assert formats.flat("a 1\nb x\nTotal\nc -2\n") == {"a": 1, "c": -2}
