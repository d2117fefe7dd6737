"""From a target's logits to the verdict on a round: each request's warps, its streams, then verification.

In: a `Proposal`, the logits of every sequence's anchor and drafted tokens, and the sequences. Out: a
`Verdict`, or the tokens to commit. A sequence that got no proposal is judged like the others: nothing is
accepted, and its next token is drawn. It changes no sequence. B = sequences, R = rows, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.chance import Stream, most_likely, stream_uniforms
from engine.drafters.base import Proposal
from engine.sampler import Choice, Row, candidate_probs, choose_ids, token_logprobs, warp
from engine.sequence import Sequence
from engine.verify import Verdict, verify, verify_chosen


@dataclass(frozen=True, slots=True)
class Judged:
    """What a round adds to a sequence: the drafts that stand and the target's own token."""

    accepted: int
    choices: list[Choice]


@torch.inference_mode()
def decide(
    proposal: Proposal, logits: Tensor, sequences: Ordered[Sequence], drafted: Ordered[Ordered[int]]
) -> list[Judged]:
    """`judge`, on the host and with the log probabilities that were asked for."""
    wanting = [sequence.sampling.top_logprobs is not None for sequence in sequences]
    firsts = [0]
    for tokens in drafted:
        firsts.append(firsts[-1] + len(tokens) + 1)
    raw = {
        index: logits[firsts[index] : firsts[index + 1]].log_softmax(dim=-1)
        for index, wants in enumerate(wanting)
        if wants
    }
    verdict = judge(proposal, logits, sequences, drafted)
    results: list[Judged] = []
    outcomes = zip(verdict.accepted.tolist(), verdict.next_ids.tolist(), strict=True)
    for index, (accepted, next_id) in enumerate(outcomes):
        token_ids = [*drafted[index][:accepted], next_id]
        if index in raw:
            rows = raw[index][: accepted + 1]
            logprobs = token_logprobs(rows, token_ids, sequences[index].sampling)
            choices = [Choice(one.token_id, one) for one in logprobs]
        else:
            choices = [Choice(token_id, None) for token_id in token_ids]
        results.append(Judged(accepted, choices))
    return results


@torch.inference_mode()
def judge(
    proposal: Proposal, logits: Tensor, sequences: Ordered[Sequence], drafted: Ordered[Ordered[int]]
) -> Verdict:
    """Judge one round. `drafted` are the tokens of `proposal` up to its lengths, on the host.

    `logits` [R, V] float32, overwritten: for each sequence in turn the rows of its anchor and of its
    `drafted` tokens. The anchor is the last of the sequence's tokens, or of its prompt's.
    """
    rows, first_rows = _rows_of(logits, sequences, drafted)
    warp(logits, rows)
    if proposal.draft_probs is None:
        return verify_chosen(proposal, choose_ids(logits, rows), first_rows)
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
    warp(logits, rows)
    return _probs(logits, rows), first_rows


def _rows_of(
    logits: Tensor, sequences: Ordered[Sequence], drafted: Ordered[Ordered[int]]
) -> tuple[list[Row], Tensor]:
    """All rows, and each sequence's first."""
    rows: list[Row] = []
    first_rows: list[int] = []
    for sequence, tokens in zip(sequences, drafted, strict=True):
        first_rows.append(len(rows))
        rows += [Row(sequence, tuple(tokens[:count])) for count in range(len(tokens) + 1)]
    return rows, torch.tensor(first_rows, device=logits.device)


def _probs(logits: Tensor, rows: list[Row]) -> Tensor:
    drawing = [index for index, row in enumerate(rows) if not row.sequence.sampling.is_greedy]
    if len(drawing) == len(rows):
        warped = candidate_probs(logits, [row.sequence for row in rows])
        return warped.div_(warped.sum(dim=-1, keepdim=True))
    probs = torch.zeros_like(logits).scatter_(1, most_likely(logits).unsqueeze(1), 1.0)
    if drawing:
        warped = candidate_probs(logits[drawing], [rows[index].sequence for index in drawing])
        probs[drawing] = warped / warped.sum(dim=-1, keepdim=True)
    return probs
