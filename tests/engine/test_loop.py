from __future__ import annotations

import random
import threading

import pytest
import torch
from transformers import LlamaForCausalLM

from engine.errors import Draining, QueueFull, StepFailed
from engine.kv_cache import KVCache
from engine.loop import Engine
from engine.model import ForwardBatch, Forwarded, Llama
from engine.observer import StepTimes
from engine.sequence import Event, Round, Sampling, Sequence
from tests.engine.toy import make_engine, make_sequence, run_all


class Recorder:
    """An observer that remembers what it was told."""

    def __init__(self) -> None:
        self.num_preempted, self.num_steps = 0, 0
        self.reasons: dict[str, str] = {}
        self.first_tokens: list[str] = []
        self.num_cached = 0
        self.rounds: list[Round] = []

    def step_done(self, times: StepTimes) -> None:
        self.num_steps += 1

    def round_done(self, sequence: Sequence, done: Round, num_decoding: int) -> None:
        self.rounds.append(done)

    def admitted(self, sequence: Sequence) -> None:
        self.num_cached += sequence.num_cached

    def first_token(self, sequence: Sequence) -> None:
        self.first_tokens.append(sequence.id)

    def preempted(self, count: int) -> None:
        self.num_preempted += count

    def ended(self, sequence: Sequence, reason: str) -> None:
        self.reasons[sequence.id] = reason


def watched(engine: Engine) -> Recorder:
    engine.observer = recorder = Recorder()
    return recorder


def generate(reference: LlamaForCausalLM, prompt: list[int], count: int) -> list[int]:
    output = reference.generate(
        torch.tensor([prompt]), max_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=257
    )
    return output[0, len(prompt) :].tolist()


def random_prompt(seed: int, length: int) -> list[int]:
    return random.Random(seed).choices(range(256), k=length)


@pytest.mark.parametrize("kv_tokens", [2048, 208])
def test_batched_chunked_and_preempted_answers_equal_transformers(
    toy_model: Llama, toy_reference: LlamaForCausalLM, kv_tokens: int
) -> None:
    sequences = [make_sequence(str(n), random_prompt(n, 5 + 11 * n), 40) for n in range(9)]
    engine = make_engine(toy_model, kv_tokens=kv_tokens)
    recorder = watched(engine)
    run_all(engine, sequences)
    for sequence in sequences:
        assert sequence.output_ids == generate(toy_reference, sequence.prompt_ids, 40)
    assert (recorder.num_preempted > 0) == (kv_tokens == 208)
    assert engine.allocator.num_free == engine.allocator.num_blocks


def test_a_hundred_random_requests_all_end_and_return_their_blocks(toy_model: Llama) -> None:
    choose = random.Random(4)
    engine = make_engine(toy_model, kv_tokens=256, max_batch=6, chunk=24)
    recorder = watched(engine)
    waiting: list[Sequence] = []
    for number in range(100):
        sampling = Sampling(
            temperature=choose.choice([0.0, 0.7, 1.5]),
            top_p=choose.choice([1.0, 0.9]),
            top_k=choose.choice([0, 20]),
            frequency_penalty=choose.choice([0.0, 0.5]),
            top_logprobs=choose.choice([None, 3]),
            seed=number,
        )
        prompt = random_prompt(number, choose.randint(1, 150))
        answer, stops = choose.randint(1, 100), choose.choice([(), ("a", "Zz")])
        waiting.append(
            make_sequence(str(number), prompt, answer, sampling=sampling, end_ids=frozenset({5}), stops=stops)
        )
    ended: set[str] = set()
    cancelled: set[str] = set()
    for _ in range(20_000):
        if waiting and choose.random() < 0.3:
            engine.submit(waiting.pop())
        if engine.running and choose.random() < 0.01:
            cancelled.add(choose.choice(engine.running).id)
            engine.cancel(sorted(cancelled)[-1])
        engine.take_commands()
        last = [event for event in engine.step() if event.is_last]
        assert not any(event.error for event in last)
        ended |= {event.sequence_id for event in last}
        if not (waiting or engine.num_open):
            break
    assert ended | cancelled == {str(number) for number in range(100)}
    assert set(recorder.reasons) == {str(number) for number in range(100)}
    assert recorder.num_preempted > 0
    assert engine.allocator.num_free == engine.allocator.num_blocks


def test_the_same_seed_gives_the_same_answer_under_any_load(toy_model: Llama) -> None:
    def answer(*others: int) -> list[int]:
        asked = make_sequence("asked", random_prompt(1, 20), 30, sampling=Sampling(seed=77))
        crowd = [make_sequence(str(n), random_prompt(n, 30), 30, sampling=Sampling(seed=n)) for n in others]
        run_all(make_engine(toy_model, kv_tokens=192), [*crowd, asked])
        return asked.output_ids

    assert answer() == answer(2, 3, 4)


def test_an_end_token_ends_the_answer_and_is_not_shown(toy_model: Llama) -> None:
    free = make_sequence("free", random_prompt(3, 9), 10)
    run_all(make_engine(toy_model), [free])
    end = free.output_ids[4]
    first = free.output_ids.index(end)
    bounded = make_sequence("bounded", free.prompt_ids, 10, end_ids=frozenset({end}))
    events = run_all(make_engine(toy_model), [bounded])
    assert bounded.finish_reason == "stop"
    assert bounded.output_ids == free.output_ids[: first + 1]
    assert len("".join(event.text for event in events)) == first


def test_a_stop_string_ends_the_answer(toy_model: Llama) -> None:
    def letter(token_id: int) -> bytes:
        return bytes([97 + token_id % 26])

    free = make_sequence("free", random_prompt(6, 9), 12, token_bytes=letter)
    text = "".join(event.text for event in run_all(make_engine(toy_model), [free]))
    stop = text[5:8]
    stopped = make_sequence("stopped", free.prompt_ids, 12, token_bytes=letter, stops=(stop,))
    events = run_all(make_engine(toy_model), [stopped])
    assert "".join(event.text for event in events) == text[: text.index(stop)]
    assert stopped.finish_reason == "stop"


def test_events_tell_the_phases_apart(toy_model: Llama) -> None:
    engine = make_engine(toy_model, max_batch=1)
    now = iter(range(10_000))
    engine.clock = lambda: float(next(now))
    first, second = make_sequence("1", [1] * 40, 5), make_sequence("2", [2], 5)
    last = {event.sequence_id: event for event in run_all(engine, [first, second]) if event.is_last}
    timings = last["2"].timings
    assert timings is not None
    assert timings.queue_s > 5
    assert timings.prefill_s > 0
    assert timings.decode_s > 0
    assert last["1"].num_output == 5
    assert last["1"].finish_reason == "length"


def test_cancelling_frees_running_and_waiting_places(toy_model: Llama) -> None:
    engine = make_engine(toy_model, max_batch=1)
    recorder = watched(engine)
    for name in "ab":
        engine.submit(make_sequence(name, [1, 2, 3], 100))
    engine.take_commands()
    engine.step()
    engine.cancel("a")
    engine.cancel("b")
    engine.cancel("nobody")
    engine.take_commands()
    assert engine.num_open == 0
    assert engine.allocator.num_free == engine.allocator.num_blocks
    assert recorder.reasons == {"a": "cancelled", "b": "cancelled"}


def test_a_full_queue_refuses(toy_model: Llama) -> None:
    engine = make_engine(toy_model, max_batch=2, max_waiting=1)
    sequences = [make_sequence(str(n), [1], 3) for n in range(4)]
    for sequence in sequences[:3]:
        engine.submit(sequence)
    with pytest.raises(QueueFull):
        engine.submit(sequences[3])
    engine.take_commands()
    while engine.num_open:
        engine.step()
    engine.submit(sequences[3])


class BrokenOnce:
    """A model whose forward fails when it sees a given token, like a bad kernel would."""

    def __init__(self, model: Llama, poison: int) -> None:
        self._model, self._poison = model, poison
        self.config, self.dtype, self.device = model.config, model.dtype, model.device

    def forward(self, batch: ForwardBatch, cache: KVCache, capture: tuple[int, ...] = ()) -> Forwarded:
        if self._poison in batch.token_ids.tolist():
            raise RuntimeError("kernel failure")
        return self._model.forward(batch, cache, capture)


def test_a_failing_step_ends_its_requests_and_the_engine_serves_on(toy_model: Llama) -> None:
    engine = make_engine(BrokenOnce(toy_model, poison=260))
    events = run_all(engine, [make_sequence("bad", [1, 260, 3]), make_sequence("beside", [4, 5])])
    assert {event.sequence_id for event in events} == {"bad", "beside"}
    assert all(isinstance(event.error, StepFailed) for event in events)
    assert engine.allocator.num_free == engine.allocator.num_blocks
    healthy = make_sequence("healthy", [7, 8], 5)
    run_all(engine, [healthy])
    assert healthy.finish_reason == "length"


def test_a_running_engine_delivers_and_drains(toy_model: Llama) -> None:
    delivered: list[Event] = []
    is_done = threading.Event()

    def deliver(events: list[Event]) -> None:
        delivered.extend(events)
        if any(event.is_last for event in events):
            is_done.set()

    engine = make_engine(toy_model)
    engine.deliver = deliver
    loop = threading.Thread(target=engine.run)
    loop.start()
    engine.submit(make_sequence("a", [1, 2], 6))
    assert is_done.wait(20)
    assert len([event for event in delivered if event.sequence_id == "a"]) == 6
    engine.submit(make_sequence("b", [1, 2], 6))
    engine.drain(grace_s=20)
    loop.join(20)
    assert delivered[-1].finish_reason == "length"
    with pytest.raises(Draining):
        engine.submit(make_sequence("c", [1], 1))


def test_stopping_tells_those_that_were_not_finished(toy_model: Llama) -> None:
    delivered: list[Event] = []
    engine = make_engine(toy_model, kv_tokens=512)
    engine.deliver = delivered.extend
    for name in "ab":
        engine.submit(make_sequence(name, [1], 500))
    engine.drain(grace_s=0)
    engine.run()
    errors = {event.sequence_id for event in delivered if isinstance(event.error, Draining)}
    assert errors == {"a", "b"}
    assert engine.num_open == 0
