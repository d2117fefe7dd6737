"""From a target's logits to the verdict on a round: each request's warps, its streams, then verification.

In: a `Proposal`, the logits of every sequence's anchor and drafted tokens, and the sequences. Out: a
`Verdict`. A sequence that got no proposal is judged like the others: nothing is accepted, and its next
token is drawn. It changes no sequence. B = sequences, R = rows, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.drafters.base import Proposal
from engine.drafters.draws import Stream, stream_uniforms
from engine.sampler import candidate_probs, penalise, suppress_ends
from engine.sequence import Sequence
from engine.verify import Verdict, verify, verify_greedy


@torch.inference_mode()
def judge(
    proposal: Proposal, logits: Tensor, sequences: Ordered[Sequence], drafted: Ordered[Ordered[int]]
) -> Verdict:
    """Judge one round. `drafted` are the tokens of `proposal` up to its lengths, on the host.

    `logits` [R, V] float32, overwritten: for each sequence in turn the rows of its anchor and of its
    `drafted` tokens. The anchor is the last of the sequence's tokens, or of its prompt's.
    """
    rows, first_rows = _rows_of(logits, sequences, drafted)
    _warp(logits, rows)
    if all(sequence.sampling.is_greedy for sequence in sequences):
        return verify_greedy(proposal, logits.argmax(dim=-1), first_rows)
    seeds = [sequence.sampling.seed for sequence in sequences]
    places = [len(sequence.output_ids) for sequence in sequences]
    count = proposal.token_ids.shape[1]
    accept = stream_uniforms(Stream.ACCEPT, seeds, places, count, logits.device)
    after = stream_uniforms(Stream.NEXT, seeds, places, count + 1, logits.device)
    return verify(proposal, _probs(logits, rows), first_rows, accept, after)


def no_proposal(num_sequences: int, device: torch.device) -> Proposal:
    """What a step without drafting proposes."""
    nothing = torch.zeros((num_sequences, 0), dtype=torch.long, device=device)
    return Proposal(nothing, torch.zeros(num_sequences, dtype=torch.long, device=device))


def target_probs(
    logits: Tensor, sequences: Ordered[Sequence], drafted: Ordered[Ordered[int]]
) -> tuple[Tensor, Tensor]:
    """The target's distributions [R, V] after every warp, and each sequence's first row [B].

    Penalties of a row count the drafted tokens before it, as plain decoding would. Rows of greedy
    sequences hold one certain token. `logits` as in `judge`.
    """
    rows, first_rows = _rows_of(logits, sequences, drafted)
    _warp(logits, rows)
    return _probs(logits, rows), first_rows


@dataclass(frozen=True, slots=True)
class _Row:
    """The sequence as it would stand at a row, and the place in its answer of the token the row decides."""

    sequence: Sequence
    place: int


def _rows_of(
    logits: Tensor, sequences: Ordered[Sequence], drafted: Ordered[Ordered[int]]
) -> tuple[list[_Row], Tensor]:
    """All rows, and each sequence's first."""
    rows: list[_Row] = []
    first_rows: list[int] = []
    for sequence, tokens in zip(sequences, drafted, strict=True):
        first_rows.append(len(rows))
        place = len(sequence.output_ids)
        rows += [
            _Row(_with_drafted(sequence, tokens[:count]), place + count) for count in range(len(tokens) + 1)
        ]
    return rows, torch.tensor(first_rows, device=logits.device)


def _with_drafted(sequence: Sequence, tokens: Ordered[int]) -> Sequence:
    """The sequence as if `tokens` had been generated; itself where nothing looks at them."""
    if not tokens or not sequence.sampling.has_penalties:
        return sequence
    return replace(sequence, output_ids=[*sequence.output_ids, *tokens])


def _warp(logits: Tensor, rows: list[_Row]) -> None:
    """What changes logits before the temperature, row by row in place."""
    for index, row in enumerate(rows):
        if row.sequence.sampling.has_penalties:
            penalise(logits[index], row.sequence)
        suppress_ends(logits[index], row.sequence, row.place)


def _probs(logits: Tensor, rows: list[_Row]) -> Tensor:
    probs = torch.zeros_like(logits).scatter_(1, logits.argmax(dim=-1, keepdim=True), 1.0)
    drawing = [index for index, row in enumerate(rows) if not row.sequence.sampling.is_greedy]
    if drawing:
        warped = candidate_probs(logits[drawing], [rows[index].sequence for index in drawing])
        probs[drawing] = warped / warped.sum(dim=-1, keepdim=True)
    return probs
