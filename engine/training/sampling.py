"""Samples answers from a target, as it would serve them: what its drafter has to foresee.

In: prompts, or none at all, and a loaded model. Out: a file of `Answers` that grows while it runs. All goes
through the engine's own loop, a new prompt as soon as an answer ends. Answer k depends on the settings and on
k alone, and the file holds the first ones without a gap: a run that was cut short goes on to the same file.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import time
from collections.abc import Sequence as Ordered
from dataclasses import dataclass
from pathlib import Path

from engine.drafters.base import Drafter
from engine.errors import StartError
from engine.fetch import Progress
from engine.loop import Engine
from engine.model import Model
from engine.scheduler import Limits
from engine.sequence import Event, Sampling, Sequence
from engine.text import TextStream
from engine.tokenizer import ModelTokenizer
from engine.training.answers import DOMAINS, Answers, Conversation, joined, read_notes
from engine.training.prompts import Prompt

log = logging.getLogger("engine")

_PREFILL_CHUNK = 256
_USUAL_PROMPT = 256  # tokens the cache has room for beside each answer
_LONGEST_PROMPT = 1024  # tokens; longer ones are left out
_LONGEST_OWN_PROMPT = 192  # tokens the model may write for a user; unfinished ones are left out
_LEAST_OWN_PROMPT = 8  # characters
_SAVE_EVERY_S = 60.0


@dataclass(frozen=True, slots=True)
class SampleSettings:
    """What is sampled. Answers take the temperatures in turn: one named twice is had twice as often."""

    out: Path
    num_tokens: int = 500_000  # of answers
    temperatures: tuple[float, ...] = (0.0, 0.7, 1.0, 1.0)
    max_tokens: int = 256  # of an answer
    seed: int = 0
    streams: int = 64  # answers at once


@dataclass(frozen=True, slots=True)
class Job:
    """Answer `number`. Where the model also writes the prompt, `prompt_ids` only open a user's turn."""

    number: int
    prompt_row: int
    prompt_ids: list[int]
    domain: int
    temperature: float
    seed: int


def sample(
    settings: SampleSettings,
    model: Model,
    tokenizer: ModelTokenizer,
    prompts: Ordered[Prompt] | None,
    *,
    drafter: Drafter | None = None,
    progress: Progress = lambda what, share: None,
) -> Answers:
    """Sample to `settings.out`, from where an earlier run with the same settings stopped.

    Without `prompts` the model writes them too, in a user's turn and at temperature 1. StartError where the
    file is from other settings, or no prompt can be used.
    """
    if not tokenizer.has_chat_template:
        raise StartError("the model has no chat template: it cannot be asked anything")
    work = _Work(settings, model, tokenizer, prompts, drafter)
    try:
        work.run(progress)
    finally:
        work.save()
    return work.saved


class Jobs:
    """All answers that may ever be asked for, by number."""

    def __init__(
        self, settings: SampleSettings, tokenizer: ModelTokenizer, prompts: Ordered[Prompt] | None
    ) -> None:
        self._settings = settings
        self._opening = user_opening(tokenizer) if prompts is None else []
        self._prompts = [
            (row, tokenizer.encode_chat([{"role": "user", "content": prompt.text}]), prompt.domain)
            for row, prompt in enumerate(prompts or ())
        ]
        self._prompts = [one for one in self._prompts if len(one[1]) <= _LONGEST_PROMPT]
        if prompts is not None and not self._prompts:
            raise StartError(f"none of the prompts is shorter than {_LONGEST_PROMPT} tokens")
        random.Random(settings.seed).shuffle(self._prompts)

    def job(self, number: int) -> Job:
        """Prompts come in the same shuffled order again and again, each time at their next temperature."""
        settings = self._settings
        seed = random.Random(f"{settings.seed} {number}").getrandbits(63)
        if self._opening:
            turn, row, prompt_ids, domain = number, number, self._opening, "chat"
        else:
            drawn, place = divmod(number, len(self._prompts))
            turn = place + drawn
            row, prompt_ids, domain = self._prompts[place]
        temperature = settings.temperatures[turn % len(settings.temperatures)]
        return Job(number, row, prompt_ids, DOMAINS.index(domain), temperature, seed)


def user_opening(tokenizer: ModelTokenizer) -> list[int]:
    """The tokens of a chat up to where the user's first message begins: what all chats have in common."""
    one, other = (tokenizer.encode_chat([{"role": "user", "content": text}]) for text in ("a b", "1 2"))
    count = next(at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return one[:count]


class _Work:
    def __init__(
        self,
        settings: SampleSettings,
        model: Model,
        tokenizer: ModelTokenizer,
        prompts: Ordered[Prompt] | None,
        drafter: Drafter | None,
    ) -> None:
        self._settings, self._tokenizer = settings, tokenizer
        self._recipe = _recipe(settings, model, prompts)
        self.saved, self._num_saved = _earlier(settings.out, self._recipe)
        self._fresh: list[Conversation] = []  # not saved yet
        self._num_tokens = self.saved.num_answer_tokens
        self._next_done = self._next_begun = self._num_saved
        self._ended: dict[int, Conversation | None] = {}  # that wait for those before them
        self._open: dict[str, tuple[Job, Sequence]] = {}
        self._jobs = Jobs(settings, tokenizer, prompts)
        self._writes_prompts = prompts is None
        self._end_ids = model.config.eos_ids | tokenizer.end_ids
        self._engine = _engine(settings, model, drafter)
        self._engine.warm_up([])  # measures what drafts cost, if there are any

    def run(self, progress: Progress) -> None:
        begun_s = saved_s = time.monotonic()
        goal, num_before = self._settings.num_tokens, self._num_tokens
        while self._num_tokens < goal:
            while self._engine.num_open < self._settings.streams:
                self._begin_next()
            self._engine.take_commands()
            for event in self._engine.step():
                if event.is_last:
                    self._end(event)
            self._take_ended()
            now = time.monotonic()
            rate = (self._num_tokens - num_before) / (now - begun_s)
            progress(f"sampling, {rate:.0f} tokens/s", min(1.0, self._num_tokens / goal))
            if now - saved_s >= _SAVE_EVERY_S:
                saved_s = now
                self.save()
                log.info("%d of %d answer tokens, %.0f tokens/s", self._num_tokens, goal, rate)

    def save(self) -> None:
        if self._next_done == self._num_saved:
            return
        self.saved, self._fresh = joined([self.saved, Answers.of(self._fresh)]), []
        self.saved.save(self._settings.out, recipe=self._recipe, num_jobs=self._next_done)
        self._num_saved = self._next_done

    def _begin_next(self) -> None:
        job = self._jobs.job(self._next_begun)
        self._next_begun += 1
        if self._writes_prompts:
            other_seed = job.seed ^ 1  # the answer is drawn with numbers of its own
            self._submit("prompt", job, job.prompt_ids, Sampling(1.0, seed=other_seed), _LONGEST_OWN_PROMPT)
        else:
            self._submit_answer(job, job.prompt_ids)

    def _submit_answer(self, job: Job, prompt_ids: list[int]) -> None:
        sampling = Sampling(job.temperature, seed=job.seed)
        self._submit("answer", job, prompt_ids, sampling, self._settings.max_tokens)

    def _submit(
        self, what: str, job: Job, prompt_ids: list[int], sampling: Sampling, max_tokens: int
    ) -> None:
        sequence = Sequence(
            id=f"{what} {job.number}",
            prompt_ids=prompt_ids,
            sampling=sampling,
            max_new_tokens=max_tokens,
            text=TextStream(lambda token_id: b""),
            end_ids=self._end_ids,
        )
        self._open[sequence.id] = job, sequence
        self._engine.submit(sequence)

    def _end(self, event: Event) -> None:
        if event.error is not None:
            raise event.error
        job, sequence = self._open.pop(event.sequence_id)
        if event.sequence_id.startswith("answer"):
            tokens = [*sequence.prompt_ids, *sequence.output_ids]
            length = len(sequence.prompt_ids)
            self._ended[job.number] = Conversation(
                tokens, length, job.temperature, job.domain, job.prompt_row
            )
            return
        text = b"".join(map(self._tokenizer.token_bytes, sequence.output_ids)).decode("utf-8", "replace")
        if event.finish_reason != "stop" or len(text.strip()) < _LEAST_OWN_PROMPT:
            self._ended[job.number] = None
            return
        self._submit_answer(job, self._tokenizer.encode_chat([{"role": "user", "content": text.strip()}]))

    def _take_ended(self) -> None:
        while self._next_done in self._ended and self._num_tokens < self._settings.num_tokens:
            conversation = self._ended.pop(self._next_done)
            self._next_done += 1
            if conversation is not None:
                self._fresh.append(conversation)
                self._num_tokens += len(conversation.token_ids) - conversation.prompt_len


def _engine(settings: SampleSettings, model: Model, drafter: Drafter | None) -> Engine:
    longest = _LONGEST_PROMPT + settings.max_tokens
    return Engine(
        model,
        limits=Limits(settings.streams, _PREFILL_CHUNK),
        kv_tokens=max(longest, settings.streams * (_USUAL_PROMPT + settings.max_tokens)),
        max_waiting=settings.streams,
        max_waiting_per_caller=settings.streams,
        drafter=drafter,
        drafter_name="of the sampling",
        deliver=lambda events: None,
    )


def _recipe(settings: SampleSettings, model: Model, prompts: Ordered[Prompt] | None) -> str:
    """All that the answers depend on, the number of them apart."""
    texts = None if prompts is None else [[prompt.text, prompt.domain] for prompt in prompts]
    weights = model.embedding[:64].float().cpu().numpy().tobytes()
    return json.dumps(
        {
            "model": hashlib.sha256(weights + str(model.config).encode()).hexdigest()[:16],
            "number_format": model.number_format,
            "prompts": hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16],
            "temperatures": settings.temperatures,
            "max_tokens": settings.max_tokens,
            "seed": settings.seed,
        }
    )


def _earlier(out: Path, recipe: str) -> tuple[Answers, int]:
    """What an earlier run has left, and how many jobs that took."""
    if not out.exists():
        return Answers.of([]), 0
    notes = read_notes(out)
    if notes.get("recipe") != recipe:
        raise StartError(
            f"{out} was not sampled with these settings, so it cannot be continued: "
            f"{notes.get('recipe', 'it does not say how')}; now {recipe}. Name another file with --out"
        )
    return Answers.load([out]), int(notes["num_jobs"])
