"""The drafters as trainable modules, their parameters named as in the files that `engine.drafters.loading` reads.

In: a `Batch`. Out: the hidden states of every slot after the final norm. Parameters are float32; what is
computed is in the format of the target's embedding. T = tokens of all conversations, A = anchors, n = slots,
D = hidden size, F = feature size, H/K = heads/kv heads, d = head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.checkpoint import ModelConfig
from engine.rope import rotary_table


@dataclass(frozen=True, slots=True)
class Span:
    """One conversation of a batch: its tokens and its anchors."""

    tokens: slice
    anchors: slice


@dataclass(frozen=True, slots=True)
class Batch:
    """Conversations end to end, with what the target computed of them, and the anchors in them."""

    spans: tuple[Span, ...]
    token_ids: Tensor  # [T]
    positions: Tensor  # [T] within the conversation
    features: Tensor  # [T, F]
    last_hidden: Tensor  # [T, D] after the final norm
    log_norms: Tensor  # [T] float32 logsumexp of the target's logits
    anchors: Tensor  # [A] places within the T tokens, rising
    labels: Tensor  # [A, n] token ids after each anchor
    counts: Tensor  # [A, n] bool: the label belongs to the answer


class Drafted(NamedTuple):
    """What a drafter says of every slot."""

    hidden: Tensor  # [A * n, D]
    codes: Tensor | None = None  # [A * n, r] Markov embedding of the token before
    confidence: Tensor | None = None  # [A * n] float32 logits


class Linear(nn.Linear):
    """float32 weights, products in the format of the input."""

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class Norm(nn.Module):
    """Root mean square norm."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return _RmsNorm.apply(x, self.weight, self.eps)


class _RmsNorm(torch.autograd.Function):
    """With its gradient written out: a CPU takes a fourth of the time of what autograd makes of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = scale.square_().div_(x.shape[-1]).add_(eps).rsqrt_().to(x.dtype)
        normed = x * scale
        ctx.save_for_backward(normed, scale, weight)
        return normed * weight.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, None]:
        normed, scale, weight = ctx.saved_tensors
        size = normed.shape[-1]
        through = upstream * normed
        weight_gradient = torch.ones(1, through.numel() // size, dtype=through.dtype, device=through.device)
        weight_gradient = (weight_gradient @ through.view(-1, size)).view(-1).to(weight.dtype)
        rows = weight.to(upstream.dtype)
        along = (through.view(-1, size) @ rows.unsqueeze(1)).view(scale.shape).div_(-size)
        return torch.addcmul(upstream * rows, normed, along).mul_(scale), weight_gradient, None


class _Rotation(torch.autograd.Function):
    """x * cosine + (x rolled by half a head) * sine, and back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        return torch.addcmul(x * cosine, x.roll(x.shape[-1] // 2, -1), sine)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        cosine, sine = ctx.saved_tensors
        back = (upstream * sine).roll(upstream.shape[-1] // 2, -1)
        return back.addcmul_(upstream, cosine), None, None


class Rotary:
    """Turns heads by their positions; in 16 bits as well, as the drafters that run do."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        self.cosine, self.sine = rotary_table(config, dtype, device)  # [positions, 1, d]

    def __call__(self, x: Tensor, positions: Tensor) -> Tensor:
        """x [..., heads, d] at `positions` [...]."""
        rotated: Tensor = _Rotation.apply(x, self.cosine[positions], self.sine[positions])
        return rotated


class Attention(nn.Module):
    def __init__(self, config: ModelConfig, size_in: int) -> None:
        super().__init__()
        self.head_dim, self.num_kv_heads = config.head_dim, config.num_kv_heads
        self.q_proj = Linear(size_in, config.num_heads * config.head_dim, bias=False)
        self.k_proj = Linear(size_in, config.num_kv_heads * config.head_dim, bias=False)
        self.v_proj = Linear(size_in, config.num_kv_heads * config.head_dim, bias=False)
        self.o_proj = Linear(config.num_heads * config.head_dim, config.hidden_size, bias=False)
        self.q_norm = Norm(config.head_dim, config.norm_eps)
        self.k_norm = Norm(config.head_dim, config.norm_eps)

    def query(self, x: Tensor, positions: Tensor, rotary: Rotary) -> Tensor:
        """x [..., in] -> [..., H, d]"""
        return rotary(self.q_norm(self.q_proj(x).unflatten(-1, (-1, self.head_dim))), positions)

    def key_value(self, x: Tensor, positions: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor]:
        """x [..., in] -> keys and values [..., K, d]"""
        keys = rotary(self.k_norm(self.k_proj(x).unflatten(-1, (-1, self.head_dim))), positions)
        return keys, self.v_proj(x).unflatten(-1, (-1, self.head_dim))


class Mlp(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, config: ModelConfig, attention_in: int | None = None) -> None:
        super().__init__()
        size, eps = config.hidden_size, config.norm_eps
        self.self_attn = Attention(config, attention_in or size)
        self.mlp = Mlp(config)
        self.input_layernorm = Norm(size, eps)
        self.post_attention_layernorm = Norm(size, eps)

    def finish(self, stream: Tensor, attended: Tensor) -> Tensor:
        """What follows the attention: `attended` [..., H * d] -> the layer's output."""
        stream = stream + self.self_attn.o_proj(attended)
        return stream + self.mlp(self.post_attention_layernorm(stream))


def layers_of(net: BlockNet | ChainNet) -> list[Layer]:
    """The drafter's own layers."""
    return [layer for layer in net.layers if isinstance(layer, Layer)]


class MarkovHead(nn.Module):
    def __init__(self, vocab_size: int, draft_vocab_size: int, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.markov_w1 = nn.Embedding(vocab_size, rank)
        self.markov_w2 = Linear(rank, draft_vocab_size, bias=False)


class ConfidenceHead(nn.Module):
    def __init__(self, size_in: int) -> None:
        super().__init__()
        self.proj = Linear(size_in, 1)


def attend(
    query: Tensor,
    context: tuple[Tensor, Tensor],
    own: tuple[Tensor, Tensor],
    batch: Batch,
    first: int = 0,
) -> Tensor:
    """query [A, w, H, d] -> [A, w, H * d]: each sees its conversation before the anchor, and its own block.

    `context` are keys and values [T, K, d], of which each conversation's are seen from its `first` on; `own`
    [A, m, K, d]. The query heads of a kv head become rows.
    """
    count, width, num_heads, head_dim = query.shape
    kv_heads = context[0].shape[1]
    shared = num_heads // kv_heads
    folded = query.view(count, width, kv_heads, shared, head_dim).permute(2, 0, 1, 3, 4)
    folded = (folded * head_dim**-0.5).reshape(kv_heads, count, width * shared, head_dim)
    before = context[0].permute(1, 2, 0), context[1].transpose(0, 1)  # [K, d, T], [K, T, d]
    inside = own[0].permute(2, 0, 3, 1), own[1].permute(2, 0, 1, 3)  # [K, A, d, m], [K, A, m, d]
    num_anchors = [span.anchors.stop - span.anchors.start for span in batch.spans]
    num_tokens = [span.tokens.stop - span.tokens.start for span in batch.spans]
    parts = zip(  # split, not sliced: the gradients of slices are as large as the whole
        batch.spans,
        folded.split(num_anchors, 1),
        before[0].split(num_tokens, 2),
        before[1].split(num_tokens, 1),
        inside[0].split(num_anchors, 1),
        inside[1].split(num_anchors, 1),
        strict=True,
    )
    outputs = []
    for span, rows, keys, values, own_keys, own_values in parts:
        ends = batch.anchors[span.anchors] - span.tokens.start
        seen = slice(first, int(ends[-1]))
        hidden = torch.arange(seen.start, seen.stop, device=query.device) >= ends.unsqueeze(1)  # [a, t]
        scores = (rows.flatten(1, 2) @ keys[:, :, seen]).view(*rows.shape[:3], -1)
        scores = scores.masked_fill(hidden.unsqueeze(1), float("-inf"))
        probs = torch.softmax(torch.cat([scores, rows @ own_keys], dim=-1), dim=-1)
        of_context, of_own = probs.split([hidden.shape[1], own_keys.shape[-1]], dim=-1)
        outputs.append((of_context.flatten(1, 2) @ values[:, seen]).view(rows.shape) + of_own @ own_values)
    joined = torch.cat(outputs, dim=1).view(kv_heads, count, width, shared, head_dim)
    return joined.permute(1, 2, 0, 3, 4).reshape(count, width, -1)


class BlockNet(nn.Module):
    """DSpark; without a Markov rank and confidence it is DFlash."""

    def __init__(
        self,
        config: ModelConfig,
        embedding: Tensor,
        *,
        num_taps: int,
        num_slots: int,
        mask_token_id: int,
        markov_rank: int,
        draft_vocab_size: int,
        has_confidence: bool,
    ) -> None:
        super().__init__()
        size, eps = config.hidden_size, config.norm_eps
        self.embedding, self.num_slots, self.mask_token_id = embedding, num_slots, mask_token_id
        self.rotary = Rotary(config, embedding.dtype, embedding.device)
        self.fc = Linear(num_taps * size, size, bias=False)
        self.hidden_norm, self.norm = Norm(size, eps), Norm(size, eps)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.markov_head = (
            MarkovHead(config.vocab_size, draft_vocab_size, markov_rank) if markov_rank else None
        )
        self.confidence_head = ConfidenceHead(size + markov_rank) if has_confidence else None

    @property
    def biases(self) -> Tensor | None:
        """[V, r]"""
        return None if self.markov_head is None else self.markov_head.markov_w2.weight

    def forward(self, batch: Batch) -> Drafted:
        context = self.hidden_norm(self.fc(batch.features))  # [T, D]
        width, anchor_ids = self.num_slots, batch.token_ids[batch.anchors]
        block = torch.full_like(batch.labels, self.mask_token_id)
        block[:, 0] = anchor_ids
        positions = batch.positions[batch.anchors].unsqueeze(1) + torch.arange(width, device=block.device)
        stream = F.embedding(block, self.embedding)  # [A, n, D]
        for layer in layers_of(self):
            attention, normed = layer.self_attn, layer.input_layernorm(stream)
            before = attention.key_value(context, batch.positions, self.rotary)
            inside = attention.key_value(normed, positions, self.rotary)
            query = attention.query(normed, positions, self.rotary)
            stream = layer.finish(stream, attend(query, before, inside, batch))
        hidden = self.norm(stream).flatten(0, 1)
        if self.markov_head is None:
            codes = None
        else:
            previous = torch.cat([anchor_ids.unsqueeze(1), batch.labels[:, :-1]], dim=1)
            codes = F.embedding(previous.flatten(), self.markov_head.markov_w1.weight).to(hidden.dtype)
        if self.confidence_head is None:
            return Drafted(hidden, codes)
        seen = hidden if codes is None else torch.cat([hidden, codes], dim=-1)
        return Drafted(hidden, codes, self.confidence_head.proj(seen).squeeze(1).float())


class ChainLayer(Layer):
    """Eagle3's: the attention reads the token beside what its predecessor left."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, 2 * config.hidden_size)
        self.hidden_norm = Norm(config.hidden_size, config.norm_eps)


class ChainNet(nn.Module):
    """A one-layer chain: the row of a token takes in what the row before left. Subclasses say how.

    The first row of a chain stands with the conversation's own, which the target's features make; later rows
    take the layer's output.
    """

    layers: nn.ModuleList
    norm: Norm
    biases: Tensor | None = None

    def __init__(self, config: ModelConfig, embedding: Tensor, num_slots: int) -> None:
        super().__init__()
        self.embedding, self.num_slots = embedding, num_slots
        self.rotary = Rotary(config, embedding.dtype, embedding.device)

    def carry(self, batch: Batch) -> Tensor:
        """What each of the target's rows leaves for the next: [T, D]."""
        raise NotImplementedError

    def join(self, embedded: Tensor, carried: Tensor) -> tuple[Tensor, Tensor]:
        """Token embeddings and carries [..., D] -> residual stream, attention's input."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> Drafted:
        (layer,) = layers_of(self)
        attention = layer.self_attn
        carried = self.carry(batch).roll(
            1, 0
        )  # a conversation's first row gets nonsense, and is not looked at
        stream, seen = self.join(F.embedding(batch.token_ids, self.embedding), carried)
        positions = (batch.positions - 1).clamp_min(0)
        before = attention.key_value(seen, positions, self.rotary)
        keys: list[Tensor] = []
        values: list[Tensor] = []
        outputs: list[Tensor] = []
        stream, seen = stream.index_select(0, batch.anchors), seen.index_select(0, batch.anchors)
        for slot in range(self.num_slots):
            at = (batch.positions[batch.anchors] - 1 + slot).unsqueeze(1)
            if slot:
                stream, seen = self.join(F.embedding(batch.labels[:, slot - 1], self.embedding), outputs[-1])
            key, value = attention.key_value(seen.unsqueeze(1), at, self.rotary)
            keys.append(key)
            values.append(value)
            own = torch.cat(keys, dim=1), torch.cat(values, dim=1)
            query = attention.query(seen.unsqueeze(1), at, self.rotary)
            attended = attend(query, before, own, batch, first=1).squeeze(1)
            outputs.append(layer.finish(stream, attended))
        return Drafted(self.norm(torch.stack(outputs, dim=1)).flatten(0, 1))


class Eagle3Net(ChainNet):
    """The carry is the residual stream; the token enters through the attention only."""

    def __init__(self, config: ModelConfig, embedding: Tensor, *, num_taps: int, num_slots: int) -> None:
        super().__init__(config, embedding, num_slots)
        size = config.hidden_size
        self.fc = Linear(num_taps * size, size, bias=False)
        self.norm = Norm(size, config.norm_eps)
        self.layers = nn.ModuleList([ChainLayer(config)])

    def carry(self, batch: Batch) -> Tensor:
        return self.fc(batch.features)

    def join(self, embedded: Tensor, carried: Tensor) -> tuple[Tensor, Tensor]:
        layer: ChainLayer = self.layers[0]  # type: ignore[assignment]
        return carried, torch.cat([layer.input_layernorm(embedded), layer.hidden_norm(carried)], dim=-1)


class MtpNet(ChainNet):
    """Token and last hidden state, each normed, are projected into an ordinary layer's input. One slot."""

    def __init__(self, config: ModelConfig, embedding: Tensor) -> None:
        super().__init__(config, embedding, num_slots=1)
        size, eps = config.hidden_size, config.norm_eps
        self.fc = Linear(2 * size, size, bias=False)
        self.pre_fc_norm_embedding, self.pre_fc_norm_hidden = Norm(size, eps), Norm(size, eps)
        self.norm = Norm(size, eps)
        self.layers = nn.ModuleList([Layer(config)])

    def carry(self, batch: Batch) -> Tensor:
        return batch.last_hidden

    def join(self, embedded: Tensor, carried: Tensor) -> tuple[Tensor, Tensor]:
        (layer,) = layers_of(self)
        both = torch.cat([self.pre_fc_norm_embedding(embedded), self.pre_fc_norm_hidden(carried)], dim=-1)
        stream = self.fc(both)
        return stream, layer.input_layernorm(stream)
