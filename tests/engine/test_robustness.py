"""1,200 random requests, half with drafts, against a toy model with little memory: all end, nothing is lost.

They come in runs of 20, each with limits of its own, so that Hypothesis can vary those too.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.drafters.lookup import PromptLookup
from engine.errors import QueueFull
from engine.kv_cache import BLOCK_TOKENS, num_blocks_for
from engine.loop import Engine
from engine.model import Llama
from engine.sequence import Event, Sampling, Speculation
from tests.engine.test_loop import Recorder, random_prompt
from tests.engine.toy import make_engine, make_sequence

NUM_EXAMPLES, NUM_REQUESTS = 30, 20
KV_TOKENS = 12 * BLOCK_TOKENS
END_ID = 5
PREFIXES = [random_prompt(seed, 80) for seed in range(3)]


@dataclass(frozen=True)
class Request:
    """One request, and what happens to it."""

    prefix: int
    num_shared: int
    num_own: int
    max_new_tokens: int
    min_new_tokens: int
    caller: str
    temperature: float
    stops: tuple[str, ...]
    steps_before: int  # steps of the engine before it comes
    cancelled_after: int | None  # steps from then on
    speculation: Speculation


requests = st.builds(
    Request,
    prefix=st.integers(0, 2),
    num_shared=st.integers(0, 80),
    num_own=st.integers(1, 40),
    max_new_tokens=st.integers(1, 60),
    min_new_tokens=st.sampled_from([0, 0, 5]),
    caller=st.sampled_from(["", "a", "b", "c"]),
    temperature=st.sampled_from([0.0, 0.8, 1.5]),
    stops=st.sampled_from([(), ("a", "Zz")]),
    steps_before=st.sampled_from([0, 0, 0, 1, 2, 10]),
    cancelled_after=st.one_of(st.none(), st.none(), st.integers(0, 40)),
    speculation=st.sampled_from(["auto", "fixed", "static", "off"]),
)


class Run:
    """Steps an engine and checks its books after every step."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.accepted: set[str] = set()
        self.refused: set[str] = set()
        self.cancelled: set[str] = set()
        self.last: dict[str, Event] = {}
        self._cancel_at: list[tuple[int, str]] = []
        self._num_steps = 0

    def submit(self, name: str, request: Request, seed: int) -> None:
        prompt = PREFIXES[request.prefix][: request.num_shared] + random_prompt(seed, request.num_own)
        sequence = make_sequence(
            name,
            prompt,
            max(1, min(request.max_new_tokens, KV_TOKENS - len(prompt))),
            sampling=Sampling(temperature=request.temperature, seed=seed),
            end_ids=frozenset({END_ID}),
            stops=request.stops,
            caller=request.caller,
            min_new_tokens=min(request.min_new_tokens, request.max_new_tokens),
            suppressed_ids=frozenset({END_ID}),
        )
        sequence.speculation = request.speculation
        try:
            self.engine.submit(sequence)
        except QueueFull:
            self.refused.add(name)
            return
        self.accepted.add(name)
        if request.cancelled_after is not None:
            self._cancel_at.append((self._num_steps + request.cancelled_after, name))

    def step(self) -> None:
        for at, name in self._cancel_at:
            if at == self._num_steps and name not in self.last:
                self.engine.cancel(name)
                self.cancelled.add(name)
        self._num_steps += 1
        self.engine.take_commands()
        for event in self.engine.step():
            assert event.error is None
            assert event.sequence_id not in self.last, "an answer went on after its end"
            if event.is_last:
                self.last[event.sequence_id] = event
        self._check_books()

    def _check_books(self) -> None:
        engine = self.engine
        engine.allocator.check()
        held: dict[int, int] = {}
        for sequence in engine.running:
            assert len(sequence.block_ids) >= num_blocks_for(sequence.num_computed)
            assert sequence.num_pending >= 1
            for block in sequence.block_ids:
                held[block] = held.get(block, 0) + 1
        assert engine.allocator.num_held == len(held)
        assert all(engine.allocator.holders(block) == count for block, count in held.items())
        assert not any(sequence.block_ids for sequence in engine.waiting)
        assert len(engine.running) <= engine.limits.max_batch
        assert engine.num_open == len(engine.running) + len(engine.waiting)
        writing = [block for s in engine.running for block in s.block_ids[s.num_computed // BLOCK_TOKENS :]]
        assert len(set(writing)) == len(writing), "two sequences write into one block"
        assert all(engine.allocator.holders(block) == 1 for block in writing)


@pytest.mark.parametrize("drafts", [False, True], ids=["plain", "drafts"])
def test_random_requests_all_end_and_give_everything_back(toy_model: Llama, drafts: bool) -> None:
    seen = Counter[str]()

    @settings(max_examples=NUM_EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        asked=st.lists(requests, min_size=NUM_REQUESTS, max_size=NUM_REQUESTS),
        max_batch=st.integers(1, 6),
        chunk=st.sampled_from([3, 16, 40]),
        max_waiting=st.sampled_from([3, 12, 60]),
    )
    def check(asked: list[Request], max_batch: int, chunk: int, max_waiting: int) -> None:
        engine = make_engine(
            toy_model,
            max_batch=max_batch,
            chunk=chunk,
            kv_tokens=KV_TOKENS,
            max_waiting=max_waiting,
            max_waiting_per_caller=-(-max_waiting // 2),
            drafter=PromptLookup(shortest=1) if drafts else None,
        )
        seen.update(run_all_requests(engine, asked))

    check()
    assert min(seen[what] for what in ("finished", "refused", "cancelled", "preempted", "cached")) > 0
    assert (seen["verified"] > 0) == drafts


def run_all_requests(engine: Engine, asked: list[Request]) -> dict[str, int]:
    """Returns how often each thing happened."""
    engine.observer = recorder = Recorder()
    run = Run(engine)
    for at, request in enumerate(asked):
        for _ in range(request.steps_before):
            run.step()
        run.submit(str(at), request, seed=at)
    for _ in range(20_000):
        if not engine.num_open:
            break
        run.step()
    assert engine.num_open == 0, "some request never ended"
    assert run.accepted == set(run.last) | run.cancelled
    assert len(run.accepted) + len(run.refused) == len(asked)
    assert set(recorder.reasons) == run.accepted
    assert engine.allocator.num_held == 0
    assert engine.allocator.num_free == engine.allocator.num_blocks
    return {
        "finished": len(run.last),
        "refused": len(run.refused),
        "cancelled": len(run.cancelled),
        "preempted": recorder.num_preempted,
        "cached": recorder.num_cached,
        "verified": sum(done.verified for done in recorder.rounds),
    }
