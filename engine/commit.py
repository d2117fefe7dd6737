"""Adds a chosen token to its sequence: shows its text, decides whether it was the last.

In: a sequence, a choice, the time. Out: the `Event` that tells of it. Takes no blocks and no places.
"""

from __future__ import annotations

from engine.sampler import Choice
from engine.sequence import Event, Sequence


def commit(sequence: Sequence, choice: Choice, now: float) -> Event:
    """Append the token. Sets the finish reason and the times of its first and last token."""
    sequence.output_ids.append(choice.token_id)
    if sequence.first_token_s is None:
        sequence.first_token_s = now
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
    return Event(
        sequence_id=sequence.id,
        text=shown,
        logprobs=() if is_end or choice.logprob is None else ((choice.logprob, offset),),
        num_output=len(sequence.output_ids),
        finish_reason=sequence.finish_reason,
        timings=timings,
    )
