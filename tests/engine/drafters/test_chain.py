"""Eagle3 and MTP-1 against the plain reference, which recomputes every row of the chain each step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.drafters.batches import Anchor, Span, context_rows, draft_batch
from engine.drafters.chain import ChainDrafter
from engine.drafters.context import DraftCache
from engine.drafters.loading import TargetParts, load_drafter
from engine.kv_cache import num_blocks_for
from tests.engine.drafters import reference
from tests.engine.drafters.checkpoints import (
    EAGLE3,
    HIDDEN,
    MTP,
    VOCAB,
    eagle3_shapes,
    mtp_shapes,
    random_target,
    random_tensors,
    reduced,
    write_checkpoint,
)

STARTS = [1, 5, 16, 17, 40]
KINDS = ["eagle3", "mtp"]
SOME_TOKENS = torch.tensor([0, 2, 3, 7, 8, 12, 20, 21, 30, 38])


def load(
    folder: Path, kind: str, seed: int, target: TargetParts, vocabulary: Tensor | None = None
) -> tuple[ChainDrafter, dict[str, Tensor]]:
    config = EAGLE3 if kind == "eagle3" else MTP
    tensors = random_tensors(eagle3_shapes() if kind == "eagle3" else mtp_shapes(), seed)
    if vocabulary is not None:
        config, tensors = reduced(config, tensors, vocabulary)
    write_checkpoint(folder, config, tensors)
    loaded = load_drafter(folder, target)
    assert isinstance(loaded.drafter, ChainDrafter)
    assert loaded.unused == ()
    return loaded.drafter, tensors


def feature_size(kind: str) -> int:
    return reference.FEATURES if kind == "eagle3" else HIDDEN


def histories() -> list[list[int]]:
    generator = torch.Generator().manual_seed(8)
    return [torch.randint(0, VOCAB, (start + 1,), generator=generator).tolist() for start in STARTS]


def expected_tokens(
    kind: str, drafter: ChainDrafter, tensors: dict[str, Tensor], features: Tensor, history: list[int]
) -> list[int]:
    weights = {name: tensor.double() for name, tensor in tensors.items()}
    target = random_target()
    embedding = weights.get("embed_tokens.weight", target.embedding.double())
    vocabulary = drafter.vocabulary
    of_target = target.head_weight if vocabulary is None else target.head_weight[vocabulary]
    lm_head = weights.get("lm_head.weight", of_target.double())
    return reference.draft_chain(
        weights,
        embedding,
        lm_head,
        features.double(),
        history,
        drafter.num_slots,
        is_mtp=kind == "mtp",
        vocabulary=vocabulary,
    )


@pytest.mark.parametrize("chunk", [100, 3])
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("vocabulary", [None, SOME_TOKENS], ids=["whole", "reduced"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_chains_equals_the_reference(
    tmp_path: Path, kind: str, vocabulary: Tensor | None, seed: int, chunk: int
) -> None:
    drafter, tensors = load(tmp_path, kind, seed, random_target(), vocabulary)
    cache = DraftCache(drafter.context, 30, torch.float32, torch.device("cpu"))
    free = [*range(1, 30, 2), *range(0, 30, 2)]
    anchors, expected = [], []
    for history in histories():
        start = len(history) - 1
        features = reference.random_features(start, feature_size(kind), start)
        table = [free.pop(0) for _ in range(num_blocks_for(start))]
        for first in range(0, start, chunk):
            span = Span(history[first : min(first + chunk, start)], first, table)
            drafter.extend(context_rows([span], features[first : first + chunk]), cache)
        anchors.append(Anchor(history, table, 0.0, 0, 1))
        expected.append(expected_tokens(kind, drafter, tensors, features, history))
    proposal = drafter.propose(draft_batch(anchors, drafter.num_slots, torch.device("cpu")), cache)
    assert proposal.token_ids.tolist() == expected
    assert proposal.lengths.tolist() == [drafter.num_slots] * len(STARTS)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_a_function_of_the_prefix_so_that_blocks_can_be_shared(tmp_path: Path, kind: str) -> None:
    """A second sequence takes over full blocks of the first and goes on with other tokens."""
    drafter, tensors = load(tmp_path, kind, 4, random_target())
    cache = DraftCache(drafter.context, 10, torch.float32, torch.device("cpu"))
    first = histories()[-1]
    second = first[:32] + [(token + 5) % VOCAB for token in first[32:]]
    features = reference.random_features(40, feature_size(kind), 1)
    other = torch.cat([features[:32], reference.random_features(8, feature_size(kind), 2)])
    drafter.extend(context_rows([Span(first[:-1], 0, [1, 2, 3])], features), cache)
    drafter.extend(context_rows([Span(second[32:-1], 32, [1, 2, 7])], other[32:]), cache)
    anchors = [Anchor(first, [1, 2, 3], 0.0, 0, 1), Anchor(second, [1, 2, 7], 0.0, 0, 1)]
    proposal = drafter.propose(draft_batch(anchors, drafter.num_slots, torch.device("cpu")), cache)
    assert proposal.token_ids.tolist() == [
        expected_tokens(kind, drafter, tensors, features, first),
        expected_tokens(kind, drafter, tensors, other, second),
    ]


def test_a_drafted_stop_token_ends_the_proposal(tmp_path: Path) -> None:
    drafter, _ = load(tmp_path, "eagle3", 5, random_target())
    cache = DraftCache(drafter.context, 10, torch.float32, torch.device("cpu"))
    history = histories()[1]
    features = reference.random_features(5, reference.FEATURES, 1)
    drafter.extend(context_rows([Span(history[:-1], 0, [4])], features), cache)

    def lengths(stop_ids: frozenset[int]) -> list[int]:
        batch = draft_batch([Anchor(history, [4], 0.0, 0, 1, stop_ids)], 4, torch.device("cpu"))
        return drafter.propose(batch, cache).lengths.tolist()

    plain = draft_batch([Anchor(history, [4], 0.0, 0, 1)], 4, torch.device("cpu"))
    drafted = drafter.propose(plain, cache).token_ids[0].tolist()
    for stop_id in drafted:
        assert lengths(frozenset([stop_id])) == [drafted.index(stop_id) + 1]
    assert lengths(frozenset(range(VOCAB)) - set(drafted)) == [4]
