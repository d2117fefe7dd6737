from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.blocks import BlockAllocator
from engine.kv_cache import BLOCK_TOKENS, num_blocks_for
from engine.prefix import publish_full_blocks, release, take_prefix
from engine.scheduler import Limits, Plan, plan_step, share_prefill
from engine.sequence import Sequence
from engine.waiting import WaitingQueue
from tests.engine.toy import make_sequence

LIMITS = Limits(max_batch=4, prefill_chunk=32)


def running(
    allocator: BlockAllocator,
    name: str,
    num_prompt: int,
    *,
    num_output: int = 0,
    computed: int | None = None,
    token: int = 1,
) -> Sequence:
    """A sequence in mid-life whose full blocks are published."""
    sequence = make_sequence(name, [token] * num_prompt, 100)
    sequence.output_ids = [2] * num_output
    sequence.num_computed = sequence.num_tokens - 1 if computed is None else computed
    sequence.block_ids = allocator.allocate(num_blocks_for(sequence.num_computed))
    publish_full_blocks(sequence, allocator)
    return sequence


def chunks_of(plan: Plan) -> dict[str, int]:
    return {chunk.sequence.id: chunk.num_tokens for chunk in plan.chunks}


def admitted(plan: Plan) -> list[str]:
    return [admission.sequence.id for admission in plan.admitted]


def test_decoding_goes_on_while_a_long_prompt_is_read_in_chunks() -> None:
    allocator = BlockAllocator(100)
    decoding, reading = running(allocator, "a", 10, num_output=3), running(allocator, "b", 200, computed=32)
    plan = plan_step([decoding, reading], [], allocator, LIMITS)
    assert chunks_of(plan) == {"a": 1, "b": 32}


def test_equal_prompts_are_read_one_after_the_other() -> None:
    waiting = [make_sequence(name, [1] * 20) for name in "abc"]
    plan = plan_step([], waiting, BlockAllocator(100), LIMITS)
    assert chunks_of(plan) == {"a": 20, "b": 12}


def test_a_short_prompt_is_read_beside_a_long_one_that_came_first() -> None:
    allocator = BlockAllocator(100)
    long = running(allocator, "long", 1000, computed=64)
    plan = plan_step([long], [make_sequence("short", [2] * 12)], allocator, LIMITS)
    assert chunks_of(plan) == {"long": 20, "short": 12}


def test_a_long_prompt_is_read_on_however_many_short_ones_come() -> None:
    allocator = BlockAllocator(100)
    long = running(allocator, "long", 1000, computed=64)
    shorts = [make_sequence(str(at), [2] * 30) for at in range(3)]
    assert chunks_of(plan_step([long], shorts, allocator, LIMITS)) == {"long": 16, "0": 16}


def test_no_more_run_than_the_batch_holds() -> None:
    allocator = BlockAllocator(100)
    alive = [running(allocator, name, 4) for name in "abc"]
    plan = plan_step(alive, [make_sequence(n, [1]) for n in "de"], allocator, LIMITS)
    assert admitted(plan) == ["d"]


def test_a_later_short_prompt_does_not_pass_one_that_must_wait_for_blocks() -> None:
    allocator = BlockAllocator(6)
    waiting = [make_sequence("big", [1] * 160), make_sequence("small", [1])]
    assert plan_step([running(allocator, "a", 4)], waiting, allocator, LIMITS).admitted == ()


def test_the_youngest_gives_way_when_blocks_run_out() -> None:
    allocator = BlockAllocator(2)
    old = running(allocator, "old", 15, num_output=2)
    young = running(allocator, "young", 15, num_output=2, token=3)
    assert old.num_computed == BLOCK_TOKENS
    plan = plan_step([old, young], [make_sequence("new", [1])], allocator, LIMITS)
    assert [sequence.id for sequence in plan.preempted] == ["young"]
    assert chunks_of(plan) == {"old": 1}
    assert plan.admitted == ()


def test_preempting_a_sharer_frees_only_what_it_holds_alone() -> None:
    """The youngest shares its only block with the oldest, so the next youngest has to give way as well."""
    allocator = BlockAllocator(2)
    old = running(allocator, "old", 15, num_output=2)
    loner = running(allocator, "loner", 15, num_output=2, token=3)
    sharer = make_sequence("sharer", old.prompt_ids, 100)
    sharer.output_ids = list(old.output_ids)
    take_prefix(sharer, allocator, old.block_ids)
    plan = plan_step([old, loner, sharer], [], allocator, LIMITS)
    assert [sequence.id for sequence in plan.preempted] == ["sharer", "loner"]
    assert chunks_of(plan) == {"old": 1}


def test_a_known_beginning_is_not_computed_again() -> None:
    allocator = BlockAllocator(10)
    first = running(allocator, "first", 40, num_output=1)
    plan = plan_step([first], [make_sequence("second", [1] * 40)], allocator, LIMITS)
    assert [admission.prefix for admission in plan.admitted] == [tuple(first.block_ids[:2])]
    assert chunks_of(plan) == {"first": 1, "second": 8}


def test_shared_blocks_make_room_for_one_more() -> None:
    """Four blocks are free: too few for a strange prompt of 70 tokens, enough for a known one."""
    allocator = BlockAllocator(10)
    first = running(allocator, "first", 90)
    strange, known = make_sequence("strange", [9] * 70, 1), make_sequence("known", [1] * 70, 1)
    assert admitted(plan_step([first], [strange], allocator, LIMITS)) == []
    assert admitted(plan_step([first], [known], allocator, LIMITS)) == ["known"]


def test_idle_blocks_count_as_taken_by_whoever_shares_them() -> None:
    """The first one's idle prefix is two of four blocks; what is left would not hold the second."""
    allocator = BlockAllocator(4)
    release(running(allocator, "gone", 33), allocator)
    assert (allocator.num_free, allocator.num_cached) == (4, 2)
    waiting = [make_sequence("first", [1] * 40, 1), make_sequence("second", [9] * 20, 1)]
    plan = plan_step([], waiting, allocator, LIMITS)
    assert admitted(plan) == ["first"]


def test_planning_changes_nothing() -> None:
    allocator = BlockAllocator(2)
    old = running(allocator, "old", 15, num_output=2)
    young = running(allocator, "young", 15, num_output=2, token=3)
    new = make_sequence("new", [1])
    before = [(s.num_computed, list(s.block_ids)) for s in (old, young, new)]
    plan_step([old, young], [new], allocator, LIMITS)
    assert [(s.num_computed, list(s.block_ids)) for s in (old, young, new)] == before
    assert allocator.num_free == 0


@given(st.lists(st.integers(1, 90), max_size=12), st.integers(1, 64))
def test_the_prefill_budget_is_spent_and_never_exceeded(pending: list[int], budget: int) -> None:
    work = {make_sequence(str(at), [1]): left for at, left in enumerate(pending)}
    counts = share_prefill(work, budget)
    assert all(counts[sequence] == 1 for sequence, left in work.items() if left == 1)
    reading = [sequence for sequence, left in work.items() if left > 1]
    assert all(0 <= counts[sequence] <= work[sequence] for sequence in reading)
    assert sum(counts[sequence] for sequence in reading) == min(budget, sum(work[s] for s in reading))
    if reading:
        assert counts[reading[0]] >= min(work[reading[0]], budget - budget // 2)
        least = min(reading, key=lambda sequence: work[sequence])
        assert counts[least] >= min(work[least], budget // 2)


class Simulation:
    """Acts on plans as the loop does, without a model."""

    def __init__(self, sequences: list[Sequence], num_blocks: int, limits: Limits) -> None:
        self.waiting, self.running = WaitingQueue(), list[Sequence]()
        for sequence in sequences:
            self.waiting.add(sequence)
        self.allocator, self.limits = BlockAllocator(num_blocks), limits

    def step(self) -> None:
        first = [*self.running, *self.waiting][0]
        plan = plan_step(self.running, self.waiting, self.allocator, self.limits)
        assert first not in plan.preempted
        assert any(chunk.sequence is first for chunk in plan.chunks), "the longest admitted stands still"
        youngest_first = self.running[: -len(plan.preempted) - 1 : -1]
        assert list(plan.preempted) == youngest_first
        for victim in plan.preempted:
            release(victim, self.allocator)
            self.running.remove(victim)
            self.waiting.put_back(victim)
        for admission in plan.admitted:
            self.waiting.take(admission.sequence)
            self.running.append(admission.sequence)
            take_prefix(admission.sequence, self.allocator, list(admission.prefix))
        assert len(self.running) <= self.limits.max_batch
        prefilled = sum(c.num_tokens for c in plan.chunks if c.sequence.num_pending > 1)
        assert prefilled <= self.limits.prefill_chunk
        decoding = {sequence for sequence in self.running if sequence.num_pending == 1}
        for chunk in plan.chunks:
            wanted = num_blocks_for(chunk.sequence.num_computed + chunk.num_tokens)
            new = max(0, wanted - len(chunk.sequence.block_ids))
            chunk.sequence.block_ids += self.allocator.allocate(new)
        for chunk in plan.chunks:
            self._advance(chunk.sequence, chunk.num_tokens)
        self.allocator.check()
        if plan.admitted:  # nobody who decodes pays for a newcomer
            assert decoding <= {chunk.sequence for chunk in plan.chunks}

    def _advance(self, sequence: Sequence, count: int) -> None:
        assert 1 <= count <= sequence.num_pending
        sequence.num_computed += count
        publish_full_blocks(sequence, self.allocator)
        if sequence.num_pending == 0:
            sequence.output_ids.append(0)
            if len(sequence.output_ids) == sequence.max_new_tokens:
                release(sequence, self.allocator)
                self.running.remove(sequence)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 60), st.integers(1, 30), st.integers(0, 2), st.sampled_from("abc")),
        min_size=1,
        max_size=12,
    ),
    st.integers(6, 20),
    st.integers(1, 5),
    st.sampled_from([1, 7, 16, 64]),
)
def test_everything_ends_and_the_longest_admitted_always_advances(
    requests: list[tuple[int, int, int, str]], num_blocks: int, max_batch: int, chunk: int
) -> None:
    sequences = [
        make_sequence(str(at), [token] * prompt, answer, caller=caller)
        for at, (prompt, answer, token, caller) in enumerate(requests)
    ]
    simulation = Simulation(sequences, num_blocks, Limits(max_batch, chunk))
    for _ in range(20_000):
        if not (simulation.running or simulation.waiting):
            break
        simulation.step()
    assert all(len(sequence.output_ids) == sequence.max_new_tokens for sequence in sequences)
    assert simulation.allocator.num_free == num_blocks
