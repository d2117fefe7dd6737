"""Every drafter against DeepSpec's numbers, in float32: step by step, then whole decoding loops."""

from __future__ import annotations

import re
from collections.abc import Mapping
from collections.abc import Sequence as Ordered
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.batch import build_batch
from engine.drafters.base import ContextRows, DraftBatch
from engine.drafters.batches import Anchor, Span, context_rows, draft_batch
from engine.drafters.chain import ChainDrafter
from engine.drafters.context import DraftCache
from engine.drafters.draws import choose
from engine.drafters.dspark import BlockDrafter
from engine.kv_cache import BLOCK_TOKENS, KVCache
from engine.model import Llama
from engine.scheduler import Chunk
from engine.sequence import Round, Sequence
from tests.engine.drafters import parity
from tests.engine.drafters.parity import assert_near
from tests.engine.test_loop import Recorder
from tests.engine.toy import make_engine, make_sequence, run_all

BLOCKS = [5, 2, 9]  # a scattered table, enough for every fixture


@pytest.fixture(scope="module")
def target() -> Llama:
    return parity.load_target()


def stored_rows(cache: DraftCache, layer: int, first: int, count: int) -> tuple[Tensor, Tensor]:
    keys, values = cache.read(layer, torch.tensor([BLOCKS]))
    return keys[:, :, first : first + count], values[:, :, first : first + count]


def test_the_targets_logits_and_features_are_the_fixtures(target: Llama) -> None:
    expected = parity.tensors("target/expected")
    layer_ids = parity.load(parity.drafters("dspark")[0], target).drafter.target_layer_ids
    sequence = make_sequence("a", expected["input_ids"][0].tolist())
    sequence.block_ids = BLOCKS
    config, count = target.config, sequence.num_tokens
    cache = KVCache(config.num_layers, 10, config.num_kv_heads, config.head_dim, target.dtype, target.device)
    repeats = config.num_heads // config.num_kv_heads
    batch = build_batch([Chunk(sequence, count)], repeats, target.dtype, target.device)
    out = target.forward(replace(batch, logit_rows=torch.arange(count)), cache, layer_ids)
    assert out.features is not None
    assert_near(out.logits, expected["logits"][0])
    assert_near(out.features, expected["context_feature"][0])


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


@pytest.mark.parametrize("is_reduced", [False, True])
@pytest.mark.parametrize("name", parity.drafters("eagle3"))
def test_rounds_of_eagle3(name: str, is_reduced: bool, target: Llama, tmp_path: Path) -> None:
    """Tokens that are drafted in no round change nothing when they are left out."""
    stored, plan = parity.tensors(f"{name}/draft_rounds"), parity.facts(f"{name}/draft_rounds")
    drafter, ids = parity.load(name, target).drafter, torch.arange(target.config.vocab_size)
    if is_reduced:
        ids = torch.cat([stored[f"round{at}.tokens"][0, 1:] for at in range(len(plan["rounds"]))]).unique()
        drafter = parity.load_reduced(name, target, ids, tmp_path).drafter
    assert isinstance(drafter, ChainDrafter)
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
        assert_near(logits[0], stored[f"{at}.first_logits"][:, 0, ids])
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


class RoundsOfEach(Recorder):
    def __init__(self) -> None:
        super().__init__()
        self.of: dict[str, list[Round]] = {}

    def round_done(self, sequence: Sequence, done: Round, num_decoding: int) -> None:
        self.of.setdefault(sequence.id, []).append(done)


def check_answers(
    name: str, run: str, target: Llama, wanted: Ordered[Mapping[str, Any]], chunk: int = 1000
) -> None:
    """The serving loop answers the prompts side by side; tokens and rounds must be the `wanted` ones.

    DeepSpec goes on until an answer has all its tokens and cuts the rest, so more are asked for here.
    """
    drafter, length = parity.load(name, target).drafter, answer_length(name)
    threshold = float(run.rpartition("_")[2]) if "threshold" in run else 0.0
    engine = make_engine(
        target,
        max_batch=8,
        chunk=chunk,
        kv_tokens=2048,
        prefix_cache=False,
        drafter=drafter,
        draft_confidence=threshold,
    )
    recorder = RoundsOfEach()
    engine.observer = recorder
    sequences = [
        make_sequence(
            str(at),
            one["prompt"],
            length + 2 * drafter.num_slots + 2,
            end_ids=frozenset(one["stop_token_ids"]),
        )
        for at, one in enumerate(wanted)
    ]
    for sequence in sequences:
        sequence.speculation = "static" if threshold else "fixed"
    run_all(engine, sequences)
    for sequence, expected in zip(sequences, wanted, strict=True):
        assert sequence.prompt_ids + sequence.output_ids[:length] == expected["output_ids"]
        rounds = recorder.of.get(sequence.id, [])[: len(expected["acceptance_lengths"])]
        assert [done.committed for done in rounds] == expected["acceptance_lengths"]
        assert [done.verified for done in rounds] == expected["proposal_lengths"]
        assert [done.accepted for done in rounds] == expected["accepted_draft_lengths"]


@pytest.mark.parametrize(("name", "run"), END_TO_END)
@pytest.mark.parametrize("chunk", [1000, 4])
def test_whole_loops_give_the_same_tokens_and_lengths(name: str, run: str, chunk: int, target: Llama) -> None:
    for expected in parity.facts(f"{name}/end_to_end")["runs"][run]:
        check_answers(name, run, target, [expected], chunk)


@pytest.mark.parametrize(("name", "run"), END_TO_END)
def test_a_batch_gives_each_sequence_what_it_gets_alone(name: str, run: str, target: Llama) -> None:
    check_answers(name, run, target, parity.facts(f"{name}/end_to_end")["runs"][run])


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
