from __future__ import annotations

from engine.http.choice import Choice
from engine.http.shapes import closing_fields
from engine.sequence import Event, Round, Timings
from tests.engine.toy import make_sequence


def ended(index: int, timings: Timings, num_output: int) -> Choice:
    sequence = make_sequence(str(index), [1, 2, 3])
    sequence.output_ids = [5] * num_output
    sequence.num_cached = 2 if index == 0 else 3
    sequence.counts.add(Round(4, 3, 2, 3))
    choice = Choice(index, sequence, None)
    choice.take(Event(sequence.id, finish_reason="stop", timings=timings))
    return choice


def test_several_choices_are_summed_but_for_their_prompt() -> None:
    choices = [
        ended(0, Timings(queue_s=0.5, prefill_s=1.0, decode_s=2.0), 4),
        ended(1, Timings(queue_s=0.25, prefill_s=0.25, decode_s=3.0), 6),
    ]
    assert closing_fields(choices, with_usage=True) == {
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 10,
            "total_tokens": 13,
            "prompt_tokens_details": {"cached_tokens": 2},
        },
        "sparkgate": {
            "queue_s": 0.5,
            "prefill_s": 1.0,
            "decode_s": 3.5,
            "rounds": 2,
            "drafted": 8,
            "verified": 6,
            "accepted": 4,
        },
    }
    own = closing_fields(choices[:1], with_usage=False)
    assert own["sparkgate"]["decode_s"] == 2.0
    assert "usage" not in own
