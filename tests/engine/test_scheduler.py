from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.kv_cache import BLOCK_TOKENS, BlockAllocator, num_blocks_for
from engine.scheduler import Limits, Plan, plan_step
from engine.sequence import Sequence
from tests.engine.toy import make_sequence

LIMITS = Limits(max_batch=4, prefill_chunk=32)


def running(name: str, num_prompt: int, *, num_output: int = 0, computed: int | None = None) -> Sequence:
    sequence = make_sequence(name, [1] * num_prompt, 100)
    sequence.output_ids = [2] * num_output
    sequence.num_computed = sequence.num_tokens - 1 if computed is None else computed
    sequence.block_ids = list(range(num_blocks_for(sequence.num_computed)))
    return sequence


def chunks_of(plan: Plan) -> dict[str, int]:
    return {chunk.sequence.id: chunk.num_tokens for chunk in plan.chunks}


def test_decoding_goes_on_while_a_long_prompt_is_read_in_chunks() -> None:
    decoding, reading = running("a", 10, num_output=3), running("b", 200, computed=32)
    plan = plan_step([decoding, reading], [], 100, LIMITS)
    assert chunks_of(plan) == {"a": 1, "b": 32}


def test_prompts_share_one_budget_in_order_of_arrival() -> None:
    waiting = [make_sequence(name, [1] * 20) for name in "abc"]
    plan = plan_step([], waiting, 100, LIMITS)
    assert chunks_of(plan) == {"a": 20, "b": 12}
    assert [sequence.id for sequence in plan.admitted] == ["a", "b"]


def test_no_more_run_than_the_batch_holds() -> None:
    plan = plan_step([running(name, 4) for name in "abc"], [make_sequence(n, [1]) for n in "de"], 100, LIMITS)
    assert [sequence.id for sequence in plan.admitted] == ["d"]


def test_a_later_short_prompt_does_not_pass_one_that_must_wait_for_blocks() -> None:
    plan = plan_step(
        [running("a", 4)], [make_sequence("big", [1] * 160), make_sequence("small", [1])], 5, LIMITS
    )
    assert plan.admitted == ()


def test_the_youngest_gives_way_when_blocks_run_out() -> None:
    old, young = running("old", 15, num_output=2), running("young", 15, num_output=2)
    assert old.num_computed == BLOCK_TOKENS
    plan = plan_step([old, young], [make_sequence("new", [1])], 0, LIMITS)
    assert [sequence.id for sequence in plan.preempted] == ["young"]
    assert chunks_of(plan) == {"old": 1}
    assert plan.admitted == ()


def test_planning_changes_nothing() -> None:
    old, young, new = (
        running("old", 16, num_output=1),
        running("young", 16, num_output=1),
        make_sequence("n", [1]),
    )
    before = [(s.num_computed, list(s.block_ids)) for s in (old, young, new)]
    plan_step([old, young], [new], 0, LIMITS)
    assert [(s.num_computed, list(s.block_ids)) for s in (old, young, new)] == before


class Simulation:
    """Acts on plans as the loop does, without a model."""

    def __init__(self, sequences: list[Sequence], num_blocks: int, limits: Limits) -> None:
        self.waiting, self.running = list(sequences), list[Sequence]()
        self.allocator, self.limits = BlockAllocator(num_blocks), limits

    def step(self) -> None:
        plan = plan_step(self.running, self.waiting, self.allocator.num_free, self.limits)
        assert plan.chunks, "nothing moves although there is work"
        oldest = (self.running or self.waiting)[0]
        assert oldest not in plan.preempted
        assert any(chunk.sequence is oldest for chunk in plan.chunks)
        for victim in plan.preempted:
            self._release(victim)
            self.running.remove(victim)
            self.waiting.insert(0, victim)
        for sequence in plan.admitted:
            assert self.waiting.pop(0) is sequence
            self.running.append(sequence)
        assert len(self.running) <= self.limits.max_batch
        prefilled = sum(c.num_tokens for c in plan.chunks if c.sequence.num_pending > 1)
        assert prefilled <= self.limits.prefill_chunk
        for chunk in plan.chunks:
            self._advance(chunk.sequence, chunk.num_tokens)

    def _advance(self, sequence: Sequence, count: int) -> None:
        assert 1 <= count <= sequence.num_pending
        wanted = num_blocks_for(sequence.num_computed + count) - len(sequence.block_ids)
        sequence.block_ids += self.allocator.allocate(max(0, wanted))
        sequence.num_computed += count
        if sequence.num_pending == 0:
            sequence.output_ids.append(0)
            if len(sequence.output_ids) == sequence.max_new_tokens:
                self._release(sequence)
                self.running.remove(sequence)

    def _release(self, sequence: Sequence) -> None:
        self.allocator.free(sequence.block_ids)
        sequence.block_ids, sequence.num_computed = [], 0


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 30)), min_size=1, max_size=12),
    st.integers(6, 20),
    st.integers(1, 5),
    st.sampled_from([1, 7, 16, 64]),
)
def test_everything_ends_and_the_oldest_always_advances(
    requests: list[tuple[int, int]], num_blocks: int, max_batch: int, chunk: int
) -> None:
    sequences = [make_sequence(str(at), [1] * prompt, answer) for at, (prompt, answer) in enumerate(requests)]
    simulation = Simulation(sequences, num_blocks, Limits(max_batch, chunk))
    for _ in range(20_000):
        if not (simulation.running or simulation.waiting):
            break
        simulation.step()
    assert all(len(sequence.output_ids) == sequence.max_new_tokens for sequence in sequences)
    assert simulation.allocator.num_free == num_blocks
