"""Chooses the next token of every row: grammar, penalties, temperature, top_k, top_p, min_p, then one draw.

In: logits [R, V] and what each row stands for. Out: token ids, probabilities, log probabilities. Order
and meaning of the filters are those of transformers. A draw depends on the request's seed and the token's
place in the answer only, never on the batch around it, so a seed reproduces an answer under any load.
"""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.chance import Stream, draw, most_likely, stream_uniforms
from engine.sequence import Sampling, Sequence, TokenLogprob

_SHORT_LIST = 256  # candidates looked at before a whole vocabulary is sorted (20 times as slow)


@dataclass(frozen=True, slots=True)
class Choice:
    token_id: int
    logprob: TokenLogprob | None


@dataclass(frozen=True, slots=True)
class Row:
    """One row of logits: a sequence as it would stand after some drafted tokens, about to choose the next."""

    sequence: Sequence
    drafted: tuple[int, ...] = ()

    @property
    def place(self) -> int:
        """The number, from 0, of the answer's token that this row decides."""
        return len(self.sequence.output_ids) + len(self.drafted)


def warp(logits: Tensor, rows: Ordered[Row]) -> None:
    """What changes logits [R, V] before the temperature, in place: grammar, biases, penalties, ends too early."""
    at = 0
    while at < len(rows):
        grammar = rows[at].sequence.grammar
        count = 1
        while at + count < len(rows) and rows[at + count].sequence is rows[at].sequence:
            count += 1
        if grammar is not None:
            allowed = grammar.allowed(rows[at + count - 1].drafted)  # [count, V]
            logits[at : at + count].masked_fill_(~allowed.to(logits.device), float("-inf"))
        at += count
    for index, row in enumerate(rows):
        if row.sequence.sampling.logit_bias:
            _add_bias(logits[index], row.sequence.sampling)
        if row.sequence.sampling.has_penalties:
            penalise(logits[index], row)
        suppress_ends(logits[index], row)


def penalise(logits: Tensor, row: Row) -> None:
    """Apply the penalties to one row [V] in place.

    Presence and frequency count generated tokens (OpenAI's definition); repetition also looks at the
    prompt (the definition of transformers).
    """
    sequence, sampling = row.sequence, row.sequence.sampling
    generated = np.array([*sequence.output_ids, *row.drafted], dtype=np.int64)
    if sampling.repetition_penalty != 1.0:
        seen = np.unique(np.concatenate([np.array(sequence.prompt_ids, dtype=np.int64), generated]))
        ids = torch.from_numpy(seen).to(logits.device)
        scores, factor = logits[ids], sampling.repetition_penalty
        logits[ids] = torch.where(scores > 0, scores / factor, scores * factor)
    if len(generated) and (sampling.presence_penalty or sampling.frequency_penalty):
        distinct, counts = np.unique(generated, return_counts=True)
        ids = torch.from_numpy(distinct).to(logits.device)
        times = torch.from_numpy(counts).to(logits.device, torch.float32)
        logits[ids] -= sampling.presence_penalty + sampling.frequency_penalty * times


def _add_bias(logits: Tensor, sampling: Sampling) -> None:
    ids, biases = zip(*sampling.logit_bias, strict=True)
    logits[torch.tensor(ids, device=logits.device)] += torch.tensor(biases, device=logits.device)


def suppress_ends(logits: Tensor, row: Row) -> None:
    """Rule out, in one row [V] in place, what may not yet be the token at the row's place."""
    sequence = row.sequence
    if row.place < sequence.min_new_tokens and sequence.suppressed_ids:
        logits[torch.tensor(sorted(sequence.suppressed_ids), device=logits.device)] = float("-inf")


def choose_ids(logits: Tensor, rows: Ordered[Row]) -> Tensor:
    """One token a row of warped `logits` [R, V]: [R]. Greedy rows take the most likely one."""
    chosen = most_likely(logits)
    drawing = [index for index, row in enumerate(rows) if not row.sequence.sampling.is_greedy]
    if drawing:
        drawers = [rows[index] for index in drawing]
        at = torch.tensor(drawing, device=logits.device)
        everything = len(drawing) == len(rows)
        probs = candidate_probs(logits if everything else logits[at], [row.sequence for row in drawers])
        seeds = [row.sequence.sampling.seed for row in drawers]
        points = stream_uniforms(Stream.NEXT, seeds, [row.place for row in drawers], 1, logits.device)
        chosen[at] = draw(probs, points.squeeze(1))
    return chosen


def candidate_probs(logits: Tensor, sequences: Ordered[Sequence]) -> Tensor:
    """Probabilities [R, V] after temperature and filters.

    What is filtered out has 0, so rows need not sum to 1.
    """
    temperatures = torch.tensor(
        [sequence.sampling.temperature for sequence in sequences], device=logits.device
    )
    probs = (logits / temperatures.unsqueeze(1)).softmax(dim=-1)
    limited = [
        row
        for row, sequence in enumerate(sequences)
        if sequence.sampling.top_k > 0 or sequence.sampling.top_p < 1.0
    ]
    if limited:
        _keep_top(probs, limited, sequences)
    least = torch.tensor([sequence.sampling.min_p for sequence in sequences], device=logits.device)
    if bool(least.any()):
        probs = probs.masked_fill(probs < least.unsqueeze(1) * probs.amax(dim=-1, keepdim=True), 0.0)
    return probs


def _keep_top(probs: Tensor, rows: list[int], sequences: Ordered[Sequence]) -> None:
    """Zero in place what top_k and top_p exclude, sorting a whole row only where a short list is too short."""
    vocab_size = probs.shape[1]
    for width in (min(_SHORT_LIST, vocab_size), vocab_size):
        limits = [min(sequences[row].sampling.top_k or vocab_size, vocab_size) for row in rows]
        index = torch.tensor(rows, device=probs.device)
        top_k = torch.tensor(limits, device=probs.device).unsqueeze(1)  # [rows, 1]
        top_p = torch.tensor([sequences[row].sampling.top_p for row in rows], device=probs.device).unsqueeze(
            1
        )
        values, ids = probs[index].topk(width, dim=-1)  # [rows, width], most likely first
        ranks = torch.arange(width, device=probs.device)
        values = values.masked_fill(ranks >= top_k, 0.0)
        mass = values.cumsum(dim=-1)
        total = torch.where(top_k < vocab_size, mass[:, -1:], 1.0)  # top_p is a share of what top_k left
        kept = values.masked_fill((mass - values >= top_p * total) & (ranks > 0), 0.0)
        enough = (top_k <= width) | ((top_k == vocab_size) & (mass[:, -1:] >= top_p))  # [rows, 1]
        done = enough.squeeze(1)
        probs[index[done]] = torch.zeros_like(probs[index[done]]).scatter_(1, ids[done], kept[done])
        rows = [row for row, is_done in zip(rows, done.tolist(), strict=True) if not is_done]
        if not rows:
            return


def token_logprobs(raw: Tensor, token_ids: Ordered[int], sampling: Sampling) -> list[TokenLogprob]:
    """Log probabilities of the tokens chosen at rows `raw` [n, V], and of the most likely ones."""
    chosen = torch.tensor(token_ids, device=raw.device).unsqueeze(1)
    values: list[float] = raw.gather(1, chosen).squeeze(1).tolist()
    count = min(sampling.top_logprobs or 0, raw.shape[1])
    top_values, top_ids = (part.tolist() for part in raw.topk(count, dim=-1))
    return [
        TokenLogprob(token_id, value, tuple(zip(ids, likely, strict=True)))
        for token_id, value, ids, likely in zip(token_ids, values, top_ids, top_values, strict=True)
    ]
