"""Block drafters in C++: near the torch path, the same to the last bit in any company, and lossless."""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.checkpoint import read_config, read_weights
from engine.drafters.base import DraftBatch, Proposal
from engine.drafters.batches import Anchor, Span, context_rows, draft_batch
from engine.drafters.context import DraftCache
from engine.drafters.dspark import BlockDrafter
from engine.drafters.loading import TargetParts, load_drafter
from engine.kv_cache import num_blocks_for
from engine.linear import PlainHead
from engine.quantized import QuantizedLlama
from engine.sequence import Sampling, Sequence
from tests.engine.drafters.checkpoints import LAYER_SIZES, VOCAB, write_checkpoint
from tests.engine.drafters.chi_square import p_value
from tests.engine.drafters.test_lossless import (
    ANSWERS,
    BATCH,
    HISTORY,
    SAMPLINGS,
    Target,
    counts_of,
    judge,
)
from tests.engine.test_quantized import why_not
from tests.engine.toy import make_engine, make_sequence, run_all, write_toy_model

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

CPU, NUM_TAPS, NUM_BLOCKS, WIDTH = torch.device("cpu"), 2, 60, 5
STARTS = [0, 1, 15, 16, 17, 33, 200]
MIXED = [0.0, 1.0, 0.7, 0.0, 1.5, 1.0, 0.2]  # temperatures


@dataclass(frozen=True)
class Sizes:
    """Of a drafter, and of the target that it fits."""

    hidden: int = 48
    inner: int = 80
    heads: int = 6
    kv_heads: int = 2
    head_dim: int = 16
    vocab: int = 264
    draft_vocab: int = 200
    rank: int = 16
    markov: str = "vanilla"
    bias: bool = False
    samples_anchor: bool = True

    def config(self) -> dict[str, Any]:
        layers = LAYER_SIZES | {
            "vocab_size": self.vocab,
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": 2,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
        }
        return {
            "speculators_model_type": "dspark",
            "architectures": ["DSparkDraftModel"],
            "transformer_layer_config": layers,
            "aux_hidden_state_layer_ids": [1, 2],
            "draft_vocab_size": self.draft_vocab,
            "block_size": WIDTH,
            "mask_token_id": self.vocab - 1,
            "markov_rank": self.rank,
            "markov_head_type": self.markov if self.rank else None,
            "enable_confidence_head": self.rank > 0,
            "confidence_head_with_markov": self.rank > 0,
            "sample_from_anchor": self.samples_anchor,
        }

    def shapes(self) -> dict[str, tuple[int, ...]]:
        hidden, inner, rank = self.hidden, self.inner, self.rank
        shapes: dict[str, tuple[int, ...]] = {
            "fc.weight": (hidden, NUM_TAPS * hidden),
            "hidden_norm.weight": (hidden,),
            "norm.weight": (hidden,),
            "lm_head.weight": (self.draft_vocab, hidden),
        }
        if rank:
            shapes["markov_head.markov_w1.weight"] = (self.vocab, rank)
            shapes["markov_head.markov_w2.weight"] = (self.draft_vocab, rank)
            shapes["confidence_head.proj.weight"] = (1, hidden + rank)
            shapes["confidence_head.proj.bias"] = (1,)
        if rank and self.markov == "gated":
            shapes["markov_head.gate_proj.weight"] = (rank, hidden + rank)
        for index in range(2):
            at = f"layers.{index}"
            sizes = {"q": self.heads, "k": self.kv_heads, "v": self.kv_heads}
            for part, count in sizes.items():
                shapes[f"{at}.self_attn.{part}_proj.weight"] = (count * self.head_dim, hidden)
                if self.bias:
                    shapes[f"{at}.self_attn.{part}_proj.bias"] = (count * self.head_dim,)
            shapes[f"{at}.self_attn.o_proj.weight"] = (hidden, self.heads * self.head_dim)
            shapes |= {f"{at}.self_attn.{part}_norm.weight": (self.head_dim,) for part in "qk"}
            shapes |= {f"{at}.mlp.{part}_proj.weight": (inner, hidden) for part in ("gate", "up")}
            shapes[f"{at}.mlp.down_proj.weight"] = (hidden, inner)
            for norm in ("input_layernorm", "post_attention_layernorm"):
                shapes[f"{at}.{norm}.weight"] = (hidden,)
        return shapes

    def write(self, folder: Path) -> Path:
        """A random drafter; what goes in and what comes out of each product is around 1."""
        noise, tensors = torch.Generator().manual_seed(5), {}
        for name, shape in self.shapes().items():
            values = torch.randn(shape, generator=noise)
            is_vector = len(shape) == 1
            tensors[name] = 1.0 + 0.2 * values if is_vector else 1.5 * values / shape[1] ** 0.5
        if self.draft_vocab != self.vocab:
            chosen = torch.randperm(self.vocab, generator=noise)[: self.draft_vocab].sort().values
            tensors["d2t"] = chosen - torch.arange(self.draft_vocab)
        return write_checkpoint(folder, self.config(), tensors)

    def target(self, *, is_quantized: bool = True) -> TargetParts:
        noise = torch.Generator().manual_seed(6)
        embedding = torch.randn((self.vocab, self.hidden), generator=noise).bfloat16()
        return TargetParts(3, embedding, embedding, PlainHead(embedding), 400, is_quantized=is_quantized)


TOY, REAL = Sizes(), Sizes(576, 1536, 9, 3, 64, vocab=9000, draft_vocab=8192, rank=64)
FITTING = {
    "toy": TOY,
    "of the bundled model": REAL,
    "dflash": replace(TOY, rank=0),
    "whole vocabulary": replace(TOY, draft_vocab=264),
    "anchor not sampled": replace(TOY, samples_anchor=False),
}


def load(folder: Path, sizes: Sizes, **how: Any) -> BlockDrafter:
    draft_topk = how.pop("draft_topk", None)
    drafter = load_drafter(sizes.write(folder), sizes.target(**how), draft_topk=draft_topk).drafter
    assert isinstance(drafter, BlockDrafter)
    return drafter


class Contexts:
    """Sequences of different lengths in scattered blocks, whose rows came in chunks."""

    def __init__(self, drafter: BlockDrafter, chunk: int = 7, starts: Ordered[int] = STARTS) -> None:
        self.drafter, self.starts = drafter, starts
        self.cache = DraftCache(drafter.context, NUM_BLOCKS, torch.bfloat16, CPU)
        self.tables: list[list[int]] = []
        size = NUM_TAPS * drafter.embedding.shape[1]
        free = [*range(1, NUM_BLOCKS, 2), *range(0, NUM_BLOCKS, 2)]
        for start in starts:
            table = [free.pop() for _ in range(max(1, num_blocks_for(start)))]
            features = torch.randn((start, size), generator=torch.Generator().manual_seed(start)).bfloat16()
            for first in range(0, start, chunk):
                rows = features[first : first + chunk]
                span = Span([0] * len(rows), first, table)
                drafter.extend(context_rows([span], rows), self.cache)
            self.tables.append(table)

    def batch(self, temperatures: Ordered[float], which: Ordered[int] | None = None) -> DraftBatch:
        chosen = range(len(self.starts)) if which is None else which
        anchors = [
            Anchor([3] * (self.starts[at] + 1), self.tables[at], temperatures[at], at, 1) for at in chosen
        ]
        return draft_batch(anchors, self.drafter.num_slots, CPU)

    def propose(self, temperatures: Ordered[float], which: Ordered[int] | None = None) -> Proposal:
        return self.drafter.propose(self.batch(temperatures, which), self.cache)


def probs_of(proposal: Proposal) -> Tensor:
    assert proposal.draft_probs is not None
    return proposal.draft_probs


def confidence_of(proposal: Proposal) -> Tensor:
    assert proposal.confidence_logits is not None
    return proposal.confidence_logits


@pytest.mark.parametrize("kind", FITTING)
def test_proposals_are_near_those_of_torch(tmp_path: Path, kind: str) -> None:
    ours, theirs = load(tmp_path, FITTING[kind]), load(tmp_path, FITTING[kind], is_quantized=False)
    assert ours.quantized is not None
    assert theirs.quantized is None
    mine, other = (Contexts(drafter).propose([0.0] * 4 + [1.0] * 3) for drafter in (ours, theirs))
    assert mine.token_ids.shape == other.token_ids.shape
    assert mine.lengths.tolist() == other.lengths.tolist()
    alike = (mine.token_ids == other.token_ids).long().cumprod(1)
    assert alike[:4].double().mean() > 0.7
    before = torch.cat([torch.ones_like(alike[:, :1]), alike[:, :-1]], 1).bool()  # the same tokens so far
    assert (probs_of(mine) - probs_of(other))[4:][before[4:]].abs().sum(-1).max() < 0.1
    assert (mine.confidence_logits is None) == (other.confidence_logits is None)
    if mine.confidence_logits is not None:
        assert (mine.confidence_logits - confidence_of(other))[before].abs().max() < 0.15


@pytest.mark.parametrize("sizes", [TOY, REAL])
def test_no_bit_depends_on_the_company_or_on_how_the_context_came(tmp_path: Path, sizes: Sizes) -> None:
    drafter = load(tmp_path, sizes)
    contexts, in_one = Contexts(drafter), Contexts(drafter, chunk=1000)
    together = contexts.propose(MIXED)
    for at in range(len(STARTS)):
        for alone in (contexts.propose(MIXED, [at]), in_one.propose(MIXED, [at])):
            assert alone.token_ids[0].tolist() == together.token_ids[at].tolist()
            assert torch.equal(confidence_of(alone)[0], confidence_of(together)[at])
            if alone.draft_probs is not None:
                assert torch.equal(alone.draft_probs[0], probs_of(together)[at])


def test_instruction_sets_agree_to_the_last_bit(tmp_path: Path) -> None:
    drafter = load(tmp_path, TOY)
    assert drafter.quantized is not None
    if not drafter.quantized.has_amx:
        pytest.skip("this processor has no AMX to compare with")
    with_amx = Contexts(drafter).propose(MIXED)
    drafter.quantized.use_amx(False)
    without = Contexts(drafter).propose(MIXED)
    assert torch.equal(without.token_ids, with_amx.token_ids)
    assert torch.equal(probs_of(without), probs_of(with_amx))


def test_distributions_are_those_of_logits_at_the_temperatures(tmp_path: Path) -> None:
    contexts = Contexts(load(tmp_path, TOY))
    greedy = contexts.propose([0.0] * len(STARTS))
    assert greedy.draft_probs is None
    mixed, cold = contexts.propose(MIXED), contexts.propose([1e-4] * len(STARTS))
    assert cold.token_ids.tolist() == greedy.token_ids.tolist()
    probs = probs_of(mixed)
    assert (probs.sum(-1) - 1).abs().max() < 1e-5
    assert mixed.vocabulary is not None
    assert mixed.token_probs is not None
    of_tokens = [
        [mixed.vocabulary.tolist().index(token) for token in row] for row in mixed.token_ids.tolist()
    ]
    assert torch.equal(mixed.token_probs, probs.gather(2, torch.tensor(of_tokens).unsqueeze(2)).squeeze(2))
    for at, temperature in enumerate(MIXED):
        if temperature == 0.0:
            assert mixed.token_ids[at].tolist() == greedy.token_ids[at].tolist()
            assert mixed.token_probs[at].tolist() == [1.0] * WIDTH
            continue
        warm = [1.0 if one else 0.0 for one in MIXED]
        at_one = probs_of(contexts.propose(warm))[at, 0]  # slot 0: the same logits, whatever was drawn
        assert (probs[at, 0] - (at_one.log() / temperature).softmax(-1)).abs().max() < 1e-4


def test_tokens_are_drawn_as_often_as_their_distribution_says(tmp_path: Path) -> None:
    drafter = load(tmp_path, TOY)
    contexts = Contexts(drafter, starts=[20])
    anchors = [Anchor([3] * 21, contexts.tables[0], 1.0, seed, 1) for seed in range(8000)]
    proposal = drafter.propose(draft_batch(anchors, WIDTH, CPU), contexts.cache)
    assert proposal.vocabulary is not None
    columns = torch.searchsorted(proposal.vocabulary, proposal.token_ids[:, 0].contiguous())
    observed = torch.bincount(columns, minlength=TOY.draft_vocab)
    assert torch.equal(probs_of(proposal)[0, 0], probs_of(proposal)[-1, 0])
    assert p_value(observed, probs_of(proposal)[0, 0]) > 1e-3


def test_a_proposal_leaves_the_cache_as_it_is(tmp_path: Path) -> None:
    contexts = Contexts(load(tmp_path, TOY))
    before = [layer.clone() for layer in contexts.cache.layers]
    first = contexts.propose(MIXED)
    assert all(map(torch.equal, before, contexts.cache.layers))
    assert torch.equal(contexts.propose(MIXED).token_ids, first.token_ids)


@pytest.mark.parametrize(
    ("changes", "how"),
    [
        ({}, {"is_quantized": False}),
        ({}, {"draft_topk": 5}),
        ({"markov": "gated"}, {}),
        ({"bias": True}, {}),
        ({"rank": 12}, {}),
        ({"inner": 72}, {}),
        ({"heads": 3, "kv_heads": 1}, {}),
    ],
)
def test_other_drafters_run_in_torch(tmp_path: Path, changes: dict[str, Any], how: dict[str, Any]) -> None:
    drafter = load(tmp_path, replace(TOY, **changes), **how)
    assert drafter.quantized is None
    assert Contexts(drafter).propose(MIXED).token_ids.shape == (len(STARTS), WIDTH)


@pytest.mark.parametrize("sampling", sorted(SAMPLINGS))
def test_two_tokens_of_an_answer_have_the_targets_distribution(tmp_path: Path, sampling: str) -> None:
    target = Target(SAMPLINGS[sampling])
    drafter = load(tmp_path, replace(TOY, vocab=VOCAB, draft_vocab=VOCAB - 4))
    contexts = Contexts(drafter, starts=[len(HISTORY) - 1])
    pairs, accepted = [], []
    for first_seed in range(0, ANSWERS, BATCH):
        seeds = list(range(first_seed, first_seed + BATCH))
        anchors = [
            Anchor(HISTORY, contexts.tables[0], target.sampling.temperature, seed, 1) for seed in seeds
        ]
        proposal = drafter.propose(draft_batch(anchors, drafter.num_slots, CPU), contexts.cache)
        proposal = replace(proposal, lengths=proposal.lengths.clamp(max=2))
        pair, stood = judge(proposal, target, seeds, honest=True)
        pairs.append(pair)
        accepted.append(stood)
    observed = counts_of(torch.cat(pairs))
    assert int(observed[target.joint == 0].sum()) == 0
    assert p_value(observed, target.joint) > 1e-3
    assert 0.02 < (torch.cat(accepted) > 0).double().mean() < 0.98


def test_answers_are_the_same_with_drafts_of_a_quantised_drafter(tmp_path: Path) -> None:
    """A toy target with few tokens, so that some drafts stand; in small chunks, with little memory."""
    few = 20
    write_toy_model(tmp_path / "target", vocab_size=few, eos_token_id=0, pad_token_id=0)
    model = QuantizedLlama(read_config(tmp_path / "target"), read_weights(tmp_path / "target"))
    folder = replace(TOY, vocab=few, draft_vocab=few).write(tmp_path / "drafter")
    config = model.config
    target = TargetParts(
        config.num_layers, model.embedding, model.head_weight, model.head, config.max_positions, True
    )
    drafter = load_drafter(folder, target).drafter

    def answers(with_drafts: bool, max_batch: int) -> list[Sequence]:
        sequences = []
        for at in range(10):
            temperature = 0.0 if at % 2 else 0.8
            prompt = [(3 * at + 7 * one) % few for one in range(1 + 5 * at)]
            sampling = Sampling(temperature=temperature, seed=at)
            ends = frozenset({0}) if at % 3 else frozenset()
            made = make_sequence(str(at), prompt, 40, sampling=sampling, end_ids=ends)
            made.speculation = "fixed"
            sequences.append(made)
        engine = make_engine(
            model, max_batch=max_batch, kv_tokens=320, drafter=drafter if with_drafts else None
        )
        run_all(engine, sequences)
        if engine.speculation is not None:
            assert not engine.speculation.is_broken
        return sequences

    plain = answers(False, 1)
    alone, company = answers(True, 1), answers(True, 6)
    for at in range(10):
        assert company[at].output_ids == alone[at].output_ids
        if at % 2:
            assert alone[at].output_ids == plain[at].output_ids
    assert sum(sequence.counts.accepted for sequence in company) > 5
