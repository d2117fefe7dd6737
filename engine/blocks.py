"""Which blocks are free, who shares one, and which still hold known content. Deals in numbers only.

A full block may be published under a digest of its tokens and all before them (`engine.prefix`); it can
then be shared by every sequence that begins with those tokens. When its last holder lets go, it stays
findable until the block is needed for something else: the longest unused first, children before parents.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable


class BlockAllocator:
    """Hands out block numbers and takes them back. Every block is held, idle (unheld, findable) or blank.

    Of blank blocks the most recently freed comes first, while it is warm. Contract of `publish`: who
    publishes a block also holds the block published under the digest before, so that no child outlives
    its parent.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._blank = list(range(num_blocks - 1, -1, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()  # longest unused first
        self._holders = [0] * num_blocks
        self._digests: dict[int, bytes] = {}
        self._published: dict[bytes, int] = {}

    @property
    def num_free(self) -> int:
        """Blocks that `allocate` could hand out, those with findable content included."""
        return len(self._blank) + len(self._idle)

    @property
    def num_held(self) -> int:
        return self.num_blocks - self.num_free

    @property
    def num_cached(self) -> int:
        """Blocks whose content can be found, held or not."""
        return len(self._published)

    def holders(self, block: int) -> int:
        return self._holders[block]

    def allocate(self, count: int) -> list[int]:
        """`count` blocks of unknown content with one holder each; forgets idle ones where it must."""
        assert count <= self.num_free, "the scheduler promised more blocks than there are"
        blocks = [self._blank.pop() if self._blank else self._forget_longest_idle() for _ in range(count)]
        for block in blocks:
            self._holders[block] = 1
        return blocks

    def share(self, blocks: Iterable[int]) -> None:
        """One holder more for published blocks."""
        for block in blocks:
            assert block in self._digests, "only blocks of known content are shared"
            self._holders[block] += 1
            self._idle.pop(block, None)

    def free(self, blocks: list[int]) -> None:
        """One holder less for each block of a sequence, given first to last."""
        for block in reversed(blocks):  # so that children are forgotten before their parents
            assert self._holders[block] > 0, f"block {block} is freed twice, or was never allocated"
            self._holders[block] -= 1
            if self._holders[block]:
                continue
            if block in self._digests:
                self._idle[block] = None
            else:
                self._blank.append(block)

    def publish(self, block: int, digest: bytes) -> int:
        """Make a held, full block findable. Returns the block to hold from now on.

        It is another one if the same content was published before: that one is shared then and `block`
        freed, so that a digest names one block.
        """
        assert self._holders[block] > 0, "only a holder knows what a block contains"
        known = self._published.get(digest)
        if known is None:
            self._published[digest] = block
            self._digests[block] = digest
            return block
        self.share([known])
        self.free([block])
        return known

    def find(self, digests: Iterable[bytes]) -> list[int]:
        """The published blocks of the longest findable beginning of `digests`. Changes nothing."""
        found: list[int] = []
        for digest in digests:
            block = self._published.get(digest)
            if block is None:
                break
            found.append(block)
        return found

    def _forget_longest_idle(self) -> int:
        block, _ = self._idle.popitem(last=False)
        del self._published[self._digests.pop(block)]
        return block

    def check(self) -> None:
        """AssertionError unless the books balance; for tests, linear in the number of blocks."""
        blank, idle = set(self._blank), set(self._idle)
        held = {block for block, holders in enumerate(self._holders) if holders}
        assert len(blank) == len(self._blank)
        assert not blank & idle
        assert not held & (blank | idle)
        assert len(blank) + len(idle) + len(held) == self.num_blocks
        assert min(self._holders, default=0) >= 0
        assert self._published == {digest: block for block, digest in self._digests.items()}
        assert idle <= set(self._digests)
        assert not blank & set(self._digests)
