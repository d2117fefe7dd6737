"""Lookup beside a learned drafter: who drafts, and that the answers keep the target's distribution."""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.draft_lengths import log_odds
from engine.drafters.base import Proposal
from engine.drafters.batches import Anchor, Span, context_rows, draft_batch
from engine.drafters.context import DraftCache
from engine.drafters.hybrid import Hybrid
from engine.drafters.loading import load_drafter
from engine.drafters.lookup import PromptLookup
from engine.sequence import Sampling
from tests.engine.drafters import reference
from tests.engine.drafters.checkpoints import (
    SPECULATORS,
    VOCAB,
    block_shapes,
    random_target,
    random_tensors,
    write_checkpoint,
)
from tests.engine.drafters.chi_square import p_value
from tests.engine.drafters.test_lossless import Target, counts_of, judge

CPU = torch.device("cpu")
SURE = [3, 1, 4, 1, 5, 9, 2, 6, 3, 1, 4, 1, 5, 9, 2, 6, 3, 1, 4, 1]  # 12 tokens repeat
LIKELY = [7, 7, 7, 0, 8, 0, 3, 1, 4, 1, 5, 9, 2, 6, 5, 2, 3, 1, 4, 1]  # 4 tokens repeat: 0.6
FRESH = list(range(20, 40))
LAST = len(FRESH) - 1


def make_hybrid(folder: Path, chance: float) -> tuple[Hybrid, DraftCache]:
    """The learned drafter knows even tokens alone and always says `chance`. All histories share its rows."""
    ids = torch.arange(0, VOCAB, 2)
    tensors = {
        name: 0.6 * tensor
        for name, tensor in random_tensors(block_shapes("vanilla", draft_vocab=len(ids)), 21).items()
    }
    tensors |= {
        "d2t": ids - torch.arange(len(ids)),
        "confidence_head.proj.weight": torch.zeros_like(tensors["confidence_head.proj.weight"]),
        "confidence_head.proj.bias": torch.tensor([log_odds(chance)]),
    }
    config = SPECULATORS | {"draft_vocab_size": len(ids), "block_size": 3}
    learned = load_drafter(write_checkpoint(folder, config, tensors), random_target()).drafter
    cache = DraftCache(learned.context, 4, torch.float32, CPU)
    features = reference.random_features(LAST, reference.FEATURES, 5)
    hybrid = Hybrid(PromptLookup(num_slots=3), learned)
    hybrid.extend(context_rows([Span(FRESH[:-1], 0, [1, 2])], features), cache)
    return hybrid, cache


def propose(
    drafter: Hybrid, cache: DraftCache, histories: Ordered[Ordered[int]], temperature: float = 0.0
) -> Proposal:
    anchors = [Anchor(one, [1, 2], temperature, seed, 1) for seed, one in enumerate(histories)]
    return drafter.propose(draft_batch(anchors, drafter.num_slots, CPU), cache)


@pytest.mark.parametrize(
    ("chance", "found"),
    [(0.1, [True, True, False]), (0.59, [True, True, False]), (0.61, [True, False, False])],
)
def test_each_sequence_takes_what_is_likelier_to_begin_well(
    tmp_path: Path, chance: float, found: list[bool]
) -> None:
    hybrid, cache = make_hybrid(tmp_path, chance)
    histories = [SURE, LIKELY, FRESH]
    proposal = propose(hybrid, cache, histories)
    assert proposal.draft_probs is None
    assert proposal.confidence_logits is not None
    anchors = [Anchor(one, [1, 2], 0.0, 0, 1) for one in histories]
    learned = hybrid.learned.propose(draft_batch(anchors, 3, CPU), cache)
    for row, is_found in enumerate(found):
        expected = [5, 9, 2] if is_found else learned.token_ids[row].tolist()
        assert proposal.token_ids[row].tolist() == expected
        first = float(proposal.confidence_logits[row, 0].sigmoid())
        assert first == pytest.approx((0.841, 0.599, 0.001)[row] if is_found else chance, abs=1e-3)


def test_where_the_find_is_sure_the_learned_drafter_computes_nothing(tmp_path: Path) -> None:
    hybrid, _ = make_hybrid(tmp_path, 0.99)
    nothing = DraftCache(None, 1, torch.float32, CPU)  # of no use to a learned drafter
    assert propose(hybrid, nothing, [SURE, SURE]).token_ids.tolist() == [[5, 9, 2]] * 2
    with pytest.raises(IndexError):
        propose(hybrid, nothing, [SURE, FRESH])


def test_without_anything_found_it_is_the_learned_drafter(tmp_path: Path) -> None:
    hybrid, cache = make_hybrid(tmp_path, 0.01)
    proposal = propose(hybrid, cache, [FRESH, FRESH], 1.0)
    assert proposal.lengths.tolist() == [3, 3]
    assert proposal.vocabulary is not None
    assert proposal.vocabulary.tolist() == list(range(0, VOCAB, 2))


def test_a_draft_and_its_distribution_do_not_depend_on_company(tmp_path: Path) -> None:
    hybrid, cache = make_hybrid(tmp_path, 0.3)
    histories = [SURE, LIKELY, FRESH]
    together = propose(hybrid, cache, histories, 1.0)
    for row, history in enumerate(histories):
        anchors = [Anchor(history, [1, 2], 1.0, row, 1)]
        alone = hybrid.propose(draft_batch(anchors, 3, CPU), cache)
        assert torch.equal(alone.token_ids[0], together.token_ids[row])
        torch.testing.assert_close(distributions(alone)[0], distributions(together)[row])


def distributions(proposal: Proposal) -> torch.Tensor:
    """Over the target's vocabulary, [B, n, V]; a draft's own probability agrees with it."""
    assert proposal.draft_probs is not None
    assert proposal.vocabulary is not None
    assert proposal.token_probs is not None
    whole = torch.zeros((*proposal.token_ids.shape, VOCAB))
    whole.index_copy_(2, proposal.vocabulary, proposal.draft_probs)
    own = whole.gather(2, proposal.token_ids.unsqueeze(2)).squeeze(2)
    torch.testing.assert_close(own, proposal.token_probs)
    return whole


@pytest.mark.parametrize("honest", [True, False])
def test_answers_have_the_targets_distribution_whoever_drafts(tmp_path: Path, honest: bool) -> None:
    hybrid, cache = make_hybrid(tmp_path, 0.3)
    target = Target(Sampling(temperature=1.0))
    count, pairs = 4_000, []
    for first_seed in range(0, 40_000, count):
        seeds = list(range(first_seed, first_seed + count))
        anchors = [Anchor((SURE, FRESH)[seed % 2], [1, 2], 1.0, seed, 1) for seed in seeds]
        proposal = hybrid.propose(draft_batch(anchors, 3, CPU), cache)
        proposal = replace(proposal, lengths=proposal.lengths.clamp(max=2))
        pairs.append(judge(proposal, target, seeds, honest)[0])
    tokens = torch.cat(pairs)
    for part in (tokens[0::2], tokens[1::2]):
        p = p_value(counts_of(part), target.joint)
        assert p > 1e-3 if honest else p < 1e-9
