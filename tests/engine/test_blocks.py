from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.blocks import BlockAllocator

NUM_BLOCKS = 12


def digest(path: tuple[int, ...]) -> bytes:
    return bytes(path)


@dataclass
class Chain:
    """A sequence as the allocator sees it: blocks of content named by a path of small numbers."""

    path: tuple[int, ...]
    blocks: list[int] = field(default_factory=list)


def fill(allocator: BlockAllocator, path: tuple[int, ...]) -> Chain:
    """Take what is known of `path`, compute and publish the rest."""
    known = allocator.find(digest(path[: end + 1]) for end in range(len(path)))
    allocator.share(known)
    chain = Chain(path, [*known, *allocator.allocate(len(path) - len(known))])
    for at in range(len(known), len(path)):
        chain.blocks[at] = allocator.publish(chain.blocks[at], digest(path[: at + 1]))
    return chain


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.lists(st.integers(0, 1), min_size=1, max_size=4).map(tuple),  # begin this path
            st.integers(0, 9),  # end one of the open ones
        ),
        max_size=60,
    )
)
def test_books_balance_and_parents_outlive_children(commands: list[tuple[int, ...] | int]) -> None:
    allocator, chains = BlockAllocator(NUM_BLOCKS), list[Chain]()
    named: dict[int, bytes] = {}
    for command in commands:
        if isinstance(command, int):
            if chains:
                allocator.free(chains.pop(command % len(chains)).blocks)
        elif allocator.num_free >= len(command):
            chains.append(fill(allocator, command))
            named |= {block: digest(command[: at + 1]) for at, block in enumerate(chains[-1].blocks)}
        allocator.check()
        holders = [block for chain in chains for block in chain.blocks]
        assert all(allocator.holders(block) == holders.count(block) for block in range(NUM_BLOCKS))
        assert allocator.num_held == len(set(holders))
        for chain in chains:  # what is held keeps its content
            assert (
                allocator.find([digest(chain.path[: at + 1]) for at in range(len(chain.path))])
                == chain.blocks
            )
        for block, name in named.items():  # a findable child has a findable parent
            if allocator.find([name]) == [block] and len(name) > 1:
                assert allocator.find([name[:-1]]) != []
    for chain in chains:
        allocator.free(chain.blocks)
    assert allocator.num_free == NUM_BLOCKS
    assert sorted(allocator.allocate(NUM_BLOCKS)) == list(range(NUM_BLOCKS))
    assert allocator.num_cached == 0


def test_content_is_found_until_its_block_is_needed_longest_unused_first() -> None:
    allocator = BlockAllocator(4)
    first, second = fill(allocator, (1, 1)), fill(allocator, (2, 2))
    allocator.free(first.blocks)
    allocator.free(second.blocks)
    assert allocator.num_free == 4
    allocator.allocate(1)  # forgets the child of the first
    assert allocator.find([digest((1,)), digest((1, 1))]) == first.blocks[:1]
    allocator.allocate(1)
    assert allocator.find([digest((1,))]) == []
    assert allocator.find([digest((2,)), digest((2, 2))]) == second.blocks


def test_using_a_block_again_makes_it_the_last_to_go() -> None:
    allocator = BlockAllocator(2)
    old, new = fill(allocator, (1,)), fill(allocator, (2,))
    allocator.free(old.blocks)
    allocator.free(new.blocks)
    allocator.share(old.blocks)
    allocator.free(old.blocks)
    allocator.allocate(1)
    assert allocator.find([digest((1,))]) == old.blocks
    assert allocator.find([digest((2,))]) == []


def test_blank_blocks_are_used_before_known_content_is_forgotten() -> None:
    allocator = BlockAllocator(3)
    known, unknown = fill(allocator, (1,)), allocator.allocate(1)
    allocator.free(known.blocks)
    allocator.free(unknown)
    allocator.allocate(2)
    assert allocator.find([digest((1,))]) == known.blocks


def test_equal_content_computed_twice_is_kept_once() -> None:
    allocator = BlockAllocator(4)
    (first,), (second,) = allocator.allocate(1), allocator.allocate(1)
    assert allocator.publish(first, b"same") == first
    assert allocator.publish(second, b"same") == first
    assert (allocator.holders(first), allocator.holders(second)) == (2, 0)
    assert allocator.num_held == 1


def test_misuse_is_a_bug() -> None:
    allocator = BlockAllocator(4)
    blocks = allocator.allocate(2)
    with pytest.raises(AssertionError):
        allocator.share(blocks)  # unknown content
    allocator.free(blocks)
    with pytest.raises(AssertionError):
        allocator.free(blocks)
    with pytest.raises(AssertionError):
        allocator.publish(blocks[0], b"x")
    with pytest.raises(AssertionError):
        allocator.allocate(5)
