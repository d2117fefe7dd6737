"""The engine loop: schedules, runs and postprocesses steps until it is drained.

In: sequences and cancellations, from any thread. Out: a list of `Event` a step, handed to `deliver`
in the loop's thread. Blocks are given out and taken back here and nowhere else. Knows no HTTP.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from engine.batch import build_batch, in_row_order
from engine.errors import Draining, EngineError, QueueFull, StepFailed
from engine.kv_cache import BLOCK_TOKENS, BlockAllocator, KVCache, num_blocks_for
from engine.model import Llama
from engine.rates import StepRates
from engine.sampler import Choice, sample
from engine.scheduler import Chunk, Limits, Plan, plan_step
from engine.sequence import Event, Sequence

log = logging.getLogger("engine")


class Observer(Protocol):
    """What the loop reports for metrics; see `engine.metrics`."""

    def step_done(self, seconds: float) -> None: ...
    def first_token(self, sequence: Sequence) -> None: ...
    def preempted(self, count: int) -> None: ...
    def ended(self, sequence: Sequence, reason: str) -> None: ...


class Engine:
    """One model with its cache. `submit` and `cancel` may be called from any thread."""

    def __init__(
        self,
        model: Llama,
        *,
        limits: Limits,
        kv_tokens: int,
        max_waiting: int,
        deliver: Callable[[list[Event]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        config = model.config
        self.model, self.limits, self.max_waiting = model, limits, max_waiting
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
        self.rates = StepRates()
        self.running: list[Sequence] = []  # in order of arrival, like `waiting`
        self.waiting: deque[Sequence] = deque()
        self._inbox: queue.SimpleQueue[Sequence | str | None] = queue.SimpleQueue()
        self._open_lock = threading.Lock()
        self._num_open = 0
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
        return 1.0 - self.allocator.num_free / self.allocator.num_blocks

    @property
    def num_open(self) -> int:
        """Sequences submitted and not yet ended."""
        return self._num_open

    def submit(self, sequence: Sequence) -> None:
        """Queue a sequence that fits `max_context`. Raises `QueueFull` or `Draining`."""
        assert sequence.max_tokens <= self.max_context, "the HTTP side checks lengths"
        if self.is_draining:
            raise Draining("The engine is shutting down; send the request elsewhere.")
        with self._open_lock:
            if self._num_open >= self.limits.max_batch + self.max_waiting:
                raise QueueFull(f"All {self.max_waiting} waiting places are taken; try again shortly.")
            self._num_open += 1
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
        return self.is_draining and (self._num_open == 0 or self.clock() >= self._drain_until_s)

    def take_commands(self, *, wait: bool = False) -> None:
        """Apply what `submit` and `cancel` left; with `wait`, sleep until there is something."""
        while wait or not self._inbox.empty():
            command = self._inbox.get()
            wait = False
            if isinstance(command, Sequence):
                self.waiting.append(command)
            elif command is not None:
                self._cancel(command)

    def step(self) -> list[Event]:
        """Schedule, run, postprocess. A failure ends the sequences of this step only."""
        plan = plan_step(self.running, self.waiting, self.allocator.num_free, self.limits)
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
            self._release(sequence)
            self.running.remove(sequence)
            self.waiting.appendleft(sequence)
        for sequence in plan.admitted:
            assert self.waiting[0] is sequence, "admission is in order of arrival"
            self.running.append(self.waiting.popleft())
            if sequence.admitted_s is None:
                sequence.admitted_s = self.clock()
        for chunk in plan.chunks:
            sequence = chunk.sequence
            wanted = num_blocks_for(sequence.num_computed + chunk.num_tokens) - len(sequence.block_ids)
            sequence.block_ids += self.allocator.allocate(max(0, wanted))

    def _compute(self, chunks: list[Chunk], final: list[Chunk]) -> list[Choice]:
        config = self.model.config
        repeats = config.num_heads // config.num_kv_heads
        batch = build_batch(chunks, repeats, self.model.dtype, self.model.device)
        logits = self.model.forward(batch, self.cache)  # [final, V]
        return sample(logits, [chunk.sequence for chunk in final]) if final else []

    def _postprocess(
        self, chunks: list[Chunk], final: list[Chunk], choices: list[Choice], events: list[Event]
    ) -> None:
        """Fills `events` one by one, so that a failure half-way loses none."""
        for chunk in chunks:
            chunk.sequence.num_computed += chunk.num_tokens
        now = self.clock()
        for chunk, choice in zip(final, choices, strict=True):
            events.append(self._commit(chunk.sequence, choice, now))

    def _commit(self, sequence: Sequence, choice: Choice, now: float) -> Event:
        """Append the token, show its text, end the sequence where it ends."""
        sequence.output_ids.append(choice.token_id)
        if sequence.first_token_s is None:
            sequence.first_token_s = now
            if self.observer:
                self.observer.first_token(sequence)
        is_end = choice.token_id in sequence.end_ids
        offset = sequence.text.length
        shown = "" if is_end else sequence.text.push(choice.token_id)
        if is_end or sequence.text.is_stopped:
            sequence.finish_reason = "stop"
        elif len(sequence.output_ids) >= sequence.max_new_tokens:
            sequence.finish_reason = "length"
        timings = None
        if sequence.finish_reason is not None:
            shown += sequence.text.close()
            sequence.finished_s = now
            timings = sequence.timings()
            self._end(sequence, sequence.finish_reason)
        return Event(
            sequence_id=sequence.id,
            text=shown,
            logprobs=() if is_end or choice.logprob is None else ((choice.logprob, offset),),
            num_output=len(sequence.output_ids),
            finish_reason=sequence.finish_reason,
            timings=timings,
        )

    def _measure(self, plan: Plan, seconds: float) -> None:
        prefilled = sum(chunk.num_tokens for chunk in plan.chunks if chunk.num_tokens > 1)
        decoding = sum(1 for chunk in plan.chunks if chunk.num_tokens == 1)
        self.rates.observe(decoding, prefilled, seconds)
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
        self._release(sequence)
        place: list[Sequence] | deque[Sequence] = self.running if sequence in self.running else self.waiting
        place.remove(sequence)
        with self._open_lock:
            self._num_open -= 1
        if self.observer:
            self.observer.ended(sequence, reason)

    def _release(self, sequence: Sequence) -> None:
        self.allocator.free(sequence.block_ids)
        sequence.block_ids = []
        sequence.num_computed = 0

    def warm_up(self, sequences: Iterable[Sequence]) -> None:
        """Run sequences to their end before anything is served, so that the first rates are measured ones."""
        for sequence in sequences:
            self.rates = StepRates()  # the first pass pays for the libraries' own set-up
            self.submit(sequence)
            self.take_commands()
            while self.running or self.waiting:
                self.step()
