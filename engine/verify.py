"""Lossless verification: which drafted tokens stand, and which token follows them.

Rejection sampling (Leviathan et al. 2023; Chen et al. 2023): the answer has exactly the target's
distribution, whatever the drafter proposed. In: a `Proposal` and the target's probabilities at the
anchor and each drafted token. Out: a `Verdict`. Pure; chance comes in as numbers (`drafters.draws`).
B = sequences, n = slots of the proposal, R = target rows, V = vocabulary of the target.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.chance import draw
from engine.drafters.base import Proposal

LEAST_MASS = 1e-8  # below this a residual is rounding, and a draft probability is not divided by


@dataclass(frozen=True, slots=True)
class Verdict:
    """How many drafted tokens of each sequence stand, and the token after them."""

    accepted: Tensor  # [B]
    next_ids: Tensor  # [B]


def verify(
    proposal: Proposal, target_probs: Tensor, first_rows: Tensor, accept_points: Tensor, next_points: Tensor
) -> Verdict:
    """Test the drafts from left to right, then draw the token after the last that stands.

    `target_probs` [R, V] sum to 1 in each row; the rows of sequence b begin at `first_rows[b]`, one for
    its anchor and one for each of its `lengths[b]` drafted tokens. `accept_points` [B, n] and
    `next_points` [B, n + 1] (one for each place the next token may take) are numbers in (0, 1),
    independent of each other and of the drafting.
    """
    accepted = count_accepted(proposal, target_probs, first_rows, accept_points)
    probs = next_token_probs(proposal, target_probs, first_rows, accepted)
    return Verdict(accepted, draw(probs, next_points.gather(1, accepted.unsqueeze(1)).squeeze(1)))


def verify_chosen(proposal: Proposal, target_ids: Tensor, first_rows: Tensor) -> Verdict:
    """The same for certain proposals: `target_ids` [R] are the tokens the target chose at its rows.

    Where it draws them with numbers of their places, a draft stands with the probability the target gives
    it, as in `verify`, and the answer is the very one that decoding without a drafter gives.
    """
    count = proposal.token_ids.shape[1]
    slots = torch.arange(count, device=target_ids.device)
    rows = _rows(first_rows, slots, len(target_ids))  # [B, n]
    stands = (target_ids[rows] == proposal.token_ids) & (slots < proposal.lengths.unsqueeze(1))
    accepted = stands.long().cumprod(dim=1).sum(dim=1)
    return Verdict(accepted, target_ids[first_rows + accepted])


def count_accepted(
    proposal: Proposal, target_probs: Tensor, first_rows: Tensor, accept_points: Tensor
) -> Tensor:
    """Drafted tokens that stand, [B]: each one's point must be below its chance, up to the first that is not."""
    chances = accept_probs(proposal, target_probs, first_rows)
    slots = torch.arange(chances.shape[1], device=chances.device)
    passes = (accept_points < chances) & (slots < proposal.lengths.unsqueeze(1))
    return passes.long().cumprod(dim=1).sum(dim=1)


def accept_probs(proposal: Proposal, target_probs: Tensor, first_rows: Tensor) -> Tensor:
    """Each token's chance to stand once those before it do, [B, n]: target / draft probability, at most 1."""
    slots = torch.arange(proposal.token_ids.shape[1], device=target_probs.device)
    target = target_probs[_rows(first_rows, slots, len(target_probs)), proposal.token_ids]
    if proposal.token_probs is None:
        return target
    return (target / proposal.token_probs.clamp_min(LEAST_MASS)).clamp_max(1.0)


def next_token_probs(
    proposal: Proposal, target_probs: Tensor, first_rows: Tensor, accepted: Tensor
) -> Tensor:
    """The distribution [B, V] of the token after the accepted ones.

    After a rejection it is what the target gives beyond the draft, normalised; after a proposal that
    stands whole it is the target's own.
    """
    target = target_probs[first_rows + accepted]  # [B, V]
    if proposal.token_ids.shape[1] == 0:
        return target
    residual = (target - _draft_row(proposal, target, accepted)).clamp_min(0.0)
    mass = residual.sum(dim=-1, keepdim=True)
    is_whole = (accepted >= proposal.lengths).unsqueeze(1)
    return torch.where(is_whole | (mass <= LEAST_MASS), target, residual / mass.clamp_min(LEAST_MASS))


def _draft_row(proposal: Proposal, like: Tensor, slots: Tensor) -> Tensor:
    """The distributions [B, V] that the tokens at `slots` [B] were drawn from, in the target's vocabulary."""
    at = slots.clamp_max(proposal.token_ids.shape[1] - 1)
    batch = torch.arange(len(at), device=at.device)
    if proposal.draft_probs is None:
        certain = proposal.token_ids[batch, at].unsqueeze(1)
        return torch.zeros_like(like).scatter_(1, certain, 1.0)
    row = proposal.draft_probs[batch, at].to(like.dtype)  # [B, drafter's V]
    if proposal.vocabulary is None:
        return row
    return torch.zeros_like(like).index_copy_(1, proposal.vocabulary, row)


def _rows(first_rows: Tensor, slots: Tensor, num_rows: int) -> Tensor:
    """Target row of each slot [B, n]; slots beyond a sequence's length point anywhere and are not looked at."""
    return (first_rows.unsqueeze(1) + slots).clamp_max(num_rows - 1)
