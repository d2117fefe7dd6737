"""The drafters written down once more, the plain way: one sequence, no cache, float64.

Taken from the description of the modules, not from the engine's code; everything is recomputed from the
whole context each time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tests.engine.drafters.checkpoints import EPS, HEAD_DIM, HEADS, HIDDEN, KV_HEADS, RANK

Weights = dict[str, Tensor]


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * weight


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """x [rows, heads, HEAD_DIM]; pairs (i, i + half) turn together."""
    half = HEAD_DIM // 2
    frequencies = 10_000.0 ** (-torch.arange(half, dtype=torch.float64) * 2 / HEAD_DIM)
    angles = positions.double()[:, None, None] * frequencies
    first, second = x[..., :half], x[..., half:]
    turned = [first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()]
    return torch.cat(turned, dim=-1)


def heads_of(weights: Weights, at: str, part: str, x: Tensor) -> Tensor:
    out = x @ weights[f"{at}.self_attn.{part}_proj.weight"].T
    out = out + weights.get(f"{at}.self_attn.{part}_proj.bias", torch.zeros(1))
    return out.view(len(x), -1, HEAD_DIM)


def attention(
    weights: Weights, at: str, seen: Tensor, seen_at: Tensor, asking: Tensor, asking_at: Tensor, mask: Tensor
) -> Tensor:
    """`asking` rows look at `seen` rows where `mask` [asking, seen] is True."""
    own = f"{at}.self_attn"
    queries = rotate(norm(heads_of(weights, at, "q", asking), weights[f"{own}.q_norm.weight"]), asking_at)
    keys = rotate(norm(heads_of(weights, at, "k", seen), weights[f"{own}.k_norm.weight"]), seen_at)
    values = heads_of(weights, at, "v", seen)
    outputs = []
    for head in range(HEADS):
        shared = head // (HEADS // KV_HEADS)
        scores = queries[:, head] @ keys[:, shared].T / HEAD_DIM**0.5
        scores = scores.masked_fill(~mask, float("-inf"))
        outputs.append(scores.softmax(-1) @ values[:, shared])
    joined = torch.cat(outputs, dim=-1)
    return joined @ weights[f"{own}.o_proj.weight"].T + weights.get(f"{own}.o_proj.bias", torch.zeros(1))


def mlp(weights: Weights, at: str, x: Tensor) -> Tensor:
    normed = norm(x, weights[f"{at}.post_attention_layernorm.weight"])
    gate = normed @ weights[f"{at}.mlp.gate_proj.weight"].T
    up = normed @ weights[f"{at}.mlp.up_proj.weight"].T
    return x + (gate * gate.sigmoid() * up) @ weights[f"{at}.mlp.down_proj.weight"].T


@dataclass
class Block:
    """A greedily drafted block: tokens, logits [n, V] and confidence logits [n]."""

    token_ids: list[int]
    logits: Tensor
    confidence: Tensor | None


def draft_block(
    weights: Weights,
    embedding: Tensor,
    lm_head: Tensor,
    features: Tensor,
    anchor: int,
    *,
    width: int,
    mask_token: int,
    head: str | None,
    vocabulary: Tensor | None = None,
    samples_anchor: bool = True,
) -> Block:
    """`features` [start, F] are all rows before the anchor."""
    start = len(features)
    context = norm(features @ weights["fc.weight"].T, weights["hidden_norm.weight"])
    x = embedding[torch.tensor([anchor] + [mask_token] * (width - 1))]
    context_at, block_at = torch.arange(start), torch.arange(start, start + width)
    for index in range(2):
        at = f"layers.{index}"
        normed = norm(x, weights[f"{at}.input_layernorm.weight"])
        seen, seen_at = torch.cat([context, normed]), torch.cat([context_at, block_at])
        everything = torch.ones(width, start + width, dtype=torch.bool)
        x = x + attention(weights, at, seen, seen_at, normed, block_at, everything)
        x = mlp(weights, at, x)
    hidden = norm(x, weights["norm.weight"])[0 if samples_anchor else 1 :]
    return link(weights, lm_head, hidden, anchor, head, vocabulary)


def link(
    weights: Weights,
    lm_head: Tensor,
    hidden: Tensor,
    anchor: int,
    head: str | None,
    vocabulary: Tensor | None,
) -> Block:
    token_ids, logits, confidence = [], [], []
    previous, state = anchor, torch.zeros(RANK, dtype=torch.float64)
    for h in hidden:
        out = lm_head @ h
        confidence_in = h
        if head is not None:
            e = weights["markov_head.markov_w1.weight"][previous]
            confidence_in = torch.cat([h, e])
            if head == "gated":
                gate = weights["markov_head.gate_proj.weight"] @ torch.cat([h, e])
                mixed = (gate + weights["markov_head.gate_proj.bias"]).sigmoid() * e
            elif head == "rnn":
                z = weights["markov_head.joint_proj.weight"] @ torch.cat([state, e, h])
                z = z + weights["markov_head.joint_proj.bias"]
                a, b, o = z[:RANK].sigmoid(), z[RANK : 2 * RANK].tanh(), z[2 * RANK :].tanh()
                state = a * state + (1 - a) * b
                mixed = o
            else:
                mixed = e
            out = out + weights["markov_head.markov_w2.weight"] @ mixed
        if "confidence_head.proj.weight" in weights:
            score = weights["confidence_head.proj.weight"][0] @ confidence_in
            confidence.append(score + weights["confidence_head.proj.bias"][0])
        column = int(out.argmax())
        previous = column if vocabulary is None else int(vocabulary[column])
        token_ids.append(previous)
        logits.append(out)
    return Block(token_ids, torch.stack(logits), torch.stack(confidence) if confidence else None)


def draft_chain(
    weights: Weights,
    embedding: Tensor,
    lm_head: Tensor,
    features: Tensor,
    history: list[int],
    steps: int,
    *,
    is_mtp: bool,
    vocabulary: Tensor | None = None,
) -> list[int]:
    """`features` [start, F] belong to `history[:-1]`; the last token is the anchor. Greedy."""
    at = "mtp.layers.0" if is_mtp else "layers.0"
    carries = list(features if is_mtp else features @ weights["fc.weight"].T)
    tokens = list(history)
    for _ in range(steps):
        embedded, carried = embedding[torch.tensor(tokens[1:])], torch.stack(carries)
        if is_mtp:
            parts = [
                norm(embedded, weights["mtp.pre_fc_norm_embedding.weight"]),
                norm(carried, weights["mtp.pre_fc_norm_hidden.weight"]),
            ]
            stream = torch.cat(parts, dim=-1) @ weights["mtp.fc.weight"].T
            seen = norm(stream, weights[f"{at}.input_layernorm.weight"])
        else:
            stream = carried
            normed = norm(embedded, weights[f"{at}.input_layernorm.weight"])
            seen = torch.cat([normed, norm(carried, weights[f"{at}.hidden_norm.weight"])], dim=-1)
        where = torch.arange(len(seen))
        causal = where[None, :] <= where[:, None]
        out = mlp(weights, at, stream + attention(weights, at, seen, where, seen, where, causal))[-1]
        final = weights["mtp.norm.weight" if is_mtp else "norm.weight"]
        column = int((lm_head @ norm(out, final)).argmax())
        tokens.append(column if vocabulary is None else int(vocabulary[column]))
        carries.append(out)
    return tokens[len(history) :]


def random_features(count: int, size: int, seed: int) -> Tensor:
    return torch.randn((count, size), generator=torch.Generator().manual_seed(seed))


FEATURES = 2 * HIDDEN
