"""A reference decoding loop: target, drafter and verification, batched, in the fewest words.

It knows no scheduling and no text. Blocks come from scattered places; the caches are paged.
"""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from engine.batch import build_batch, in_row_order
from engine.drafters.base import Drafter
from engine.drafters.batches import Anchor, Span, context_rows, draft_batch
from engine.drafters.context import DraftCache
from engine.judge import judge, no_proposal
from engine.kv_cache import KVCache, num_blocks_for
from engine.model import Llama
from engine.scheduler import Chunk
from engine.sequence import Sampling, Sequence
from engine.verify import settle
from tests.engine.toy import make_sequence


@dataclass(slots=True)
class Run:
    """One sequence and the lengths of its rounds."""

    sequence: Sequence
    stop_ids: frozenset[int]
    max_new_tokens: int
    is_ended: bool = False
    committed_lengths: list[int] = field(default_factory=list)
    proposal_lengths: list[int] = field(default_factory=list)
    accepted_lengths: list[int] = field(default_factory=list)

    @property
    def wants_round(self) -> bool:
        """Rounds go on until the anchor is the last token asked for; the rest is cut, as DeepSpec does."""
        return not self.is_ended and len(self.sequence.output_ids) <= self.max_new_tokens

    @property
    def output_ids(self) -> list[int]:
        return self.sequence.output_ids[: self.max_new_tokens]

    def commit(self, token_ids: Ordered[int], is_end: bool) -> None:
        self.sequence.output_ids += token_ids
        self.is_ended = is_end


class Rounds:
    """One target with one drafter."""

    def __init__(self, target: Llama, drafter: Drafter, num_blocks: int = 64) -> None:
        self.target, self.drafter = target, drafter
        config, device = target.config, target.device
        self.cache = KVCache(
            config.num_layers, num_blocks, config.num_kv_heads, config.head_dim, target.dtype, device
        )
        self.draft_cache = DraftCache(drafter.context, num_blocks, target.dtype, device)
        self.free = list(range(0, num_blocks, 2)) + list(range(1, num_blocks, 2))

    def generate(
        self,
        prompts: Ordered[list[int]],
        max_new_tokens: int,
        stop_ids: frozenset[int] = frozenset(),
        samplings: Ordered[Sampling] | None = None,
        chunk: int = 1000,
    ) -> list[Run]:
        """Decode all prompts side by side; prefill in chunks of `chunk` tokens."""
        chosen = samplings or [Sampling(temperature=0.0)] * len(prompts)
        runs = [
            Run(make_sequence(str(index), list(prompt), sampling=sampling), stop_ids, max_new_tokens)
            for index, (prompt, sampling) in enumerate(zip(prompts, chosen, strict=True))
        ]
        for run in runs:
            self._prefill(run, chunk)
        while active := [run for run in runs if run.wants_round]:
            self._round(active)
        return runs

    def _prefill(self, run: Run, chunk: int) -> None:
        sequence = run.sequence
        while sequence.num_pending:
            token_ids = sequence.pending_ids(chunk)
            span = Span(token_ids, sequence.num_computed, sequence.block_ids)  # forward() adds its blocks
            logits, features = self.forward([(sequence, token_ids)])
            self.drafter.extend(context_rows([span], features), self.draft_cache)
            sequence.num_computed += len(token_ids)
        verdict = judge(no_proposal(1, logits.device), logits[-1:], [sequence], [[]])
        token_id = int(verdict.next_ids[0])
        run.commit([token_id], token_id in run.stop_ids)

    def _round(self, runs: list[Run]) -> None:
        anchors = [
            Anchor(
                run.sequence.prompt_ids + run.sequence.output_ids,
                run.sequence.block_ids,
                run.sequence.sampling.temperature,
                run.sequence.sampling.seed,
                len(run.sequence.output_ids),
                run.stop_ids,
            )
            for run in runs
        ]
        batch = draft_batch(anchors, self.drafter.num_slots, self.target.device)
        proposal = self.drafter.propose(batch, self.draft_cache)
        lengths = proposal.lengths.tolist()
        drafted = [row[:length] for row, length in zip(proposal.token_ids.tolist(), lengths, strict=True)]
        sequences = [run.sequence for run in runs]
        logits, features = self.forward(
            [(one, [one.output_ids[-1], *tokens]) for one, tokens in zip(sequences, drafted, strict=True)]
        )
        verdict = judge(proposal, logits, sequences, drafted)
        spans: list[Span] = []
        kept: list[int] = []
        first_row = 0
        for index, run in enumerate(runs):
            sequence, accepted = run.sequence, int(verdict.accepted[index])
            start = sequence.num_computed
            spans.append(
                Span([sequence.output_ids[-1], *drafted[index][:accepted]], start, sequence.block_ids)
            )
            kept += range(first_row, first_row + accepted + 1)
            first_row += lengths[index] + 1
            sequence.num_computed = start + accepted + 1
            done = settle(
                drafted[index], accepted, int(verdict.next_ids[index]), lengths[index], run.stop_ids
            )
            run.commit(done.token_ids, done.is_end)
            run.committed_lengths.append(len(done.token_ids))
            run.proposal_lengths.append(done.proposal_length)
            run.accepted_lengths.append(done.accepted_length)
        self.drafter.extend(context_rows(spans, features[kept]), self.draft_cache)

    def forward(self, work: Ordered[tuple[Sequence, list[int]]]) -> tuple[Tensor, Tensor]:
        """Logits and features of all rows, in the order of `work`."""
        pending = []
        for sequence, token_ids in work:
            start = sequence.num_computed
            while len(sequence.block_ids) < num_blocks_for(start + len(token_ids)):
                sequence.block_ids.append(self.free.pop(0))
            all_ids = (sequence.prompt_ids + sequence.output_ids)[:start] + token_ids
            pending.append(replace(sequence, prompt_ids=all_ids, output_ids=[]))
        chunks = [Chunk(one, len(ids)) for one, (_, ids) in zip(pending, work, strict=True)]
        ordered = in_row_order(chunks)
        config = self.target.config
        repeats = config.num_heads // config.num_kv_heads
        batch = build_batch(ordered, repeats, self.target.dtype, self.target.device)
        every = torch.arange(len(batch.token_ids), device=self.target.device)
        out = self.target.forward(replace(batch, logit_rows=every), self.cache, self.drafter.target_layer_ids)
        ends = [0]
        for one in ordered:
            ends.append(ends[-1] + one.num_tokens)
        places = {id(one): every[low:high] for one, low, high in zip(ordered, ends, ends[1:], strict=False)}
        rows = torch.cat([places[id(one)] for one in chunks])
        features = out.features if out.features is not None else out.logits.new_zeros((len(every), 0))
        return out.logits[rows], features[rows]
