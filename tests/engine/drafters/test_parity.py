"""Every drafter against DeepSpec's numbers, in float32: step by step, then whole decoding loops."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from engine.drafters.base import ContextRows, DraftBatch
from engine.drafters.batches import Anchor, Span, context_rows, draft_batch
from engine.drafters.chain import ChainDrafter
from engine.drafters.context import DraftCache
from engine.drafters.draws import choose
from engine.drafters.dspark import BlockDrafter
from engine.kv_cache import BLOCK_TOKENS
from engine.model import Llama
from tests.engine.drafters import parity
from tests.engine.drafters.parity import assert_near
from tests.engine.drafters.rounds import Rounds
from tests.engine.toy import make_sequence

BLOCKS = [5, 2, 9]  # a scattered table, enough for every fixture


@pytest.fixture(scope="module")
def target() -> Llama:
    return parity.load_target()


def stored_rows(cache: DraftCache, layer: int, first: int, count: int) -> tuple[Tensor, Tensor]:
    keys, values = cache.read(layer, torch.tensor([BLOCKS]))
    return keys[:, :, first : first + count], values[:, :, first : first + count]


def test_the_targets_logits_and_features_are_the_fixtures(target: Llama) -> None:
    expected = parity.tensors("target/expected")
    rounds = Rounds(target, parity.load(parity.drafters("dspark")[0], target).drafter)
    ids = expected["input_ids"][0].tolist()
    logits, features = rounds.forward([(make_sequence("a", ids), ids)])
    assert_near(logits, expected["logits"][0])
    assert_near(features, expected["context_feature"][0])


@pytest.mark.parametrize("name", parity.drafters("dspark"))
def test_three_rounds_of_a_block_drafter(name: str, target: Llama) -> None:
    drafter = parity.load(name, target).drafter
    assert isinstance(drafter, BlockDrafter)
    stored, plan = parity.tensors(f"{name}/draft_rounds"), parity.facts(f"{name}/draft_rounds")
    cache = DraftCache(drafter.context, 16, torch.float32, target.device)
    for number, one in enumerate(plan["rounds"]):
        at, start = f"round{number}", one["start"]
        features = stored[f"{at}.context_feature"][0]
        tokens = [0] * one["new_context_rows"]  # a block drafter does not look at them
        drafter.extend(context_rows([Span(tokens, one["context_start"], BLOCKS)], features), cache)
        anchor = int(stored[f"{at}.draft_input_ids"][0, 0])
        batch = draft_batch(
            [Anchor([0] * start + [anchor], BLOCKS, 0.0, 0, 1)], drafter.num_slots, target.device
        )
        hidden = drafter.block_hidden(batch, cache)
        assert_near(hidden, stored[f"{at}.block_hidden"])
        assert_near(drafter.base_logits(hidden), stored[f"{at}.base_logits"])
        check_greedy(drafter, batch, cache, stored, at)
        for temperature in (0.7, 1.0):
            check_forced(drafter, hidden, batch, stored, f"{at}.t{temperature}", temperature)
        for layer in range(len(drafter.layers)):
            if f"{at}.cache_k.{layer}" in stored:
                keys, values = stored_rows(cache, layer, 0, one["cache_len_after"])
                assert_near(keys, stored[f"{at}.cache_k.{layer}"])
                assert_near(values, stored[f"{at}.cache_v.{layer}"])


def check_greedy(
    drafter: BlockDrafter, batch: DraftBatch, cache: DraftCache, stored: dict[str, Tensor], at: str
) -> None:
    proposal = drafter.propose(batch, cache)
    assert proposal.token_ids.tolist() == stored[f"{at}.greedy.tokens"].tolist()
    assert proposal.draft_probs is None
    if proposal.confidence_logits is not None:
        assert_near(proposal.confidence_logits, stored[f"{at}.greedy.confidence_logits"])
    hidden = drafter.block_hidden(batch, cache)
    drafted = drafter.link_slots(hidden, batch.anchors, lambda slot, logits: choose(logits, None, None))
    assert_near(drafted.logits, stored[f"{at}.greedy.logits"])


def check_forced(
    drafter: BlockDrafter,
    hidden: Tensor,
    batch: DraftBatch,
    stored: dict[str, Tensor],
    at: str,
    temperature: float,
) -> None:
    """The stored tokens are fed back; the distributions must be those they were drawn from."""
    tokens, middle = stored[f"{at}.tokens"], torch.tensor([0.5], dtype=torch.float64)

    def force(slot: int, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        _, probs = choose(logits, torch.tensor([temperature]), middle)
        return tokens[:, slot], probs

    drafted = drafter.link_slots(hidden, batch.anchors, force)
    assert_near(drafted.logits, stored[f"{at}.logits"])
    assert drafted.draft_probs is not None
    assert_near(drafted.draft_probs, stored[f"{at}.q"])
    confidence = drafter.confidence_logits(hidden, drafted.previous)
    assert (confidence is None) == (f"{at}.confidence_logits" not in stored)
    if confidence is not None:
        assert_near(confidence, stored[f"{at}.confidence_logits"])


@pytest.mark.parametrize("name", parity.drafters("eagle3"))
def test_rounds_of_eagle3(name: str, target: Llama) -> None:
    drafter = parity.load(name, target).drafter
    assert isinstance(drafter, ChainDrafter)
    stored, plan = parity.tensors(f"{name}/draft_rounds"), parity.facts(f"{name}/draft_rounds")
    cache = DraftCache(drafter.context, 16, torch.float32, target.device)
    prompt = parity.tensors("target/expected")["input_ids"][0].tolist()
    features = stored["prefill.context_feature"][0]
    drafter.extend(context_rows([Span(prompt, 0, BLOCKS)], features), cache)
    history = list(prompt)
    for number, one in enumerate(plan["rounds"]):
        at, start = f"round{number}", one["start"]
        drafted = stored[f"{at}.tokens"][0].tolist()  # the anchor first
        history.append(drafted[0])
        assert len(history) - 1 == start
        batch = draft_batch([Anchor(history, BLOCKS, 0.0, 0, 1)], drafter.num_slots, target.device)
        proposal, logits = propose_and_watch(drafter, batch, cache)
        assert proposal == drafted[1:]
        assert_near(logits[0], stored[f"{at}.first_logits"][:, 0])
        if f"{at}.cache_k" in stored:  # stored from the pair (feature 0, token 1) on; drafted pairs follow
            keys, values = stored_rows(cache, 0, 1, start - 1)
            assert_near(keys, stored[f"{at}.cache_k"][:, :, : start - 1])
            assert_near(values, stored[f"{at}.cache_v"][:, :, : start - 1])
        committed = stored[f"{at}.committed_tokens"][0].tolist()
        rows = stored[f"{at}.committed_context_feature"][0]
        tokens = [drafted[0], *committed[:-1]]
        drafter.extend(context_rows([Span(tokens, start, BLOCKS)], rows), cache)
        history += committed[:-1]


def propose_and_watch(
    drafter: ChainDrafter, batch: DraftBatch, cache: DraftCache
) -> tuple[list[int], list[Tensor]]:
    """The drafted tokens, and each step's logits."""
    seen: list[Tensor] = []

    def watched_head(x: Tensor) -> Tensor:
        seen.append(drafter.head(x))
        return seen[-1]

    proposal = replace(drafter, head=watched_head).propose(batch, cache)
    return proposal.token_ids[0].tolist(), seen


END_TO_END = [
    (name, run)
    for kind in ("dspark", "eagle3")
    for name in parity.drafters(kind)
    for run in parity.facts(f"{name}/end_to_end")["runs"]
]


def answer_length(name: str) -> int:
    found = re.search(r"max_new_tokens (\d+)", parity.facts(f"{name}/end_to_end")["what"])
    assert found
    return int(found[1])


@pytest.mark.parametrize(("name", "run"), END_TO_END)
@pytest.mark.parametrize("chunk", [1000, 4])
def test_whole_loops_give_the_same_tokens_and_lengths(name: str, run: str, chunk: int, target: Llama) -> None:
    threshold = float(run.rpartition("_")[2]) if "threshold" in run else 0.0
    drafter = parity.load(name, target, threshold).drafter
    for expected in parity.facts(f"{name}/end_to_end")["runs"][run]:
        rounds = Rounds(target, drafter)
        (ours,) = rounds.generate(
            [expected["prompt"]], 40, frozenset(expected["stop_token_ids"]), chunk=chunk
        )
        assert expected["prompt"] + ours.output_ids == expected["output_ids"]
        assert ours.committed_lengths == expected["acceptance_lengths"]
        assert ours.proposal_lengths == expected["proposal_lengths"]
        assert ours.accepted_lengths == expected["accepted_draft_lengths"]


@pytest.mark.parametrize(("name", "run"), END_TO_END)
def test_a_batch_gives_each_sequence_what_it_gets_alone(name: str, run: str, target: Llama) -> None:
    threshold = float(run.rpartition("_")[2]) if "threshold" in run else 0.0
    drafter = parity.load(name, target, threshold).drafter
    all_runs = parity.facts(f"{name}/end_to_end")["runs"][run]
    stop_ids = all_runs[0]["stop_token_ids"]
    together = [one for one in all_runs if one["stop_token_ids"] == stop_ids]
    prompts = [one["prompt"] for one in together]
    ours = Rounds(target, drafter, 128).generate(prompts, answer_length(name), frozenset(stop_ids))
    for mine, expected in zip(ours, together, strict=True):
        assert expected["prompt"] + mine.output_ids == expected["output_ids"]
        assert mine.accepted_lengths == expected["accepted_draft_lengths"]


def test_a_drafter_reports_no_unused_tensors_and_shares_what_is_equal(target: Llama) -> None:
    for kind in ("dspark", "eagle3"):
        for name in parity.drafters(kind):
            loaded = parity.load(name, target)
            assert loaded.unused == ()
            assert loaded.shares_embedding
            assert loaded.shares_head


def test_slots_are_scattered() -> None:
    rows: ContextRows = context_rows([Span([7, 8], BLOCK_TOKENS - 1, BLOCKS)], torch.zeros(2, 0))
    assert rows.slots.tolist() == [5 * BLOCK_TOKENS + BLOCK_TOKENS - 1, 2 * BLOCK_TOKENS]
    assert rows.previous_slots.tolist() == [5 * BLOCK_TOKENS + BLOCK_TOKENS - 2, rows.slots[0]]
