"""Inode numbers and look-up counts; processes that remove trees."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydock.fs.inodes import ROOT, Inodes, Removal
from pydock.fs.metadata import Metadata
from pydock.fs.node import Directory, Node, Refused


class Thing:
    label = "x"
    metadata = Metadata(born=0)

    def failed(self, words: str) -> None: ...

    def succeeded(self) -> None: ...


@pytest.fixture
def root() -> Directory:
    return Directory("", None, Thing(), ())


@pytest.fixture
def inodes(root: Directory) -> Inodes:
    return Inodes(root)


def test_the_root_has_its_number_and_is_never_forgotten(inodes: Inodes, root: Directory) -> None:
    inodes.forget(ROOT, 1000)
    assert inodes[ROOT] is root


def test_a_node_keeps_its_number_as_long_as_it_is_known(inodes: Inodes, root: Directory) -> None:
    node = Node("a", root)
    number = inodes.number(node)
    inodes.looked_up(number)
    inodes.looked_up(number)
    inodes.forget(number, 1)
    assert inodes.number(node) == number
    assert inodes[number] is node


def test_a_number_that_was_forgotten_is_stale(inodes: Inodes, root: Directory) -> None:
    number = inodes.number(Node("a", root))
    inodes.looked_up(number)
    inodes.forget(number, 1)
    with pytest.raises(Refused) as caught:
        inodes[number]
    assert caught.value.errno == errno.ESTALE


def test_a_node_may_have_numbers_of_its_own_beside(inodes: Inodes, root: Directory) -> None:
    node = Node("a", root)
    numbers = {inodes.number(node), inodes.new(node), inodes.new(node)}
    assert len(numbers) == 3
    assert {inodes[number] for number in numbers} == {node}


def test_after_a_rename_the_kernel_s_number_is_the_other_node(inodes: Inodes, root: Directory) -> None:
    old, new = Node("a", root), Node("b", root)
    number = inodes.number(old)
    inodes.rebind(number, new)
    assert (inodes[number], new.number) == (new, number)


@given(st.lists(st.integers(0, 4), max_size=60))
def test_numbers_are_never_given_twice(steps: list[int]) -> None:
    root = Directory("", None, Thing(), ())
    inodes = Inodes(root)
    nodes = [Node(str(index), root) for index in range(5)]
    owners: dict[int, Node] = {}
    for step in steps:
        number = inodes.number(nodes[step])
        assert owners.setdefault(number, nodes[step]) is nodes[step]
        inodes.looked_up(number)
        inodes.forget(number, 1)


async def test_who_was_refused_once_is_refused_the_rest(root: Directory) -> None:
    removal = Removal()
    removal.listed.add(root)
    removal.refuse()
    assert removal.refused


async def test_who_did_not_list_the_directory_is_not_remembered_as_refused() -> None:
    removal = Removal()
    removal.refuse()
    assert not removal.refused
