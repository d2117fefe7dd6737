"""The engine loop: schedules, runs and postprocesses steps until it is drained.

In: sequences and cancellations, from any thread. Out: a list of `Event` a step, handed to `deliver`
in the loop's thread. Blocks are given out and taken back here and nowhere else. Knows no HTTP.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Iterable

from engine.batch import build_batch, in_row_order
from engine.blocks import BlockAllocator
from engine.commit import commit
from engine.errors import Draining, EngineError, StepFailed
from engine.kv_cache import BLOCK_TOKENS, KVCache, num_blocks_for
from engine.model import Model
from engine.observer import Observer
from engine.places import PlaceLimits, Places
from engine.prefix import publish_full_blocks, release, take_prefix
from engine.rates import EndRate, StepRates, least
from engine.sampler import Choice, sample
from engine.scheduler import Chunk, Limits, Plan, plan_step
from engine.sequence import Event, Sequence
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
        """Schedule, run, postprocess. A failure ends the sequences of this step only."""
        plan = plan_step(self.running, self.waiting, self.allocator, self.limits)
        if not plan.chunks:
            return []
        begun = self.clock()
        events: list[Event] = []
        try:
            self._apply(plan)
            chunks = in_row_order(plan.chunks)
            final = [chunk for chunk in chunks if chunk.is_final]
            choices = self._compute(chunks, final)
            self._postprocess(chunks, final, choices, events)
        except Exception as error:
            log.exception("step of %d sequences failed", len(plan.chunks))
            failure = StepFailed(f"The engine failed while computing this request ({type(error).__name__}).")
            hit = [chunk.sequence for chunk in plan.chunks if chunk.sequence in self.running]
            return events + [self._fail(sequence, failure) for sequence in hit]
        self._measure(plan, self.clock() - begun)
        return events

    def _apply(self, plan: Plan) -> None:
        for sequence in plan.preempted:
            release(sequence, self.allocator)
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
            wanted = num_blocks_for(sequence.num_computed + chunk.num_tokens) - len(sequence.block_ids)
            sequence.block_ids += self.allocator.allocate(max(0, wanted))

    def _note_admission(self, sequence: Sequence) -> None:
        sequence.admitted_s = self.clock()
        sequence.num_cached = sequence.num_computed
        if self.observer:
            self.observer.admitted(sequence)

    def _compute(self, chunks: list[Chunk], final: list[Chunk]) -> list[Choice]:
        config = self.model.config
        repeats = config.num_heads // config.num_kv_heads
        batch = build_batch(chunks, repeats, self.model.dtype, self.model.device)
        logits = self.model.forward(batch, self.cache).logits  # [final, V]
        return sample(logits, [chunk.sequence for chunk in final]) if final else []

    def _postprocess(
        self, chunks: list[Chunk], final: list[Chunk], choices: list[Choice], events: list[Event]
    ) -> None:
        """Fills `events` one by one, so that a failure half-way loses none."""
        for chunk in chunks:
            chunk.sequence.num_computed += chunk.num_tokens
            if self.prefix_cache:
                publish_full_blocks(chunk.sequence, self.allocator)
        now = self.clock()
        for chunk, choice in zip(final, choices, strict=True):
            events.append(self._commit(chunk.sequence, choice, now))

    def _commit(self, sequence: Sequence, choice: Choice, now: float) -> Event:
        is_first = sequence.first_token_s is None
        event = commit(sequence, choice, now)
        if is_first and self.observer:
            self.observer.first_token(sequence)
        if sequence.finish_reason is not None:
            self._end(sequence, sequence.finish_reason)
        return event

    def _measure(self, plan: Plan, seconds: float) -> None:
        prefilled = sum(chunk.num_tokens for chunk in plan.chunks if chunk.num_tokens > 1)
        decoding = sum(1 for chunk in plan.chunks if chunk.num_tokens == 1)
        self.rates.observe(decoding, prefilled, seconds)
        self.ends.observe(sum(1 for chunk in plan.chunks if chunk.sequence.finish_reason), seconds)
        if self.observer:
            self.observer.step_done(seconds)
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
        release(sequence, self.allocator)
        was_running = sequence in self.running
        (self.running if was_running else self.waiting).remove(sequence)
        self.places.leave(sequence.caller, was_running=was_running)
        if self.observer:
            self.observer.ended(sequence, reason)

    def warm_up(self, sequences: Iterable[Sequence]) -> None:
        """Run sequences to their end before anything is served, so that the first rates are measured ones."""
        for sequence in sequences:
            self.rates = StepRates()  # the first pass pays for the libraries' own set-up
            self.submit(sequence)
            self.take_commands()
            while self.running or self.waiting:
                self.step()
        self.ends = EndRate()  # these were no answers anybody asked for
