"""Answers of the serving loop with speculation equal those without it, on every path through the caches."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
import torch

from engine.drafters.base import ContextRows, DraftBatch, Drafter, Proposal
from engine.drafters.context import ContextShape, DraftCache
from engine.drafters.loading import TargetParts, load_drafter
from engine.drafters.lookup import PromptLookup
from engine.linear import PlainHead
from engine.loop import Engine
from engine.model import Llama
from engine.sequence import Event, Sampling, Sequence, Speculation
from engine.step_costs import StepCosts
from tests.engine.drafters import checkpoints
from tests.engine.guesses import Guesses
from tests.engine.test_loop import random_prompt, watched
from tests.engine.toy import load_toy, make_engine, make_sequence, run_all, write_toy_model

KINDS = ["vanilla", "gated", "rnn", "dflash", "eagle3", "mtp"]
PREFIX = random_prompt(77, 60)
END_ID = 5


def requests(
    temperature: float = 0.0, speculation: Speculation = "auto", vocabulary: int = 256
) -> list[Sequence]:
    """Forty of mixed lengths: shared beginnings, stop strings, end tokens, least lengths, penalties."""
    choose = random.Random(8)
    made: list[Sequence] = []
    for number in range(40):
        own = [choose.randrange(vocabulary) for _ in range(choose.choice([1, 7, 20, 70]))]
        prompt = [token % vocabulary for token in PREFIX[: choose.choice([0, 16, 40, 60])]] + own
        sampling = Sampling(
            temperature=temperature,
            seed=number,
            top_p=choose.choice([1.0, 0.9]),
            presence_penalty=choose.choice([0.0, 0.8]),
            repetition_penalty=choose.choice([1.0, 1.0, 1.2]),
            top_logprobs=choose.choice([None, None, 2]),
        )
        sequence = make_sequence(
            str(number),
            prompt,
            choose.choice([1, 2, 9, 40]),
            sampling=sampling,
            end_ids=frozenset(choose.sample(range(vocabulary), 3)),
            stops=choose.choice([(), ("ab", "z"), ("q",)]),
            min_new_tokens=choose.choice([0, 0, 6]),
        )
        sequence.suppressed_ids = sequence.end_ids
        sequence.speculation = speculation
        made.append(sequence)
    return made


def answers_of(sequences: list[Sequence]) -> dict[tuple[int, ...], list[int]]:
    return {tuple(sequence.prompt_ids): sequence.output_ids for sequence in sequences}


def texts_of(events: list[Event]) -> dict[str, tuple[str, str | None]]:
    """The whole text and the finish reason, by sequence."""
    texts: dict[str, str] = {}
    reasons: dict[str, str | None] = {}
    for event in events:
        texts[event.sequence_id] = texts.get(event.sequence_id, "") + event.text
        reasons[event.sequence_id] = event.finish_reason
    return {name: (text, reasons[name]) for name, text in texts.items()}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(("kv_tokens", "skill"), [(4096, 0.9), (192, 0.9), (192, 0.0), (4096, 1.0)])
def test_answers_are_the_same_whatever_is_guessed(
    toy_model: Llama, kv_tokens: int, skill: float, temperature: float
) -> None:
    plain = requests(temperature)
    events = run_all(make_engine(toy_model, kv_tokens=kv_tokens), plain)
    drafter = Guesses(answers_of(plain), skill=skill)
    engine = make_engine(toy_model, kv_tokens=kv_tokens, drafter=drafter)
    recorder = watched(engine)
    guessed = requests(temperature, "fixed")
    guessed_events = run_all(engine, guessed)
    assert answers_of(guessed) == answers_of(plain)
    assert texts_of(guessed_events) == texts_of(events)
    assert (recorder.num_preempted > 0) == (kv_tokens == 192)
    assert engine.allocator.num_held == 0
    accepted = sum(done.accepted for done in recorder.rounds)
    assert (accepted > 100) == (skill > 0)
    logprobs = {s.id: [one for e in events if e.sequence_id == s.id for one in e.logprobs] for s in plain}
    for sequence in guessed:
        mine = [one for event in guessed_events if event.sequence_id == sequence.id for one in event.logprobs]
        assert [place for _, place in mine] == [place for _, place in logprobs[sequence.id]]
        values = [(token.token_id, round(token.logprob, 3)) for token, _ in mine]
        assert values == [(token.token_id, round(token.logprob, 3)) for token, _ in logprobs[sequence.id]]


def test_rounds_are_as_short_as_right_guesses_allow(toy_model: Llama) -> None:
    plain = make_sequence("a", random_prompt(1, 20), 33)
    run_all(make_engine(toy_model), [plain])
    drafter = Guesses(answers_of([plain]), skill=1.0, least=7)
    engine = make_engine(toy_model, drafter=drafter)
    recorder = watched(engine)
    sequence = make_sequence("a", random_prompt(1, 20), 33)
    sequence.speculation = "fixed"  # what pays is another matter, and a busy machine's
    run_all(engine, [sequence])
    assert sequence.output_ids == plain.output_ids
    assert [done.committed for done in recorder.rounds] == [
        8,
        8,
        8,
        8,
    ]  # the first token came with the prompt
    assert [done.verified for done in recorder.rounds] == [7, 7, 7, 7]
    assert (sequence.counts.rounds, sequence.counts.accepted) == (4, 28)


def test_drafts_beyond_the_answers_limit_are_not_verified(toy_model: Llama) -> None:
    plain = make_sequence("a", random_prompt(1, 20), 6)
    run_all(make_engine(toy_model), [plain])
    drafter = Guesses(answers_of([plain]), skill=1.0, least=7)
    engine = make_engine(toy_model, drafter=drafter)
    recorder = watched(engine)
    sequence = make_sequence("a", random_prompt(1, 20), 6)
    sequence.speculation = "fixed"
    run_all(engine, [sequence])
    assert [(done.verified, done.committed) for done in recorder.rounds] == [(4, 5)]


def test_a_round_that_ends_within_its_drafts_counts_as_far_as_it_went(toy_model: Llama) -> None:
    plain = make_sequence("a", random_prompt(2, 20), 20)
    run_all(make_engine(toy_model), [plain])
    stop_at = next(at for at in range(3, 8) if plain.output_ids.index(plain.output_ids[at]) == at)
    drafter = Guesses(answers_of([plain]), skill=1.0, least=7)
    engine = make_engine(toy_model, drafter=drafter)
    recorder = watched(engine)
    end_ids = frozenset({plain.output_ids[stop_at]})
    sequence = make_sequence("a", random_prompt(2, 20), 20, end_ids=end_ids)
    run_all(engine, [sequence])
    assert sequence.output_ids == plain.output_ids[: stop_at + 1]
    (done,) = recorder.rounds
    assert (done.drafted, done.verified, done.accepted, done.committed) == (stop_at,) * 4


@pytest.fixture(scope="module")
def small_target(tmp_path_factory: pytest.TempPathFactory) -> Llama:
    """A target of the sizes that `checkpoints` makes drafters for."""
    folder = tmp_path_factory.mktemp("models") / "small"
    write_toy_model(
        folder,
        **checkpoints.TARGET_SIZES,
        eos_token_id=1,
        pad_token_id=1,
    )
    return load_toy(folder)


@pytest.fixture(scope="module")
def small_answers(small_target: Llama) -> dict[tuple[int, ...], list[int]]:
    """What `small_target` answers without drafts."""
    plain = requests(vocabulary=checkpoints.VOCAB)
    run_all(make_engine(small_target), plain)
    return answers_of(plain)


def random_drafter(folder: Path, kind: str, target: Llama) -> Drafter:
    """One with random weights, beside `target`."""
    if kind == "eagle3":
        config, shapes = checkpoints.EAGLE3, checkpoints.eagle3_shapes()
    elif kind == "mtp":
        config, shapes = checkpoints.MTP, checkpoints.mtp_shapes()
    else:
        head = None if kind == "dflash" else kind
        changes = (
            {"markov_rank": 0, "enable_confidence_head": False}
            if head is None
            else {"markov_head_type": head}
        )
        config = checkpoints.DEEPSPEC | changes
        shapes = checkpoints.block_shapes(head, confidence=head is not None)
    written = checkpoints.write_checkpoint(folder, config, checkpoints.random_tensors(shapes, 21))
    head_weight = target.embedding
    sizes = target.config
    parts = TargetParts(
        sizes.num_layers, target.embedding, head_weight, PlainHead(head_weight), sizes.max_positions
    )
    return load_drafter(written, parts).drafter


@pytest.mark.parametrize(
    ("kind", "speculation"), [*((kind, "fixed") for kind in KINDS), ("gated", "auto"), ("rnn", "static")]
)
def test_a_drafter_of_random_weights_changes_nothing(
    tmp_path: Path,
    small_target: Llama,
    small_answers: dict[tuple[int, ...], list[int]],
    kind: str,
    speculation: Speculation,
) -> None:
    drafter = random_drafter(tmp_path, kind, small_target)
    engine = make_engine(small_target, kv_tokens=192, drafter=drafter, draft_confidence=0.3)
    recorder = watched(engine)
    drafted = requests(speculation=speculation, vocabulary=checkpoints.VOCAB)
    run_all(engine, drafted)
    assert answers_of(drafted) == small_answers
    assert recorder.num_preempted > 0
    assert recorder.num_cached > 0
    assert sum(done.verified for done in recorder.rounds) > 0
    assert engine.drafter_name == "of the test"


class Watched:
    """A drafter whose proposals are kept, by what had been written then."""

    def __init__(self, drafter: Drafter) -> None:
        self.num_slots, self.target_layer_ids = drafter.num_slots, drafter.target_layer_ids
        self.reads_last_hidden, self.context = drafter.reads_last_hidden, drafter.context
        self._extend, self._propose = drafter.extend, drafter.propose
        self.proposals: dict[tuple[int, ...], list[int]] = {}
        self.num_calls = 0
        self.taken_in: list[int] = []  # rows of each call

    def extend(self, rows: ContextRows, cache: DraftCache) -> None:
        self.taken_in.append(len(rows.token_ids))
        self._extend(rows, cache)

    def propose(self, batch: DraftBatch, cache: DraftCache) -> Proposal:
        proposal = self._propose(batch, cache)
        self.num_calls += 1
        for history, token_ids in zip(batch.histories, proposal.token_ids.tolist(), strict=True):
            self.proposals[tuple(history)] = token_ids
        return proposal


@pytest.mark.parametrize("kind", KINDS)
def test_drafts_do_not_depend_on_how_their_context_came_about(
    tmp_path: Path, small_target: Llama, kind: str
) -> None:
    """The same proposals with a prefix hit, with chunked prefill, in company and after preemption."""
    random_weights = random_drafter(tmp_path, kind, small_target)
    prompts = [[token % checkpoints.VOCAB for token in random_prompt(seed, 90)] for seed in range(4)]

    def proposals(chunk: int, kv_tokens: int, times: int, together: bool) -> dict[tuple[int, ...], list[int]]:
        drafter = Watched(random_weights)
        engine = make_engine(small_target, chunk=chunk, kv_tokens=kv_tokens, drafter=drafter)
        recorder = watched(engine)
        for _ in range(times):
            drafter.proposals.clear()
            sequences = [
                make_sequence(str(at), prompt, 40, sampling=Sampling(temperature=1.0, seed=at))
                for at, prompt in enumerate(prompts)
            ]
            for one in sequences:
                one.speculation = "fixed"
            for group in [sequences] if together else [[one] for one in sequences]:
                run_all(engine, group)
        assert sum(done.accepted for done in recorder.rounds) > 20
        assert (recorder.num_cached > 0) == (times > 1)
        assert (recorder.num_preempted > 0) == (kv_tokens < 512)
        return drafter.proposals

    expected = proposals(1000, 2048, 1, together=False)
    assert proposals(7, 2048, 1, together=False) == expected
    assert proposals(16, 2048, 2, together=False) == expected
    assert proposals(16, 2048, 1, together=True) == expected
    # With little memory fewer drafts are verified, and answers part where another number decided.
    preempted = proposals(16, 208, 1, together=True)
    shared = preempted.keys() & expected.keys()
    assert len(shared) > 10
    assert all(preempted[history] == expected[history] for history in shared)


@pytest.mark.parametrize("kind", KINDS)
def test_drafts_after_a_rest_are_those_of_a_drafter_that_never_rested(
    tmp_path: Path, small_target: Llama, kind: str
) -> None:
    random_weights = random_drafter(tmp_path, kind, small_target)
    prompt = [token % checkpoints.VOCAB for token in random_prompt(3, 37)]

    def proposals(num_resting: int) -> dict[tuple[int, ...], list[int]]:
        drafter = Watched(random_weights)
        engine = make_engine(small_target, drafter=drafter)
        sequence = make_sequence("a", prompt, 90)
        sequence.speculation = "off"
        engine.submit(sequence)
        engine.take_commands()
        while len(sequence.output_ids) < num_resting:
            engine.step()
        assert not drafter.proposals
        sequence.speculation = "fixed"
        while engine.running:
            engine.step()
        return drafter.proposals

    expected, rested = proposals(1), proposals(40)
    shared = rested.keys() & expected.keys()
    assert len(shared) > 10
    assert all(rested[history] == expected[history] for history in shared)


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_of_answers_without_drafts_serve_those_with_some(
    tmp_path: Path, small_target: Llama, kind: str
) -> None:
    """What the drafter had still to take in is there for others, also after preemption and a cancellation."""
    random_weights = random_drafter(tmp_path, kind, small_target)
    drafter = Watched(random_weights)
    engine = make_engine(small_target, kv_tokens=256, drafter=drafter)
    recorder = watched(engine)
    prompts = [[token % checkpoints.VOCAB for token in random_prompt(seed, 50)] for seed in range(5)]
    quiet = [make_sequence(str(at), prompt, 60) for at, prompt in enumerate(prompts)]
    for sequence in quiet:
        sequence.speculation = "off"
        engine.submit(sequence)
    engine.take_commands()
    while len(quiet[0].output_ids) < 20:
        engine.step()
    engine.cancel("0")
    run_all(engine, [])
    assert recorder.num_preempted > 0
    assert engine.allocator.num_held == 0

    def proposals(drafter: Watched, engine: Engine) -> dict[tuple[int, ...], list[int]]:
        for one in reversed(quiet):  # the last one's blocks are still there
            follower = make_sequence("next", [*one.prompt_ids, *one.output_ids], 12)
            follower.speculation = "fixed"
            run_all(engine, [follower])
            cached[one.id] = follower.num_cached
        return drafter.proposals

    cached: dict[str, int] = {}
    fresh = Watched(random_weights)
    expected = proposals(fresh, make_engine(small_target, prefix_cache=False, drafter=fresh))
    assert proposals(drafter, engine) == expected
    assert cached["4"] == 96  # prompt and answer but for the last 14 tokens, which fill no block


def test_a_drafter_that_is_not_asked_takes_in_many_steps_at_once(tmp_path: Path, small_target: Llama) -> None:
    drafter = Watched(random_drafter(tmp_path, "vanilla", small_target))
    engine = make_engine(small_target, kv_tokens=2048, drafter=drafter)
    sequences = [make_sequence(str(at), [at, 2, 3], 250) for at in range(4)]
    for sequence in sequences:
        sequence.speculation = "off"
    run_all(engine, sequences)
    assert sum(drafter.taken_in) == 4 * 252  # all but the last token of each
    assert len(drafter.taken_in) < 12


def test_off_drafts_nothing_beside_one_that_does(toy_model: Llama) -> None:
    engine = make_engine(toy_model, drafter=PromptLookup(shortest=1))
    sequences = [make_sequence(str(at), [1, 2, 3] * 9, 40) for at in range(2)]
    sequences[0].speculation, sequences[1].speculation = "off", "fixed"
    run_all(engine, sequences)
    assert sequences[0].output_ids == sequences[1].output_ids
    assert sequences[0].counts.drafted == sequences[0].counts.verified == 0
    assert sequences[1].counts.verified > 0
    assert sequences[0].counts.rounds == 39


class Broken:
    """A drafter that fails when told to."""

    num_slots, target_layer_ids, reads_last_hidden = 3, (0,), False
    context = ContextShape(1, 1, 16)

    def __init__(self, *, fails: str) -> None:
        self.fails, self.num_extended, self.num_failures = fails, 0, 0

    def extend(self, rows: ContextRows, cache: DraftCache) -> None:
        self.num_extended += 1
        if self.fails == "extend" or (self.fails == "catch up" and self.num_extended == 2):
            self._fail()

    def propose(self, batch: DraftBatch, cache: DraftCache) -> Proposal:
        if self.fails == "propose" or self.num_failures:
            self._fail()
        count = len(batch.anchors)
        return Proposal(torch.zeros((count, 3), dtype=torch.long), torch.ones(count, dtype=torch.long))

    def _fail(self) -> None:
        self.num_failures += 1
        raise RuntimeError("out of tricks")


@pytest.mark.parametrize("fails", ["extend", "propose"])
def test_a_drafter_that_fails_is_switched_off_and_answers_go_on(toy_model: Llama, fails: str) -> None:
    plain = requests()
    run_all(make_engine(toy_model), plain)
    drafter = Broken(fails=fails)
    engine = make_engine(toy_model, drafter=drafter)
    sequences = requests()
    events = run_all(engine, sequences)
    assert answers_of(sequences) == answers_of(plain)
    assert not any(event.error for event in events)
    assert engine.drafter_name is None
    assert drafter.num_failures == 1


def test_a_drafter_that_fails_to_catch_up_is_not_asked_for_drafts(toy_model: Llama) -> None:
    drafter = Broken(fails="catch up")
    engine = make_engine(toy_model, drafter=drafter)
    sequence = make_sequence("a", [1, 2, 3], 20)
    sequence.speculation = "fixed"
    run_all(engine, [sequence])
    assert len(sequence.output_ids) == 20
    assert engine.drafter_name is None
    assert (drafter.num_extended, drafter.num_failures) == (2, 1)


class Keeping(Guesses):
    """One that keeps something of every position."""

    context = ContextShape(1, 1, 16)

    def extend(self, rows: ContextRows, cache: DraftCache) -> None:
        cache.write(0, rows.slots, torch.zeros(len(rows.slots), 2, 16))


def test_an_answer_may_end_before_a_block_that_its_drafts_had_reached(toy_model: Llama) -> None:
    plain = make_sequence("a", random_prompt(1, 20), 33)
    run_all(make_engine(toy_model), [plain])
    answer = plain.output_ids
    end_at = next(at for at in (9, 10, 11) if answer.index(answer[at]) == at)  # the 30th to 32nd token
    engine = make_engine(toy_model, drafter=Keeping(answers_of([plain]), skill=1.0, least=7))
    recorder = watched(engine)
    sequence = make_sequence("a", plain.prompt_ids, 33, end_ids=frozenset({answer[end_at]}))
    sequence.speculation = "fixed"
    run_all(engine, [sequence])
    assert sequence.output_ids == answer[: end_at + 1]
    assert [done.committed for done in recorder.rounds] == [8, end_at - 8]
    assert engine.allocator.num_held == 0
    assert engine.drafter_name == "of the test"


class Dear(StepCosts):
    """A machine where a row takes a second."""

    def steps_s(self, num_sequences: int, num_rows: int, most_extra: int, *, is_greedy: bool) -> list[float]:
        return [float(rows) for rows in range(num_rows, num_rows + most_extra + 1)]


def test_where_drafts_do_not_pay_a_learned_drafter_rests(tmp_path: Path, small_target: Llama) -> None:
    drafter = Watched(random_drafter(tmp_path, "dflash", small_target))
    engine = make_engine(small_target, drafter=drafter)
    assert engine.speculation
    engine.speculation.costs = Dear({1: 1.0})
    engine.clock = map(float, itertools.count()).__next__  # so that drafting takes a second too
    sequence = make_sequence("a", [1, 2, 3], 400)
    run_all(engine, [sequence])
    assert 5 < drafter.num_calls < 40
    assert sequence.counts.verified < 10
    assert sequence.draft_trust  # learned from the tokens that followed, without verifying
    assert sequence.draft_trust < -0.5


def test_a_start_that_knows_what_a_pass_costs_does_not_measure_it(toy_model: Llama) -> None:
    engine = make_engine(toy_model, drafter=PromptLookup())
    assert engine.speculation
    engine.warm_up([], {1: 1.0, 40: 2.0})
    assert engine.speculation.costs.curve == {1: 1.0, 40: 2.0}
    engine.warm_up([])
    assert max(engine.speculation.costs.curve) == 32  # of 4 sequences, with as many drafts as there are slots
