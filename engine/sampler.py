"""Chooses the next token of every row: penalties, temperature, top_k, top_p, min_p, then one draw.

In: logits [R, V] and the sequence of each row. Out: one `Choice` a row. Order and meaning of the
filters are those of transformers. A draw depends on the request's seed and the token's place in the
answer only, never on the batch around it, so a seed reproduces an answer under any load.
"""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.sequence import Sequence, TokenLogprob

_SHORT_LIST = 256  # candidates looked at before a whole vocabulary is sorted (20 times as slow)


@dataclass(frozen=True, slots=True)
class Choice:
    token_id: int
    logprob: TokenLogprob | None


@torch.inference_mode()
def sample(logits: Tensor, sequences: Ordered[Sequence]) -> list[Choice]:
    """Choose a token for each row of `logits` [R, V] float32, which is overwritten."""
    wanting = [row for row, sequence in enumerate(sequences) if sequence.sampling.top_logprobs is not None]
    raw = logits[wanting].log_softmax(dim=-1) if wanting else None  # [wanting, V]
    for row, sequence in enumerate(sequences):
        if sequence.sampling.has_penalties:
            penalise(logits[row], sequence)
        suppress_ends(logits[row], sequence, len(sequence.output_ids))
    chosen = logits.argmax(dim=-1)  # [R]
    drawing = [row for row, sequence in enumerate(sequences) if not sequence.sampling.is_greedy]
    if drawing:
        drawers = [sequences[row] for row in drawing]
        rows = torch.tensor(drawing, device=logits.device)
        chosen[rows] = _draw(candidate_probs(logits[rows], drawers), drawers)
    token_ids: list[int] = chosen.tolist()
    logprobs: dict[int, TokenLogprob] = {}
    if raw is not None:
        logprobs = dict(zip(wanting, _logprobs(raw, wanting, token_ids, sequences), strict=True))
    return [Choice(token_id, logprobs.get(row)) for row, token_id in enumerate(token_ids)]


def penalise(logits: Tensor, sequence: Sequence) -> None:
    """Apply the penalties to one row [V] in place.

    Presence and frequency count generated tokens (OpenAI's definition); repetition also looks at the
    prompt (the definition of transformers).
    """
    sampling = sequence.sampling
    if sampling.repetition_penalty != 1.0:
        seen = np.unique(np.array(sequence.prompt_ids + sequence.output_ids))
        ids = torch.from_numpy(seen).to(logits.device)
        scores, factor = logits[ids], sampling.repetition_penalty
        logits[ids] = torch.where(scores > 0, scores / factor, scores * factor)
    if sequence.output_ids and (sampling.presence_penalty or sampling.frequency_penalty):
        generated, counts = np.unique(np.array(sequence.output_ids), return_counts=True)
        ids = torch.from_numpy(generated).to(logits.device)
        times = torch.from_numpy(counts).to(logits.device, torch.float32)
        logits[ids] -= sampling.presence_penalty + sampling.frequency_penalty * times


def suppress_ends(logits: Tensor, sequence: Sequence, place: int) -> None:
    """Rule out, in one row [V] in place, what may not yet be the answer's token number `place` (from 0)."""
    if place < sequence.min_new_tokens and sequence.suppressed_ids:
        logits[torch.tensor(sorted(sequence.suppressed_ids), device=logits.device)] = float("-inf")


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


def _draw(probs: Tensor, sequences: Ordered[Sequence]) -> Tensor:
    """One token a row by inverting the cumulative distribution of `probs` [R, V] at the row's own uniform."""
    seeds = np.array([sequence.sampling.seed for sequence in sequences], dtype=np.uint64)
    places = np.array([len(sequence.output_ids) for sequence in sequences], dtype=np.uint64)
    cumulative = probs.cumsum(dim=-1, dtype=torch.float64)
    points = torch.from_numpy(uniforms(seeds, places)).to(probs.device).unsqueeze(1) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, points, right=True).squeeze(1)


def uniforms(seeds: np.ndarray, places: np.ndarray) -> np.ndarray:
    """A number in (0, 1) for each (seed, place), the same on every machine: SplitMix64, used as a counter.

    48 bits and a half, so that neither 0 nor a product rounded up to the total can come out.
    """
    mixed = _mix(_mix(seeds) + places * np.uint64(0x9E3779B97F4A7C15))
    return ((mixed >> np.uint64(16)).astype(np.float64) + 0.5) / float(1 << 48)


def _mix(state: np.ndarray) -> np.ndarray:
    """SplitMix64's output function, on uint64 with wrap-around."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def _logprobs(
    raw: Tensor, rows: list[int], token_ids: list[int], sequences: Ordered[Sequence]
) -> list[TokenLogprob]:
    """Log probabilities of the chosen tokens and the most likely ones; `raw` [rows, V] belongs to `rows`."""
    chosen = torch.tensor([token_ids[row] for row in rows], device=raw.device).unsqueeze(1)
    values: list[float] = raw.gather(1, chosen).squeeze(1).tolist()
    wanted = [sequences[row].sampling.top_logprobs or 0 for row in rows]
    top_values, top_ids = (part.tolist() for part in raw.topk(min(max(wanted), raw.shape[1]), dim=-1))
    return [
        TokenLogprob(
            token_ids[row], values[at], tuple(zip(top_ids[at][:count], top_values[at][:count], strict=True))
        )
        for at, (row, count) in enumerate(zip(rows, wanted, strict=True))
    ]
