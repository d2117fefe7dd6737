"""The engine loop: schedules, runs and postprocesses steps until it is drained.

In: sequences and cancellations, from any thread. Out: a list of `Event` a step, handed to `deliver`
in the loop's thread. Blocks are given out and taken back here and nowhere else. Knows no HTTP.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Iterable, Mapping

from engine.batch import in_row_order
from engine.blocks import BlockAllocator
from engine.commit import commit
from engine.compute import Computed, compute
from engine.cost_curve import measure_curve
from engine.drafters.base import Drafter
from engine.errors import Draining, EngineError, StepFailed
from engine.judge import Judged
from engine.kv_cache import BLOCK_TOKENS, KVCache, num_blocks_for
from engine.model import Model
from engine.observer import Observer, StepTimes
from engine.places import PlaceLimits, Places
from engine.prefix import publish_full_blocks, release, take_prefix, trim
from engine.rates import EndRate, StepRates, least
from engine.scheduler import Chunk, Limits, Plan, plan_step
from engine.sequence import Event, Sequence
from engine.speculation import Drafts, Speculation, round_of
from engine.step_costs import StepCosts
from engine.waiting import WaitingQueue

log = logging.getLogger("engine")


class Engine:
    """One model with its cache. `submit` and `cancel` may be called from any thread."""

    def __init__(
        self,
        model: Model,
        *,
        limits: Limits,
        kv_tokens: int,
        max_waiting: int,
        max_waiting_per_caller: int,
        deliver: Callable[[list[Event]], None],
        prefix_cache: bool = True,
        drafter: Drafter | None = None,
        drafter_name: str = "",
        draft_confidence: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        config = model.config
        self.model, self.limits, self.prefix_cache = model, limits, prefix_cache
        self.allocator = BlockAllocator(num_blocks_for(kv_tokens))
        self.cache = KVCache(
            config.num_layers,
            self.allocator.num_blocks,
            config.num_kv_heads,
            config.head_dim,
            model.dtype,
            model.device,
        )
        self.speculation = None
        if drafter is not None:
            num_blocks = self.allocator.num_blocks
            self.speculation = Speculation(drafter_name, drafter, model, num_blocks, draft_confidence)
        self.deliver, self.clock = deliver, clock
        self.observer: Observer | None = None
        self.rates, self.ends = StepRates(), EndRate()
        self.running: list[Sequence] = []  # longest admitted first
        self.waiting = WaitingQueue()
        self.places = Places(
            PlaceLimits(limits.max_batch, max_waiting, max_waiting_per_caller), self.next_end_s
        )
        self._inbox: queue.SimpleQueue[Sequence | str | None] = queue.SimpleQueue()
        self.is_draining = False
        self._drain_until_s = 0.0

    @property
    def drafter_name(self) -> str | None:
        """None where nothing is drafted, also after the drafter has failed."""
        speculation = self.speculation
        return None if speculation is None or speculation.is_broken else speculation.name

    @property
    def kv_total_tokens(self) -> int:
        return self.allocator.num_blocks * BLOCK_TOKENS

    @property
    def max_context(self) -> int:
        """Tokens, prompt and answer together, that one sequence may have."""
        return min(self.model.config.max_positions, self.kv_total_tokens)

    @property
    def kv_used_fraction(self) -> float:
        """Share of the blocks that sequences hold; what is only kept for reuse counts as free."""
        return self.allocator.num_held / self.allocator.num_blocks

    @property
    def num_open(self) -> int:
        """Sequences submitted and not yet ended."""
        return self.places.num_open

    def next_end_s(self) -> float | None:
        """Seconds until some sequence is expected to end: as lately, or when the next reaches its limit."""
        running = self.running.copy()
        limits = (
            self.rates.finish_s(sequence.num_pending, sequence.max_tokens - sequence.num_tokens, len(running))
            for sequence in running
        )
        return least([self.ends.mean_s, *limits])

    def check_open(self, caller: str) -> None:
        """Raise what `submit` would raise for a sequence of `caller`, before any work is put into it."""
        if self.is_draining:
            raise Draining("The engine is shutting down; send the request elsewhere.")
        refusal = self.places.refusal(caller)
        if refusal is not None:
            raise refusal

    def submit(self, sequence: Sequence) -> None:
        """Queue a sequence that fits `max_context`. Raises `QueueFull` or `Draining`."""
        assert sequence.max_tokens <= self.max_context, "the HTTP side checks lengths"
        self.check_open(sequence.caller)
        self.places.enter(sequence.caller)
        sequence.arrived_s = self.clock()
        self._inbox.put(sequence)

    def cancel(self, sequence_id: str) -> None:
        """Free what the sequence holds before the next step. Unknown and ended ids are ignored."""
        self._inbox.put(sequence_id)

    def drain(self, grace_s: float) -> None:
        """Refuse new sequences; `run` ends when the open ones have, at the latest after `grace_s`.

        May be called from a signal handler.
        """
        self._drain_until_s = self.clock() + grace_s
        self.is_draining = True
        self._inbox.put(None)  # wakes an idle loop

    def run(self) -> None:
        """Step until drained. What is still open then gets an error event.

        Run it in the thread that loaded the model: OpenMP keeps a team of workers for every thread that
        computes, and with more of them than cores they sleep at each barrier, which doubles a step's time.
        """
        while not self._is_drained():
            self.take_commands(wait=not (self.running or self.waiting))
            events = self.step()
            if events:
                self.deliver(events)
        self.take_commands()
        error = Draining("The engine stopped before this request was finished.")
        events = [self._fail(sequence, error) for sequence in [*self.running, *self.waiting]]
        if events:
            self.deliver(events)

    def _is_drained(self) -> bool:
        return self.is_draining and (self.num_open == 0 or self.clock() >= self._drain_until_s)

    def take_commands(self, *, wait: bool = False) -> None:
        """Apply what `submit` and `cancel` left; with `wait`, sleep until there is something."""
        while wait or not self._inbox.empty():
            command = self._inbox.get()
            wait = False
            if isinstance(command, Sequence):
                self.waiting.add(command)
            elif command is not None:
                self._cancel(command)

    def step(self) -> list[Event]:
        """Draft, schedule, compute, postprocess. A failure ends the sequences of this step only."""
        begun_s = self.clock()
        drafts = self.speculation.draft(self.running) if self.speculation else Drafts()
        propose_s = self.clock() - begun_s
        plan = plan_step(self.running, self.waiting, self.allocator, self.limits, drafts.wanted)
        if not plan.chunks:
            return []
        events: list[Event] = []
        num_before = sum(len(chunk.sequence.output_ids) for chunk in plan.chunks)
        try:
            self._apply(plan)
            chunks = in_row_order(plan.chunks)
            work = compute(self.model, self.cache, self.speculation, chunks, drafts, self.clock)
            self._postprocess(work, drafts, events)
        except Exception as error:
            log.exception("step of %d sequences failed", len(plan.chunks))
            failure = StepFailed(f"The engine failed while computing this request ({type(error).__name__}).")
            hit = [chunk.sequence for chunk in plan.chunks if chunk.sequence in self.running]
            return events + [self._fail(sequence, failure) for sequence in hit]
        num_tokens = sum(len(chunk.sequence.output_ids) for chunk in plan.chunks) - num_before
        self._measure(plan, work, drafts, num_tokens, propose_s, self.clock() - begun_s)
        return events

    def _apply(self, plan: Plan) -> None:
        for sequence in plan.preempted:
            self._release(sequence)
            self.running.remove(sequence)
            self.waiting.put_back(sequence)
            self.places.paused(sequence.caller)
        for admission in plan.admitted:
            sequence = admission.sequence
            self.waiting.take(sequence)
            self.running.append(sequence)
            self.places.began(sequence.caller)
            take_prefix(sequence, self.allocator, list(admission.prefix))
            if sequence.admitted_s is None:
                self._note_admission(sequence)
        for chunk in plan.chunks:
            sequence = chunk.sequence
            wanted = num_blocks_for(sequence.num_computed + chunk.width) - len(sequence.block_ids)
            sequence.block_ids += self.allocator.allocate(max(0, wanted))

    def _note_admission(self, sequence: Sequence) -> None:
        sequence.admitted_s = self.clock()
        sequence.num_cached = sequence.num_computed
        if self.observer:
            self.observer.admitted(sequence)

    def _postprocess(self, work: Computed, drafts: Drafts, events: list[Event]) -> None:
        """Fills `events` one by one, so that a failure half-way loses none."""
        now = self.clock()
        num_decoding = sum(1 for chunk in work.chunks if chunk.is_round)
        for chunk in work.chunks:
            sequence, judged = chunk.sequence, work.judged.get(chunk.sequence)
            if judged is None:
                sequence.num_computed += chunk.num_tokens
                self._publish(sequence)
            else:
                events.append(self._advance(chunk, judged, drafts, num_decoding, now))

    def _advance(self, chunk: Chunk, judged: Judged, drafts: Drafts, num_decoding: int, now: float) -> Event:
        """A sequence's new tokens, with all that follows from them."""
        sequence, is_round, num_before = chunk.sequence, chunk.is_round, chunk.sequence.num_tokens
        is_first = sequence.first_token_s is None
        if self.speculation:
            self.speculation.learn(drafts, chunk, judged)
        event = commit(sequence, judged.choices, now)
        # An answer may end within its drafts; what was stored for the rest of them is nobody's.
        reached = sequence.num_computed + chunk.num_tokens + judged.accepted
        sequence.num_computed = min(reached, sequence.num_tokens)
        self._publish(sequence)
        if sequence.finish_reason is None:
            trim(sequence, self.allocator)
        if is_round:
            done = round_of(drafts, chunk, judged, sequence.num_tokens - num_before)
            sequence.counts.add(done)
            if self.observer:
                self.observer.round_done(sequence, done, num_decoding)
        if is_first and self.observer:
            self.observer.first_token(sequence)
        if sequence.finish_reason is not None:
            self._end(sequence, sequence.finish_reason)
        return event

    def _publish(self, sequence: Sequence) -> None:
        if self.prefix_cache:
            publish_full_blocks(sequence, self.allocator)

    def _release(self, sequence: Sequence) -> None:
        """Let go of its blocks, which the drafter must have filled by then."""
        if self.speculation:
            self.speculation.catch_up()
        release(sequence, self.allocator)

    def _measure(
        self, plan: Plan, work: Computed, drafts: Drafts, num_tokens: int, propose_s: float, total_s: float
    ) -> None:
        prefilled = sum(chunk.num_tokens for chunk in plan.chunks if chunk.num_tokens > 1)
        decoding = [chunk.sequence for chunk in plan.chunks if chunk.num_tokens == 1]
        self.rates.observe(len(decoding), prefilled, num_tokens, total_s)
        self.ends.observe(sum(1 for chunk in plan.chunks if chunk.sequence.finish_reason), total_s)
        draft_s = propose_s + work.extend_s
        overhead_s = total_s - draft_s - work.verify_s - work.sample_s
        times = StepTimes(draft_s, work.verify_s, work.sample_s, overhead_s)
        if self.speculation and not prefilled:
            self.speculation.observe(drafts, decoding, work.num_rows, propose_s, times)
        if self.observer:
            self.observer.step_done(times)
            if plan.preempted:
                self.observer.preempted(len(plan.preempted))

    def _cancel(self, sequence_id: str) -> None:
        for sequence in [*self.running, *self.waiting]:
            if sequence.id == sequence_id:
                self._end(sequence, "cancelled")

    def _fail(self, sequence: Sequence, error: EngineError) -> Event:
        self._end(sequence, "error")
        return Event(sequence_id=sequence.id, error=error)

    def _end(self, sequence: Sequence, reason: str) -> None:
        """The one way out: blocks back, place free, counted."""
        self._release(sequence)
        was_running = sequence in self.running
        (self.running if was_running else self.waiting).remove(sequence)
        self.places.leave(sequence.caller, was_running=was_running)
        if self.observer:
            self.observer.ended(sequence, reason)

    def warm_up(self, sequences: Iterable[Sequence], curve: Mapping[int, float] | None = None) -> None:
        """Run sequences to their end before anything is served, so that the first rates are measured ones.

        `curve`: seconds of a pass by rows, where they are known from an earlier start.
        """
        if self.speculation:
            width = 1 + self.speculation.drafter.num_slots
            most_rows = self.limits.max_batch * width
            self.speculation.costs = StepCosts(
                curve or measure_curve(self.model, self.cache, most_rows, width, self.clock)
            )
        for sequence in sequences:
            self.rates = StepRates()  # the first pass pays for the libraries' own set-up
            self.submit(sequence)
            self.take_commands()
            while self.running or self.waiting:
                self.step()
        self.ends = EndRate()  # these were no answers anybody asked for
