"""Sampling: every answer is the target's own, whatever runs beside it, and a run may be cut short anywhere."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.drafters.lookup import PromptLookup
from engine.errors import StartError
from engine.model import Llama
from engine.sequence import Sampling
from engine.tokenizer import ModelTokenizer
from engine.training.answers import DOMAINS, Answers, read_notes
from engine.training.prompts import Prompt
from engine.training.sampling import Jobs, SampleSettings, sample, user_opening
from tests.engine.toy import make_engine, make_sequence, run_all

PROMPTS = [
    Prompt(text, domain) for text, domain in (("ab", "chat"), ("1 + 2?", "math"), ("def f():", "code"))
]


@pytest.fixture(scope="module")
def tokenizer(toy_folder: Path) -> ModelTokenizer:
    return ModelTokenizer(toy_folder)


def settings(out: Path, num_tokens: int = 300) -> SampleSettings:
    return SampleSettings(out, num_tokens, max_tokens=24, seed=5, streams=4)


def contents(answers: Answers) -> list[object]:
    columns = (getattr(answers, name) for name in Answers.__slots__)
    return [None if column is None else column.tolist() for column in columns]


def test_each_answer_is_what_the_target_gives_that_prompt_alone(
    tmp_path: Path, toy_model: Llama, tokenizer: ModelTokenizer
) -> None:
    given = settings(tmp_path / "answers.npz")
    answers = sample(given, toy_model, tokenizer, PROMPTS)
    jobs = Jobs(given, tokenizer, PROMPTS)
    for number, tokens in enumerate(answers):
        job = jobs.job(number)
        prompt = PROMPTS[job.prompt_row]
        alone = make_sequence(
            "alone",
            tokenizer.encode_chat([{"role": "user", "content": prompt.text}]),
            given.max_tokens,
            sampling=Sampling(temperature=job.temperature, seed=job.seed),
            end_ids=toy_model.config.eos_ids | tokenizer.end_ids,
        )
        run_all(make_engine(toy_model), [alone])
        assert tokens.tolist() == [*alone.prompt_ids, *alone.output_ids]
        assert answers.prompt_len[number] == len(alone.prompt_ids)
        assert DOMAINS[answers.domain[number]] == prompt.domain
        assert answers.temperature[number] == np.float32(job.temperature)
    assert answers.prompt_row is not None
    assert {*answers.prompt_row.tolist()} == {0, 1, 2}
    before_last = answers.num_answer_tokens - int(len(tokens) - answers.prompt_len[-1])
    assert before_last < given.num_tokens <= answers.num_answer_tokens


def test_neither_streams_nor_a_drafter_change_an_answer(
    tmp_path: Path, toy_model: Llama, tokenizer: ModelTokenizer
) -> None:
    alone = sample(settings(tmp_path / "one.npz"), toy_model, tokenizer, PROMPTS)
    wide = replace(settings(tmp_path / "two.npz"), streams=9)
    drafted = sample(wide, toy_model, tokenizer, PROMPTS, drafter=PromptLookup())
    assert contents(drafted) == contents(alone)


@pytest.mark.parametrize(
    ("prompts", "num_tokens", "num_steps"),
    [(PROMPTS, 300, 60), (None, 60, 250)],
    ids=["prompts", "from empty"],
)
def test_a_run_that_is_cut_short_goes_on_to_the_same_file(
    tmp_path: Path,
    toy_model: Llama,
    tokenizer: ModelTokenizer,
    prompts: list[Prompt] | None,
    num_tokens: int,
    num_steps: int,
) -> None:
    whole, parts = (settings(tmp_path / f"{name}.npz", num_tokens) for name in ("whole", "parts"))
    sample(whole, toy_model, tokenizer, prompts)
    steps = 0

    def interrupt(what: str, share: float) -> None:
        nonlocal steps
        steps += 1
        if steps % num_steps == 0:
            raise KeyboardInterrupt

    lengths = []
    for _ in range(100):
        try:
            sample(parts, toy_model, tokenizer, prompts, progress=interrupt)
            break
        except KeyboardInterrupt:
            lengths.append(len(Answers.load([parts.out])))
    assert lengths
    assert lengths[-1] > 0
    assert contents(Answers.load([parts.out])) == contents(Answers.load([whole.out]))
    assert read_notes(parts.out) == read_notes(whole.out)


def test_a_file_that_is_long_enough_is_left_as_it_is(
    tmp_path: Path, toy_model: Llama, tokenizer: ModelTokenizer
) -> None:
    given = settings(tmp_path / "answers.npz")
    before = sample(given, toy_model, tokenizer, PROMPTS)
    content = given.out.read_bytes()
    assert contents(sample(given, toy_model, tokenizer, PROMPTS)) == contents(before)
    assert given.out.read_bytes() == content


def test_a_file_of_other_settings_is_refused(
    tmp_path: Path, toy_model: Llama, tokenizer: ModelTokenizer
) -> None:
    given = settings(tmp_path / "answers.npz", num_tokens=30)
    sample(given, toy_model, tokenizer, PROMPTS)
    for other, prompts in ((replace(given, seed=6), PROMPTS), (given, PROMPTS[:2]), (given, None)):
        with pytest.raises(StartError, match="was not sampled with these settings"):
            sample(other, toy_model, tokenizer, prompts)


def test_prompts_take_turns_and_each_gets_every_temperature(
    tmp_path: Path, tokenizer: ModelTokenizer
) -> None:
    given = replace(settings(tmp_path / "unused.npz"), temperatures=(0.0, 0.7, 1.0, 1.0))
    jobs = [Jobs(given, tokenizer, PROMPTS).job(number) for number in range(12)]
    pairs = Counter((job.prompt_row, job.temperature) for job in jobs)
    assert pairs == {(row, t): 1 + (t == 1.0) for row in range(3) for t in (0.0, 0.7, 1.0)}
    assert len({job.seed for job in jobs}) == 12


def test_the_opening_of_a_users_turn_ends_where_the_text_begins(tokenizer: ModelTokenizer) -> None:
    whole = tokenizer.encode_chat([{"role": "user", "content": "hello"}])
    opening = user_opening(tokenizer)
    assert whole[: len(opening)] == opening
    assert b"".join(map(tokenizer.raw_token_bytes, opening)) == b"<|im_start|>user\n"


def test_from_empty_the_prompt_is_the_models_own_text_in_a_chat(
    tmp_path: Path, toy_model: Llama, tokenizer: ModelTokenizer
) -> None:
    answers = sample(settings(tmp_path / "answers.npz", 60), toy_model, tokenizer, None)
    opening = user_opening(tokenizer)
    assert len(answers) > 1
    for tokens, length in zip(answers, answers.prompt_len, strict=True):
        prompt = tokens[:length].tolist()
        assert prompt[: len(opening)] == opening
        text = b"".join(map(tokenizer.raw_token_bytes, prompt[len(opening) :])).decode()
        text, _, rest = text.partition("<|im_end|>")
        assert rest == "\n<|im_start|>assistant\n"
        assert prompt == tokenizer.encode_chat([{"role": "user", "content": text}])
    assert {*answers.domain.tolist()} == {DOMAINS.index("chat")}


def test_only_too_long_prompts_are_refused(
    tmp_path: Path, toy_model: Llama, tokenizer: ModelTokenizer
) -> None:
    with pytest.raises(StartError, match="none of the prompts"):
        sample(settings(tmp_path / "a.npz"), toy_model, tokenizer, [Prompt("x" * 2000, "chat")])
