"""At T > 0 the answer has the target's distribution, whatever drafts: chi-square over 60,000 answers.

A small vocabulary makes the exact joint distribution of the next two tokens a table. Each answer takes
one round of the drafter, batched; what the round left open is drawn from the table.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.chance import Stream, draw, stream_uniforms
from engine.drafters.base import Drafter, Proposal
from engine.drafters.batches import Anchor, Span, context_rows, draft_batch
from engine.drafters.context import DraftCache
from engine.drafters.loading import load_drafter
from engine.drafters.lookup import PromptLookup
from engine.judge import target_probs
from engine.sequence import Sampling
from engine.verify import verify
from tests.engine.drafters import reference
from tests.engine.drafters.checkpoints import (
    DEEPSPEC,
    EAGLE3,
    HIDDEN,
    MTP,
    VOCAB,
    block_shapes,
    eagle3_shapes,
    mtp_shapes,
    random_target,
    random_tensors,
    reduced,
    write_checkpoint,
)
from tests.engine.drafters.chi_square import p_value
from tests.engine.toy import make_sequence

ANSWERS, BATCH, CPU = 60_000, 6_000, torch.device("cpu")
HISTORY = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 1, 4, 1]  # repeats itself, so that prompt lookup proposes
KINDS = ["dflash", "vanilla", "gated", "rnn", "top-k", "eagle3", "mtp", "cut eagle3", "cut mtp", "lookup"]
SAMPLINGS = {
    "plain": Sampling(temperature=1.0),
    "warped": Sampling(temperature=0.8, top_k=25, top_p=0.95, min_p=0.005, presence_penalty=0.5),
}


def make_drafter(folder: Path, kind: str) -> Drafter:
    if kind == "lookup":
        return PromptLookup(num_slots=3)
    chain = kind.removeprefix("cut ")
    if chain == "eagle3":
        config, shapes = EAGLE3, eagle3_shapes()
    elif chain == "mtp":
        config, shapes = MTP, mtp_shapes()
    else:
        head = {"dflash": None, "top-k": "vanilla"}.get(kind, kind)
        changes = {"markov_rank": 0} if head is None else {"markov_head_type": head}
        config = DEEPSPEC | changes | {"enable_confidence_head": False, "block_size": 3}
        shapes = block_shapes(head, confidence=False)
    tensors = {name: 0.6 * tensor for name, tensor in random_tensors(shapes, 21).items()}
    if chain != kind:
        config, tensors = reduced(config, tensors, torch.arange(1, VOCAB, 3))
    written = write_checkpoint(folder, config, tensors)
    return load_drafter(written, random_target(), draft_topk=6 if kind == "top-k" else None).drafter


class Target:
    """Logits for every continuation of one and two tokens, and what sampling makes of them."""

    def __init__(self, sampling: Sampling) -> None:
        generator = torch.Generator().manual_seed(17)
        self.logits = 1.4 * torch.randn((1 + VOCAB + VOCAB**2, VOCAB), generator=generator)
        self.sampling = sampling
        after_one = [[token] for token in range(VOCAB)]
        self.first = self.probs([[]])[0]  # [V]
        self.second = self.probs(after_one)  # [V, V], row: the first token

    def probs(self, drafted: list[list[int]]) -> Tensor:
        """The distribution after each list of drafted tokens (at most two count) [lists, V]."""
        rows = []
        for tokens in drafted:
            sequence = make_sequence("a", HISTORY[:-1], sampling=self.sampling)
            sequence.output_ids = [HISTORY[-1]]
            logits = self.logits[[self.row(tokens[:count]) for count in range(len(tokens) + 1)]]
            rows.append(target_probs(logits.clone(), [sequence], [tokens])[0][-1])
        return torch.stack(rows)

    def row(self, tokens: list[int]) -> int:
        if not tokens:
            return 0
        return 1 + tokens[-1] if len(tokens) == 1 else 1 + VOCAB + tokens[-2] * VOCAB + tokens[-1]

    @property
    def joint(self) -> Tensor:
        """Exact probabilities of the next two tokens, [V * V]."""
        return (self.first.unsqueeze(1) * self.second).view(-1)


def rounds_of(drafter: Drafter, target: Target, honest: bool = True) -> tuple[Tensor, Tensor]:
    """The first two tokens of each answer [answers, 2], and how many drafts stood."""
    cache = DraftCache(drafter.context, 4, torch.float32, CPU)
    size = HIDDEN if drafter.reads_last_hidden else reference.FEATURES
    features = reference.random_features(len(HISTORY) - 1, size, 5)
    drafter.extend(context_rows([Span(HISTORY[:-1], 0, [2])], features), cache)
    tokens, accepted = [], []
    for first_seed in range(0, ANSWERS, BATCH):
        seeds = list(range(first_seed, first_seed + BATCH))
        temperature = target.sampling.temperature
        anchors = [Anchor(HISTORY, [2], temperature, seed, 1) for seed in seeds]
        proposal = drafter.propose(draft_batch(anchors, drafter.num_slots, CPU), cache)
        proposal = replace(proposal, lengths=proposal.lengths.clamp(max=2))
        pair, stood = judge(proposal, target, seeds, honest)
        tokens.append(pair)
        accepted.append(stood)
    return torch.cat(tokens), torch.cat(accepted)


def judge(proposal: Proposal, target: Target, seeds: list[int], honest: bool) -> tuple[Tensor, Tensor]:
    """Verify a batch; `honest` False shows the test itself to work, by keeping every draft."""
    drafted = proposal.token_ids
    rows = torch.zeros((len(seeds), 3, VOCAB))
    rows[:, 0] = target.first
    rows[:, 1] = target.second[drafted[:, 0]]
    rows[:, 2] = target.first  # the third token is not looked at
    first_rows = torch.arange(len(seeds)) * 3
    accept = stream_uniforms(Stream.ACCEPT, seeds, [1] * len(seeds), drafted.shape[1], CPU)
    after = stream_uniforms(Stream.NEXT, seeds, [1] * len(seeds), drafted.shape[1] + 1, CPU)
    verdict = verify(proposal, rows.view(-1, VOCAB), first_rows, accept if honest else 0 * accept - 1, after)
    padded = torch.cat([drafted, drafted[:, :1]], dim=1)
    committed = padded.scatter(1, verdict.accepted.unsqueeze(1), verdict.next_ids.unsqueeze(1))
    first = committed[:, 0]
    points = torch.rand(len(seeds), generator=torch.Generator().manual_seed(seeds[0]), dtype=torch.float64)
    open_second = draw(target.second[first], points)
    return torch.stack([first, torch.where(verdict.accepted == 0, open_second, committed[:, 1])], 1), (
        verdict.accepted
    )


def counts_of(tokens: Tensor) -> Tensor:
    return torch.bincount(tokens[:, 0] * VOCAB + tokens[:, 1], minlength=VOCAB**2)


@pytest.fixture(scope="module", params=sorted(SAMPLINGS))
def target(request: pytest.FixtureRequest) -> Target:
    return Target(SAMPLINGS[request.param])


@pytest.mark.parametrize("kind", KINDS)
def test_two_tokens_of_an_answer_have_the_targets_distribution(
    tmp_path: Path, kind: str, target: Target
) -> None:
    tokens, accepted = rounds_of(make_drafter(tmp_path, kind), target)
    observed = counts_of(tokens)
    assert int(observed[target.joint == 0].sum()) == 0
    assert p_value(observed, target.joint) > 1e-3
    share = (accepted > 0).double().mean()
    assert 0.02 < share < 0.98  # both ways were taken often


def test_the_test_notices_drafts_that_are_kept_unverified(tmp_path: Path) -> None:
    target = Target(SAMPLINGS["plain"])
    tokens, _ = rounds_of(make_drafter(tmp_path, "vanilla"), target, honest=False)
    assert p_value(counts_of(tokens), target.joint) < 1e-9


def test_streams_are_independent_of_each_other() -> None:
    seeds = list(range(20_000))
    streams = [stream_uniforms(one, seeds, [4] * len(seeds), 2, CPU) for one in Stream]
    columns = torch.stack([column for stream in streams for column in stream.T])  # [6, seeds]
    correlation = torch.corrcoef(columns) - torch.eye(len(columns), dtype=torch.float64)
    assert correlation.abs().max() < 5 / len(seeds) ** 0.5
    assert (columns.mean(1) - 0.5).abs().max() < 5 * (1 / 12 / len(seeds)) ** 0.5


def test_a_number_belongs_to_seed_stream_and_place_alone() -> None:
    alone = stream_uniforms(Stream.DRAFT, [7], [12], 3, CPU)
    among = stream_uniforms(Stream.DRAFT, [9, 7, 7], [0, 10, 12], 5, CPU)
    assert among[2, :3].tolist() == alone[0].tolist()
    assert among[1, 2:].tolist() == alone[0].tolist()
    assert stream_uniforms(Stream.NEXT, [7], [12], 3, CPU).tolist() != alone.tolist()
