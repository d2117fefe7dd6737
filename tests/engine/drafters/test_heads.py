"""DSpark with every head, and DFlash, against the plain reference: any layout, batched, any format."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.drafters.base import DraftBatch, confident_lengths
from engine.drafters.batches import Anchor, Span, context_rows, draft_batch
from engine.drafters.context import DraftCache
from engine.drafters.draws import choose
from engine.drafters.dspark import BlockDrafter
from engine.drafters.loading import TargetParts, load_drafter
from engine.kv_cache import num_blocks_for
from tests.engine.devices import DEVICES
from tests.engine.drafters import reference
from tests.engine.drafters.checkpoints import (
    DEEPSPEC,
    SPECULATORS,
    VOCAB,
    block_shapes,
    random_target,
    random_tensors,
    write_checkpoint,
)
from tests.engine.drafters.parity import assert_near

HEADS = [None, "vanilla", "gated", "rnn"]
STARTS = [1, 7, 16, 17, 33]


def deepspec(folder: Path, head: str | None, seed: int, bias: bool = False) -> tuple[Path, dict[str, Tensor]]:
    config = DEEPSPEC | {"attention_bias": bias}
    if head is None:
        config |= {"markov_rank": 0, "enable_confidence_head": False}
    else:
        config |= {"markov_head_type": head}
    tensors = random_tensors(block_shapes(head, confidence=head is not None, bias=bias), seed)
    return write_checkpoint(folder, config, tensors), tensors


def drafter_of(folder: Path, target: TargetParts, draft_topk: int | None = None) -> BlockDrafter:
    loaded = load_drafter(folder, target, draft_topk=draft_topk)
    assert isinstance(loaded.drafter, BlockDrafter)
    assert loaded.unused == ()
    return loaded.drafter


class Contexts:
    """Sequences of different lengths whose rows came in chunks, in scattered blocks."""

    def __init__(self, drafter: BlockDrafter, target: TargetParts, chunk: int = 6) -> None:
        like = target.embedding
        self.cache = DraftCache(drafter.context, 40, like.dtype, like.device)
        self.features = [reference.random_features(start, reference.FEATURES, start) for start in STARTS]
        self.anchors = [(11 * start) % (VOCAB - 1) for start in STARTS]
        self.tables: list[list[int]] = []
        free = [*range(0, 40, 2), *range(1, 40, 2)]
        for start, features in zip(STARTS, self.features, strict=True):
            self.tables.append([free.pop(0) for _ in range(num_blocks_for(start))])
            for first in range(0, start, chunk):
                rows = features[first : first + chunk].to(like.device, like.dtype)
                span = Span([0] * len(rows), first, self.tables[-1])
                drafter.extend(context_rows([span], rows), self.cache)

    def batch(self, drafter: BlockDrafter, device: torch.device, temperature: float = 0.0) -> DraftBatch:
        anchors = [
            Anchor([0] * start + [token], table, temperature, seed, 1)
            for seed, (start, token, table) in enumerate(zip(STARTS, self.anchors, self.tables, strict=True))
        ]
        return draft_batch(anchors, drafter.num_slots, device)


def expected_block(
    contexts: Contexts, index: int, tensors: dict[str, Tensor], target: TargetParts, **how: object
) -> reference.Block:
    weights = {name: tensor.double() for name, tensor in tensors.items() if tensor.is_floating_point()}
    embedding = weights.get("embed_tokens.weight", target.embedding.double().cpu())
    lm_head = weights.get("lm_head.weight", target.head_weight.double().cpu())
    features, anchor = contexts.features[index].double(), contexts.anchors[index]
    settings = {"width": 5, "mask_token": VOCAB - 1} | how
    return reference.draft_block(weights, embedding, lm_head, features, anchor, **settings)


def check_against_reference(
    drafter: BlockDrafter, tensors: dict[str, Tensor], target: TargetParts, **how: object
) -> None:
    contexts = Contexts(drafter, target)
    batch = contexts.batch(drafter, target.embedding.device)
    proposal = drafter.propose(batch, contexts.cache)
    hidden = drafter.block_hidden(batch, contexts.cache)
    drafted = drafter.link_slots(hidden, batch.anchors, lambda slot, logits: choose(logits, None, None))
    for index in range(len(STARTS)):
        expected = expected_block(contexts, index, tensors, target, **how)
        assert proposal.token_ids[index].tolist() == expected.token_ids
        assert_near(drafted.logits[index].cpu().double(), expected.logits)
        assert (proposal.confidence_logits is None) == (expected.confidence is None)
        if proposal.confidence_logits is not None and expected.confidence is not None:
            assert_near(proposal.confidence_logits[index].cpu().double(), expected.confidence)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("head", HEADS)
def test_deepspecs_layout(tmp_path: Path, head: str | None, seed: int, device: str) -> None:
    folder, tensors = deepspec(tmp_path, head, seed)
    target = random_target(device=device)
    check_against_reference(drafter_of(folder, target), tensors, target, head=head)


def test_attention_biases_are_used(tmp_path: Path) -> None:
    folder, tensors = deepspec(tmp_path, "vanilla", 3, bias=True)
    target = random_target()
    check_against_reference(drafter_of(folder, target), tensors, target, head="vanilla")


@pytest.mark.parametrize(("head", "samples_anchor"), [("vanilla", True), ("vanilla", False), ("rnn", True)])
def test_speculators_layout_with_a_reduced_vocabulary(
    tmp_path: Path, head: str, samples_anchor: bool
) -> None:
    ids = torch.tensor([0, 2, 3, 7, 8, 12, 20, 21, 30, 38])
    config = SPECULATORS | {
        "draft_vocab_size": len(ids),
        "markov_head_type": head,
        "sample_from_anchor": samples_anchor,
    }
    tensors = random_tensors(block_shapes(head, draft_vocab=len(ids)), 4)
    del tensors["embed_tokens.weight"]
    tensors["d2t"] = ids - torch.arange(len(ids))
    tensors["t2d"] = torch.isin(torch.arange(VOCAB), ids)
    target = random_target()
    drafter = drafter_of(write_checkpoint(tmp_path, config, tensors), target)
    assert drafter.num_slots == 5 if samples_anchor else 4
    assert drafter.target_layer_ids == (0, 2)
    how = {"head": head, "vocabulary": ids, "samples_anchor": samples_anchor}
    check_against_reference(drafter, tensors, target, **how)


@pytest.mark.parametrize("head", HEADS)
def test_sampled_tokens_come_from_the_reported_distribution(tmp_path: Path, head: str | None) -> None:
    folder, _ = deepspec(tmp_path, head, 5)
    target = random_target()
    drafter = drafter_of(folder, target)
    contexts = Contexts(drafter, target)
    batch = contexts.batch(drafter, target.embedding.device, temperature=1.3)
    proposal = drafter.propose(batch, contexts.cache)
    assert proposal.draft_probs is not None
    assert proposal.token_probs is not None
    assert proposal.draft_probs.dtype == torch.float32
    assert torch.allclose(proposal.draft_probs.sum(-1), torch.ones(len(STARTS), 5), atol=1e-5)
    own = proposal.draft_probs.gather(2, proposal.token_ids.unsqueeze(2)).squeeze(2)
    assert own.tolist() == proposal.token_probs.tolist()
    assert bool((own > 0).all())


@pytest.mark.parametrize("temperature", [0.0, 1.3])
@pytest.mark.parametrize("head", HEADS)
def test_choosing_among_all_tokens_is_choosing_freely(
    tmp_path: Path, head: str | None, temperature: float
) -> None:
    folder, _ = deepspec(tmp_path, head, 8)
    target = random_target()
    free = drafter_of(folder, target)
    contexts = Contexts(free, target)
    batch = contexts.batch(free, target.embedding.device, temperature)
    expected = free.propose(batch, contexts.cache)
    for most in (VOCAB, VOCAB + 1):
        proposal = drafter_of(folder, target, most).propose(batch, contexts.cache)
        assert proposal.token_ids.tolist() == expected.token_ids.tolist()
        for ours, theirs in (
            (proposal.draft_probs, expected.draft_probs),
            (proposal.confidence_logits, expected.confidence_logits),
        ):
            assert (ours is None) == (theirs is None)
            if ours is not None and theirs is not None:
                assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("vocab", [VOCAB, 10])
@pytest.mark.parametrize("head", HEADS)
def test_a_slot_chooses_among_its_likeliest_tokens(tmp_path: Path, head: str | None, vocab: int) -> None:
    """The distribution is the full one of biased logits, cut to those columns."""
    tensors = random_tensors(block_shapes(head, draft_vocab=vocab, confidence=False), 9)
    tensors["d2t"] = 3 * torch.arange(vocab) if vocab < VOCAB else torch.zeros(VOCAB, dtype=torch.long)
    changes = {"markov_rank": 0} if head is None else {"markov_head_type": head}
    config = SPECULATORS | {"draft_vocab_size": vocab, "enable_confidence_head": False} | changes
    folder, target = write_checkpoint(tmp_path, config, tensors), random_target()
    drafter, free = drafter_of(folder, target, 4), drafter_of(folder, target)
    contexts = Contexts(drafter, target)
    batch = contexts.batch(drafter, target.embedding.device, 1.3)
    proposal = drafter.propose(batch, contexts.cache)
    assert proposal.draft_probs is not None
    hidden = drafter.block_hidden(batch, contexts.cache)
    kept = drafter.base_logits(hidden).topk(4, dim=-1).indices
    ids = torch.arange(VOCAB) if proposal.vocabulary is None else proposal.vocabulary
    drawn = (ids == proposal.token_ids.unsqueeze(2)).long().argmax(2)  # the columns
    forced = free.link_slots(hidden, batch.anchors, lambda slot, logits: (drawn[:, slot], None))
    cut = torch.full_like(forced.logits, float("-inf")).scatter(2, kept, forced.logits.gather(2, kept))
    assert torch.allclose(proposal.draft_probs, (cut / 1.3).softmax(-1), atol=1e-6)
    own = proposal.draft_probs.gather(2, drawn.unsqueeze(2)).squeeze(2)
    assert own.tolist() == (proposal.token_probs if proposal.token_probs is not None else own * 0).tolist()
    assert bool((own > 0).all())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("head", HEADS)
def test_bfloat16_stays_near_float32(tmp_path: Path, head: str | None, device: str) -> None:
    folder, tensors = deepspec(tmp_path, head, 6)
    target = random_target(dtype=torch.bfloat16, device=device)
    drafter = drafter_of(folder, target)
    contexts = Contexts(drafter, target)
    batch = contexts.batch(drafter, target.embedding.device)
    base = drafter.base_logits(drafter.block_hidden(batch, contexts.cache))
    plain = {name: tensor for name, tensor in tensors.items() if not name.startswith("markov")}
    plain = {name: tensor for name, tensor in plain.items() if not name.startswith("confidence")}
    assert drafter.propose(batch, contexts.cache).token_ids.shape == (len(STARTS), 5)
    for index in range(len(STARTS)):
        expected = expected_block(contexts, index, plain, target, head=None).logits
        error = (base[index].cpu().double() - expected).square().mean().sqrt()
        assert error < 0.1 * expected.std()


def test_a_threshold_cuts_at_the_first_unsure_slot(tmp_path: Path) -> None:
    folder, _ = deepspec(tmp_path, "gated", 7)
    target = random_target()
    contexts = Contexts(drafter_of(folder, target), target)
    whole = drafter_of(folder, target)
    batch = contexts.batch(whole, target.embedding.device)
    confidence = whole.propose(batch, contexts.cache).confidence_logits
    assert confidence is not None
    seen: set[int] = set()
    for threshold in confidence.sigmoid().quantile(torch.tensor([0.05, 0.2, 0.5])).tolist():
        lengths = confident_lengths(confidence, threshold).tolist()
        for row, length in zip(confidence.sigmoid().tolist(), lengths, strict=True):
            assert all(value >= threshold for value in row[:length])
            assert length == 5 or row[length] < threshold
        seen.update(lengths)
    assert len(seen) > 2
