"""Adds chosen tokens to their sequence: shows their text, decides which of them is the last.

In: a sequence, its choices, the time. Out: the `Event` that tells of them. Takes no blocks and no places.
"""

from __future__ import annotations

from collections.abc import Sequence as Ordered

from engine.sampler import Choice
from engine.sequence import Event, Sequence, TokenLogprob


def commit(sequence: Sequence, choices: Ordered[Choice], now: float) -> Event:
    """Append the tokens up to the one that ends the answer; what comes after it never was.

    Sets the finish reason and the times of the first and the last token.
    """
    if sequence.first_token_s is None:
        sequence.first_token_s = now
    shown = ""
    logprobs: list[tuple[TokenLogprob, int]] = []
    for choice in choices:
        offset = sequence.text.length
        is_end = _append(sequence, choice.token_id)
        if not is_end:
            shown += sequence.text.push(choice.token_id)
            if choice.logprob is not None:
                logprobs.append((choice.logprob, offset))
        is_complete = sequence.grammar is not None and sequence.grammar.is_complete
        if is_end or is_complete or sequence.text.is_stopped:
            sequence.finish_reason = "stop"
        elif len(sequence.output_ids) >= sequence.max_new_tokens:
            sequence.finish_reason = "length"
        if sequence.finish_reason is not None:
            shown += sequence.text.close()
            sequence.finished_s = now
            break
    return Event(
        sequence_id=sequence.id,
        text=shown,
        logprobs=tuple(logprobs),
        num_output=len(sequence.output_ids),
        finish_reason=sequence.finish_reason,
        timings=sequence.timings() if sequence.finish_reason is not None else None,
    )


def _append(sequence: Sequence, token_id: int) -> bool:
    """Returns whether the token ends the answer and is not part of its text."""
    sequence.output_ids.append(token_id)
    is_end = token_id in sequence.end_ids
    if sequence.grammar is not None and not is_end:
        sequence.grammar.push(token_id)
    return is_end
