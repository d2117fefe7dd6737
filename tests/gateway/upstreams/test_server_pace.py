"""What a server's counters come to over time, in the words of an engine's `/state`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.upstreams.server_metrics import Reading
from gateway.upstreams.server_pace import WINDOW_S, Pace

IDLE = Reading(running=0, waiting=0, kv_used=0.0, generated=0, interval_s=0.0, intervals=0)
SPECULATING = replace(IDLE, drafts=0, drafted=0, accepted=0)


def grown(reading: Reading, **by: float) -> Reading:
    return replace(reading, **{name: getattr(reading, name) + amount for name, amount in by.items()})


def test_the_load_is_that_of_now_and_nothing_is_made_up() -> None:
    state = Pace("vllm", 64).look(Reading(running=3, waiting=2, kv_used=0.25), 0.0)
    assert state == {
        "running": 3,
        "waiting": 2,
        "max_batch": 64,
        "kv_used_fraction": 0.25,
        "prefix_hit_rate": None,
        "prefill_tokens_per_s": 0.0,
        "decode_tokens_per_s": 0.0,
        "steps_per_s": {},
        "drafter": None,
        "speculation": {},
    }


def test_before_a_window_has_passed_drafts_count_since_the_servers_start() -> None:
    pace = Pace("vllm", 64)
    first = pace.look(replace(SPECULATING, drafts=1000, drafted=7000, accepted=2000), 0.0)
    assert first["speculation"] == {
        "accepted_length": 3.0,
        "proposal_length": 7.0,
        "waste": pytest.approx(5 / 7, abs=1e-4),
    }
    assert first["drafter"] == "vllm"


def test_then_those_of_the_window_do_and_the_last_known_stays_while_nothing_happens() -> None:
    pace = Pace("vllm", 64)
    old = replace(SPECULATING, drafts=1000, drafted=7000, accepted=2000)
    pace.look(old, 0.0)
    new = grown(old, drafts=100, drafted=400, accepted=300)
    state = pace.look(new, WINDOW_S)
    assert state["speculation"] == {"accepted_length": 4.0, "proposal_length": 4.0, "waste": 0.25}
    for later in (2.0, 3.0):
        state = pace.look(new, later * WINDOW_S)
    assert state["speculation"]["accepted_length"] == 4.0


def test_steps_are_counted_by_how_many_sequences_ran() -> None:
    """vLLM's intervals are a step apart, whatever a step yields: 8 sequences, 50 steps a second each."""
    pace = Pace("vllm", 64)
    one = replace(SPECULATING, running=1)
    pace.look(one, 0.0)
    one = grown(one, intervals=100, interval_s=1.0, generated=100)
    pace.look(one, 1.0)
    eight = replace(one, running=8)
    pace.look(eight, 2.0)
    state = pace.look(grown(eight, intervals=400, interval_s=8.0, generated=800), 3.0)
    assert state["steps_per_s"] == {"1": 100.0, "8": 50.0}
    assert 100.0 < state["decode_tokens_per_s"] < 800.0


def test_sglang_tells_of_tokens_several_of_which_are_a_step() -> None:
    pace = Pace("sglang", 48)
    before = replace(IDLE, running=1, committed=4.0, throughput=200.0)
    pace.look(before, 0.0)
    state = pace.look(grown(before, intervals=200, interval_s=1.0), 1.0)
    assert state["speculation"] == {"accepted_length": 4.0}
    assert state["steps_per_s"] == {"1": 50.0}
    assert state["decode_tokens_per_s"] == 200.0


def test_an_accepted_length_below_one_is_speculation_that_is_off() -> None:
    assert Pace("sglang", 48).look(replace(IDLE, committed=0.0), 0.0)["speculation"] == {}


def test_prefill_is_told_by_long_prompts_only() -> None:
    pace = Pace("vllm", 64)
    reading = replace(IDLE, prefill_tokens=0, prefill_s=0.0, prefills=0)
    rates = []
    for at, (tokens, seconds, prefills) in enumerate(
        [(100, 0.1, 2), (7900, 1.9, 2), (0, 0.0, 0), (50, 0.1, 1)]
    ):
        reading = grown(reading, prefill_tokens=tokens, prefill_s=seconds, prefills=prefills)
        rates.append(pace.look(reading, at * WINDOW_S)["prefill_tokens_per_s"])
    assert rates == [0.0, pytest.approx(7900 / 1.9, abs=0.01)] + 2 * [rates[1]]


def test_the_prefix_cache_is_seen_over_the_window_or_as_told() -> None:
    pace = Pace("vllm", 64)
    reading = replace(IDLE, cache_asked=1000, cache_hits=250)
    assert pace.look(reading, 0.0)["prefix_hit_rate"] == 0.25
    assert Pace("sglang", 48).look(replace(IDLE, hit_rate=0.4), 0.0)["prefix_hit_rate"] == 0.4


def test_a_restarted_server_is_another_one() -> None:
    pace = Pace("vllm", 64)
    pace.look(replace(SPECULATING, generated=10, drafts=10, drafted=70, accepted=50), 0.0)
    assert pace.look(SPECULATING, 1.0) == Pace("vllm", 64).look(SPECULATING, 0.0)
