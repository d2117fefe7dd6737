"""Who waits for whom: callers take turns, short prompts pass long ones, decoders never pause."""

from __future__ import annotations

import pytest

from engine.errors import QueueFull
from engine.loop import Engine
from engine.model import Llama
from engine.sequence import Sequence
from tests.engine.toy import make_engine, make_sequence


def submit(engine: Engine, *sequences: Sequence) -> None:
    for sequence in sequences:
        engine.submit(sequence)
    engine.take_commands()


def order_of_first_tokens(engine: Engine) -> list[str]:
    seen: list[str] = []
    while engine.num_open:
        seen += [event.sequence_id for event in engine.step() if event.num_output == 1]
    return seen


def test_a_caller_with_a_long_queue_does_not_hold_up_another(toy_model: Llama) -> None:
    engine = make_engine(toy_model, max_batch=1)
    submit(engine, *(make_sequence(f"a{n}", [n, 1], 3, caller="a") for n in range(6)))
    engine.step()
    submit(engine, *(make_sequence(f"b{n}", [n, 2], 3, caller="b") for n in range(2)))
    assert order_of_first_tokens(engine) == ["a1", "b0", "a2", "b1", "a3", "a4", "a5"]


def test_a_short_prompt_gets_its_first_token_while_a_long_one_is_read(toy_model: Llama) -> None:
    engine = make_engine(toy_model, chunk=16, kv_tokens=1024)
    long, talking = make_sequence("long", list(range(200)) * 2, 3), make_sequence("talking", [7, 8], 100)
    submit(engine, talking)
    engine.step()
    submit(engine, long)
    for _ in range(3):
        engine.step()
    submit(engine, make_sequence("short", [9] * 8, 3))
    spoken, read = len(talking.output_ids), long.num_computed
    first = [event.sequence_id for event in engine.step()]
    assert sorted(first) == ["short", "talking"]
    assert long.num_computed == read + 8
    steps = 1
    while not long.output_ids:
        engine.step()
        steps += 1
    assert len(talking.output_ids) == spoken + steps  # one token in every step


def test_a_burst_of_one_caller_is_refused_early_and_others_are_let_in(toy_model: Llama) -> None:
    engine = make_engine(toy_model, max_batch=1, max_waiting=4, max_waiting_per_caller=2)
    submit(engine, *(make_sequence(f"a{n}", [n], 5, caller="a") for n in range(3)))
    with pytest.raises(QueueFull, match="of this caller"):
        engine.check_open("a")
    with pytest.raises(QueueFull, match="of this caller"):
        engine.submit(make_sequence("a9", [1], 5, caller="a"))
    submit(engine, *(make_sequence(f"b{n}", [n], 5, caller="b") for n in range(2)))
    with pytest.raises(QueueFull, match="All 4 waiting places are taken"):
        engine.check_open("c")
    assert len(order_of_first_tokens(engine)) == 5
    engine.check_open("a")


def test_a_refusal_says_when_the_next_answer_will_end(toy_model: Llama) -> None:
    """A step takes two seconds here, and 40 tokens are left to write."""
    engine = make_engine(toy_model, max_batch=1, max_waiting=0)
    now = [0.0]

    def clock() -> float:
        now[0] += 1.0
        return now[0]

    engine.clock = clock
    submit(engine, make_sequence("a", [1], 50))
    for _ in range(10):
        engine.step()
    with pytest.raises(QueueFull) as refused:
        engine.submit(make_sequence("b", [1], 1))
    step_s = 1.0 / engine.rates.steps_per_s[1]
    assert refused.value.retry_after_s == pytest.approx(40 * step_s, abs=1)
    assert step_s > 1.0


def test_a_refusal_believes_the_pace_at_which_answers_lately_ended(toy_model: Llama) -> None:
    """Answers that may have 300 tokens but end after three. Each look at the clock takes a second."""
    engine = make_engine(toy_model, max_batch=1, max_waiting=0)
    now = [0.0]

    def clock() -> float:
        now[0] += 1.0
        return now[0]

    engine.clock = clock
    for n in range(30):
        free = make_sequence(str(n), [1, 2], 3)
        submit(engine, free)
        while engine.num_open:
            engine.step()
    submit(engine, make_sequence("long", [1, 2], 300))
    engine.step()
    with pytest.raises(QueueFull) as refused:
        engine.submit(make_sequence("b", [1], 1))
    assert engine.ends.mean_s is not None
    assert refused.value.retry_after_s == pytest.approx(engine.ends.mean_s, abs=1)
    assert engine.ends.mean_s < 60
