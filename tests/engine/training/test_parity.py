"""The trainer's forward, masks and losses against DeepSpec's numbers (fixtures `dspark_parity`), in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from engine.checkpoint import read_weights
from engine.drafters.settings import read_settings
from engine.training import anchors
from engine.training.losses import LossWeights, TargetHead
from engine.training.modules import Batch, BlockNet, Eagle3Net, Span
from engine.training.objective import Objective
from tests.engine.drafters import parity
from tests.engine.drafters.parity import assert_near

FROZEN = ("embed_tokens.weight", "lm_head.weight")


def stored_net(name: str) -> tuple[Any, TargetHead]:
    """The fixture's drafter as a module, every one of its tensors loaded, and its head."""
    settings, weights = read_settings(parity.FOLDER / name), read_weights(parity.FOLDER / name)
    weights = {key: tensor.float() for key, tensor in weights.items()}
    num_taps = len(settings.target_layer_ids)
    net: BlockNet | Eagle3Net
    if settings.kind == "eagle3":
        net = Eagle3Net(
            settings.layers, weights["embed_tokens.weight"], num_taps=num_taps, num_slots=settings.num_slots
        )
    else:
        net = BlockNet(
            settings.layers,
            weights["embed_tokens.weight"],
            num_taps=num_taps,
            num_slots=settings.num_slots,
            mask_token_id=settings.mask_token_id,
            markov_rank=settings.markov_rank,
            draft_vocab_size=settings.layers.vocab_size,
            has_confidence=settings.has_confidence,
        )
    net.load_state_dict({key: tensor for key, tensor in weights.items() if key not in FROZEN})
    return net, TargetHead(weights["lm_head.weight"], None, torch.float32)


def batch_of(
    token_ids: Tensor, in_answer: Tensor, features: Tensor, last_hidden: Tensor, at: Tensor, num_slots: int
) -> Batch:
    """Conversations [B, S] with the anchors [B, A] of each."""
    log_norms = torch.logsumexp(last_hidden @ target_head().T, dim=-1)
    count, length = token_ids.shape
    made = [anchors.labels(*row, num_slots) for row in zip(token_ids, in_answer, at, strict=True)]
    width = at.shape[1]
    return Batch(
        token_ids=token_ids.flatten(),
        positions=torch.arange(length).repeat(count),
        features=features.flatten(0, 1),
        last_hidden=last_hidden.flatten(0, 1),
        log_norms=log_norms.flatten(),
        anchors=(at + length * torch.arange(count).unsqueeze(1)).flatten(),
        labels=torch.cat([labels for labels, _ in made]),
        counts=torch.cat([counts for _, counts in made]),
        spans=tuple(
            Span(slice(one * length, (one + 1) * length), slice(one * width, (one + 1) * width))
            for one in range(count)
        ),
    )


def target_head() -> Tensor:
    return read_weights(parity.FOLDER / "target")["lm_head.weight"].float()


@pytest.fixture
def train_step() -> tuple[Batch, dict[str, Tensor]]:
    stored = parity.tensors("dspark_vanilla/train_step")
    batch = batch_of(
        stored["input_ids"],
        stored["loss_mask"].bool(),
        stored["target_hidden_states"],
        stored["target_last_hidden_states"],
        stored["anchor_positions"],
        num_slots=5,
    )
    return batch, stored


def test_labels_are_deepspecs(train_step: tuple[Batch, dict[str, Tensor]]) -> None:
    batch, stored = train_step
    expected = stored["eval_mask"].bool().flatten(0, 1)
    assert torch.equal(batch.counts, expected)
    assert torch.equal(batch.labels[expected], stored["target_ids"].flatten(0, 1)[expected])


def test_every_anchor_of_the_fixture_is_a_candidate(train_step: tuple[Batch, dict[str, Tensor]]) -> None:
    _, stored = train_step
    for in_answer, chosen in zip(stored["loss_mask"].bool(), stored["anchor_positions"], strict=True):
        assert set(chosen.tolist()) <= set(anchors.candidates(in_answer).tolist())


def test_logits_and_confidence_of_a_block_are_deepspecs(train_step: tuple[Batch, dict[str, Tensor]]) -> None:
    batch, stored = train_step
    net, head = stored_net("dspark_vanilla")
    drafted = net(batch)
    logits = (drafted.hidden @ head.weight.T + drafted.codes @ net.biases.T).view(4, 6, 5, -1)
    assert_near(logits[:, 0], stored["draft_logits_block0"])
    assert_near(logits[:, -1], stored["draft_logits_last_block"])
    assert_near(drafted.confidence.view(4, 6, 5), stored["confidence_pred"])


def test_loss_and_its_parts_are_deepspecs(train_step: tuple[Batch, dict[str, Tensor]]) -> None:
    batch, _ = train_step
    facts = parity.facts("dspark_vanilla/train_step")
    terms = facts["loss_terms"]
    objective = Objective(*stored_net("dspark_vanilla"), LossWeights())
    divisor = objective.divisor(batch)
    scores = objective(batch, divisor)
    assert float(divisor) == pytest.approx(terms["ce_loss_den"], rel=parity.TOLERANCE)
    for ours, name in (
        (scores.cross_entropy, "ce"),
        (scores.total_variation, "l1"),
        (scores.confidence, "confidence"),
    ):
        assert float(ours * divisor) == pytest.approx(terms[f"{name}_loss_num"], rel=parity.TOLERANCE)
    assert float(scores.loss.detach()) == pytest.approx(facts["loss"], rel=parity.TOLERANCE)


def test_unrolled_eagle3_steps_are_deepspecs() -> None:
    stored = parity.tensors("eagle3/train_forward")
    net, head = stored_net("eagle3")
    token_ids, features = stored["input_ids"], stored["target_hidden_states"]
    chosen = torch.arange(21, 31).unsqueeze(0)  # an anchor is the token of column 20 .. 29
    everywhere = torch.ones_like(token_ids, dtype=torch.bool)
    batch = batch_of(token_ids, everywhere, features, features[:, :, :32], chosen, num_slots=4)
    hidden = net(batch).hidden.view(10, 4, -1)
    for step in range(4):
        assert_near(hidden[:, step] @ head.weight.T, stored[f"step{step}.logits"][0])
