"""Masks over the vocabulary: whatever the logits say, what comes out matches the schema."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from engine import schema_trial
from engine.drafters.lookup import PromptLookup
from engine.errors import InvalidRequest
from engine.grammar import (
    MAX_SCHEMA_CHARACTERS,
    AnswerGrammar,
    AnswerGrammars,
    AnswerRule,
    CallsRule,
    JsonRule,
)
from engine.model import Llama
from engine.sequence import Sampling
from engine.tokenizer import ModelTokenizer
from engine.tool_calls import HERMES, LLAMA, MISTRAL, CallReader, ToolFormat
from tests.engine.toy import END, make_engine, make_sequence, run_all

TOY_WIDTH = 264  # of the toy's logits, wider than its tokenizer, as embeddings often are
LONG = 60  # tokens after which an answer is made to come to its end
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0, "maximum": 150}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "any object": {"type": "object"},
    "anything": {},
    "empty object": {"type": "object", "properties": {}, "additionalProperties": False},
    "person": PERSON,
    "enum": {"enum": ["red", "größer", "日本語", "🙂", 3, None, {"a": [1.5, True]}]},
    "constant": {"type": "object", "properties": {"kind": {"const": "x"}}, "required": ["kind"]},
    "nested arrays": {
        "type": "array",
        "items": {"type": "array", "items": {"type": "number"}, "maxItems": 3},
        "minItems": 2,
        "maxItems": 4,
    },
    "numbers": {
        "type": "array",
        "prefixItems": [
            {"type": "number", "minimum": -1.5, "exclusiveMaximum": 2},
            {"type": "integer", "multipleOf": 25},
            {"type": "integer", "exclusiveMinimum": 7},
        ],
        "minItems": 3,
        "items": False,
    },
    "top-level number": {"type": "number"},
    "text": {"type": "string", "minLength": 2, "maxLength": 9},
    "pattern": {"type": "string", "pattern": "^[A-Zß]{2}-[0-9]{3}$"},
    "map": {"type": "object", "additionalProperties": {"type": ["integer", "null"]}, "minProperties": 1},
    "tree": {
        "$defs": {
            "tree": {
                "type": "object",
                "properties": {
                    "value": {"type": "boolean"},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 2},
                },
                "required": ["value"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/tree",
    },
    "choice": {
        "type": "object",
        "properties": {"value": {"anyOf": [{"type": "string"}, PERSON, {"type": "array", "items": PERSON}]}},
        "required": ["value"],
        "additionalProperties": False,
    },
}

Grammars = tuple[AnswerGrammars, ModelTokenizer]


@pytest.fixture(scope="module")
def toy(toy_folder: Path) -> Grammars:
    tokenizer = ModelTokenizer(toy_folder)
    return AnswerGrammars(tokenizer, tokenizer.end_ids, TOY_WIDTH), tokenizer


@pytest.fixture(scope="module")
def real(model_folder: Path) -> Grammars:
    tokenizer = ModelTokenizer(model_folder)
    return AnswerGrammars(tokenizer, frozenset({0, 2}), tokenizer.vocab_size + 40), tokenizer


@pytest.fixture(params=["toy", "real"])
def grammars(request: pytest.FixtureRequest) -> Grammars:
    found: Grammars = request.getfixturevalue(request.param)
    return found


def begin(grammars: Grammars, schema: dict[str, Any], is_strict: bool = True) -> AnswerGrammar:
    return grammars[0].build(AnswerRule(JsonRule(json.dumps(schema), is_strict)), "schema")


def ends_of(grammars: Grammars) -> list[int]:
    """What may come once nothing else may."""
    grammar = begin(grammars, {"const": 1})
    grammar.push(grammars[1].encode("1")[0])
    return grammar.allowed([])[0].nonzero().flatten().tolist()


def closers(tokenizer: ModelTokenizer) -> list[int]:
    """Tokens that bring an answer to its end, the most helpful last."""
    return [tokenizer.encode(text)[0] for text in '0,]}"']


def follow(
    grammar: AnswerGrammar, seed: int, closing: list[int], ends: list[int], on_token: Callable[[int], None]
) -> None:
    """Choose the most likely allowed token of random logits until an end comes."""
    generator = torch.Generator().manual_seed(seed)
    for place in range(20 * LONG):
        mask = grammar.allowed([])[0]
        logits = torch.randn(len(mask), generator=generator)
        if place > LONG:
            logits[closing] += 20.0 * torch.arange(1.0, len(closing) + 1)
            logits[ends] += 200.0
        token_id = int(logits.masked_fill(~mask, -torch.inf).argmax())
        if token_id in ends:
            return
        grammar.push(token_id)
        on_token(token_id)
    raise AssertionError("the answer does not end")


@pytest.mark.parametrize("name", SCHEMAS)
def test_whatever_the_logits_say_the_answer_matches(grammars: Grammars, name: str) -> None:
    schema, (_, tokenizer) = SCHEMAS[name], grammars
    closing, ends, seen = closers(tokenizer), ends_of(grammars), set()
    for seed in range(8):
        output: list[int] = []
        follow(begin(grammars, schema), seed, closing, ends, output.append)
        text = b"".join(map(tokenizer.token_bytes, output)).decode()
        Draft202012Validator(schema).validate(json.loads(text))
        seen.add(text)
    assert len(seen) > 1 or name in ("empty object", "constant")


@pytest.mark.parametrize("name", ["person", "choice", "tree", "any object", "top-level number"])
def test_rows_after_drafts_are_those_of_stepping_and_nothing_changes(grammars: Grammars, name: str) -> None:
    schema, (_, tokenizer) = SCHEMAS[name], grammars
    closing, ends = closers(tokenizer), ends_of(grammars)
    output: list[int] = []
    follow(begin(grammars, schema), 3, closing, ends, output.append)
    generator = torch.Generator().manual_seed(9)
    drafting = begin(grammars, schema)
    for at in range(len(output) + 1):
        before, was_complete = drafting.allowed([]), drafting.is_complete
        drafted = (output[at:] + ends[:1])[: int(torch.randint(8, (), generator=generator))]
        if drafted and at % 3 == 0:  # a wrong token somewhere
            drafted[at % len(drafted)] = int(torch.randint(before.shape[1], (), generator=generator))
        rows = drafting.allowed(drafted)
        assert rows.shape == (1 + len(drafted), before.shape[1])
        assert rows.any(dim=1).all()
        stepping = begin(grammars, schema)
        for token_id in output[:at]:
            stepping.push(token_id)
        for row, token_id in zip(rows, [*drafted, ends[0]], strict=True):
            assert torch.equal(row, stepping.allowed([])[0])
            if token_id in ends or not row[token_id]:
                break
            stepping.push(token_id)
        assert torch.equal(drafting.allowed([]), before)
        assert drafting.is_complete == was_complete
        if at < len(output):
            drafting.push(output[at])


def test_tokens_without_text_and_columns_without_tokens_are_never_allowed(toy: Grammars) -> None:
    grammars, tokenizer = toy
    grammar = grammars.build(AnswerRule(JsonRule("{}", True)), "schema")
    for token_id in tokenizer.encode('{"a\\u0001": "'):
        mask = grammar.allowed([])[0]
        assert not mask[sorted(tokenizer.special_ids)].any()
        assert not mask[tokenizer.vocab_size :].any()
        grammar.push(token_id)
    assert grammar.allowed([])[0, : tokenizer.vocab_size].sum() > 100


def test_a_complete_answer_can_only_end(toy: Grammars) -> None:
    grammars, tokenizer = toy
    (end,) = tokenizer.end_ids
    assert tokenizer.raw_token_bytes(end) == END.encode()
    grammar = grammars.build(AnswerRule(JsonRule('{"type": "object"}', True)), "schema")
    for token_id in tokenizer.encode("{}"):
        assert not grammar.is_complete
        assert not grammar.allowed([])[0, end]
        grammar.push(token_id)
    assert grammar.is_complete
    assert grammar.allowed([end, 5]).nonzero().tolist() == [[0, end], [1, end], [2, end]]


def test_a_number_may_end_or_go_on(toy: Grammars) -> None:
    grammars, tokenizer = toy
    (end,) = tokenizer.end_ids
    grammar = grammars.build(AnswerRule(JsonRule('{"type": "integer"}', True)), "schema")
    grammar.push(tokenizer.encode("4")[0])
    mask = grammar.allowed([])[0]
    assert mask[end]
    assert mask[tokenizer.encode("2")[0]]
    assert not grammar.is_complete


def accepts(grammars: Grammars, schema: dict[str, Any], text: str) -> bool:
    grammar, token_ids = begin(grammars, schema), grammars[1].encode(text)
    rows = grammar.allowed(token_ids)
    return all(bool(row[token_id]) for row, token_id in zip(rows, token_ids, strict=False))


@pytest.mark.parametrize(
    ("text", "is_allowed"),
    [
        ('{"name":"A","age":1}', True),
        ('{"name": "A", "age": 1}', True),
        ('{\n    "name": "A",\n    "age": 1\n}', True),
        ('{  "name"', False),
        ('{\n\n"name"', False),
        ("{\n" + 17 * " ", False),
        ("\n{", False),
        ('{"name": "A", "age": 1}\n', False),
    ],
)
def test_white_space_is_what_people_write_and_has_an_end(
    grammars: Grammars, text: str, is_allowed: bool
) -> None:
    assert accepts(grammars, PERSON, text) == is_allowed
    assert accepts(grammars, {**PERSON, "x-guidance": {"whitespace_flexible": True}}, text) == is_allowed


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "thing"}, "Invalid type: thing"),
        ({"$ref": "#/$defs/nowhere"}, "does not exist"),
        ({"$ref": "https://example.com/schema"}, "example.com"),
        ({"type": "number", "minimum": 5, "maximum": 3}, "minimum"),
        ({"enum": []}, "empty"),
        ({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, "no answer can begin"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "string", "format": "colour"}, "colour"),
        ({"description": "x" * MAX_SCHEMA_CHARACTERS}, f"at most {MAX_SCHEMA_CHARACTERS}"),
    ],
)
def test_a_schema_that_cannot_be_enforced_is_refused(
    toy: Grammars, schema: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidRequest, match="schema") as refused:
        begin(toy, schema)
    assert refused.value.param == "schema"
    assert reason in refused.value.message


def test_without_strict_unknown_keywords_are_ignored(toy: Grammars) -> None:
    schema = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    begin(toy, schema, is_strict=False)
    with pytest.raises(InvalidRequest, match="uniqueItems"):
        begin(toy, schema, is_strict=True)


def test_a_schema_that_would_compile_for_minutes_is_refused(toy: Grammars) -> None:
    schema = {"allOf": [{"type": "integer", "multipleOf": prime} for prime in (7, 11, 13, 17, 19, 23)]}
    with pytest.raises(InvalidRequest, match=f"more than {schema_trial.CPU_LIMIT_S} s"):
        begin(toy, schema)


def test_a_schema_is_compiled_once(toy: Grammars, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"type": "object", "properties": {"once": {"type": "null"}}}
    begin(toy, known)
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    assert begin(toy, known).allowed([]).any()
    with pytest.raises(FileNotFoundError):
        begin(toy, {**known, "description": "another"})


def test_answers_to_one_schema_go_their_own_ways(toy: Grammars) -> None:
    first, second = (begin(toy, PERSON) for _ in range(2))
    start = second.allowed([])
    first.push(toy[1].encode("{")[0])
    assert torch.equal(second.allowed([]), start)
    assert not torch.equal(first.allowed([]), start)


def test_where_the_model_lacks_a_character_the_answer_may_end(toy_folder: Path) -> None:
    """A vocabulary cut to its first bytes cannot go on after the quote."""
    tokenizer = ModelTokenizer(toy_folder)
    quote, letter = tokenizer.encode('"'), tokenizer.encode("é")
    grammar = AnswerGrammars(tokenizer, frozenset({0}), min(letter)).build(
        AnswerRule(JsonRule('{"const": "é"}', True)), "schema"
    )
    grammar.push(quote[0])
    assert grammar.allowed([]).nonzero().tolist() == [[0, 0]]


FORMS = {"hermes": HERMES, "mistral": MISTRAL, "llama": LLAMA}
PAINT = {
    "type": "object",
    "properties": {"colour": {"$ref": "#/$defs/colour"}, "coats": {"enum": [1, 2]}},
    "required": ["colour"],
    "additionalProperties": False,
    "$defs": {"colour": {"enum": ["red", "größer"]}},
}


def calls_rule(form: ToolFormat, *, is_required: bool, max_calls: int = 3) -> CallsRule:
    functions = (
        ("paint", JsonRule(json.dumps(PAINT), True)),
        ("ask_person", JsonRule(json.dumps(PERSON), True)),
    )
    return CallsRule(form, functions, is_required, max_calls)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("max_calls", [1, 3])
def test_whatever_the_logits_say_calls_match_their_schemas(
    grammars: Grammars, name: str, max_calls: int
) -> None:
    form, (built, tokenizer) = FORMS[name], grammars
    rule = AnswerRule(calls=calls_rule(form, is_required=True, max_calls=max_calls))
    closing, ends, counts = closers(tokenizer), ends_of(grammars), set()
    for seed in range(8):
        output: list[int] = []
        follow(built.build(rule, "tools"), seed, closing, ends, output.append)
        text = b"".join(map(tokenizer.token_bytes, output)).decode()
        reader = CallReader(form, ["paint", "ask_person"])
        pieces = reader.push(text)
        assert pieces.content + reader.close().content == ""
        for call in pieces.calls:
            schema = PAINT if call.name == "paint" else PERSON
            Draft202012Validator(schema).validate(json.loads(call.arguments))
        counts.add(len(pieces.calls))
    assert counts <= set(range(1, max_calls + 1))


def takes(grammars: Grammars, rule: AnswerRule, text: str) -> str:
    """Whether the text is refused, may go on, may also end, or has to."""
    grammar, (end, *_) = grammars[0].build(rule, "tools"), ends_of(grammars)
    for token_id in grammars[1].encode(text):
        if not grammar.allowed([])[0, token_id]:
            return "refused"
        grammar.push(token_id)
    if grammar.is_complete:
        return "complete"
    return "may end" if grammar.allowed([])[0, end] else "goes on"


PAINT_CALL = ("paint", {"colour": "red"})


@pytest.mark.parametrize(
    ("name", "text", "outcome"),
    [
        ("hermes", "Any text, <b>bold</b>\n<tool", "may end"),
        ("hermes", "I paint. <tool_call>", "goes on"),
        ("hermes", "I paint. <tool_call>me", "refused"),
        ("hermes", '<tool_call>\n{"name": "else', "refused"),
        ("hermes", "Ok.\n" + HERMES.write([PAINT_CALL]), "may end"),
        ("hermes", HERMES.write([PAINT_CALL]) + " So it is.", "refused"),
        ("hermes", HERMES.write([("paint", {"colour": "blue"})]), "refused"),
        ("hermes", HERMES.write([PAINT_CALL] * 3), "complete"),
        ("mistral", MISTRAL.write([PAINT_CALL] * 2), "complete"),
        ("mistral", "Hm, [TOOL_CALLS]{", "refused"),
        ("llama", "Any {text}", "may end"),
        ("llama", LLAMA.write([PAINT_CALL]), "complete"),
        ("llama", "Hm. <|python_tag|>" + LLAMA.write([PAINT_CALL]), "complete"),
        ("llama", '{"some": "JSON"}', "refused"),
        ("llama", "", "may end"),
    ],
)
def test_an_answer_is_free_until_it_begins_a_call(
    grammars: Grammars, name: str, text: str, outcome: str
) -> None:
    rule = AnswerRule(calls=calls_rule(FORMS[name], is_required=False))
    assert takes(grammars, rule, text) == outcome


@pytest.mark.parametrize("name", FORMS)
def test_an_answer_may_be_json_or_a_call(toy: Grammars, name: str) -> None:
    form = FORMS[name]
    rule = AnswerRule(JsonRule(json.dumps(PERSON), True), calls_rule(form, is_required=False, max_calls=1))
    assert takes(toy, rule, '{"name": "A", "age": 1}') == "complete"
    written = form.trigger + form.write([PAINT_CALL]).removeprefix(form.trigger)
    assert takes(toy, rule, written) == "complete"
    assert takes(toy, rule, "A") == "refused"
    required = AnswerRule(JsonRule(json.dumps(PERSON), True), calls_rule(form, is_required=True, max_calls=1))
    assert takes(toy, required, '{"name": "A"') == "refused"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_drafts_are_cut_where_calls_end_and_greedy_calls_stay_the_same(
    toy: Grammars, toy_model: Llama, temperature: float
) -> None:
    """What is looked up in the prompt goes on after the call, in the same words."""
    written = HERMES.write([PAINT_CALL])
    paint = calls_rule(HERMES, is_required=True, max_calls=1).functions[:1]
    rule = AnswerRule(calls=CallsRule(HERMES, paint, is_required=True, max_calls=1))
    texts: dict[str, list[str]] = {}
    for drafter in (None, PromptLookup()):
        sequences = [
            replace(
                make_sequence(
                    str(seed),
                    toy[1].encode(f"{written} and {written} and "),
                    300,
                    sampling=Sampling(temperature=temperature, seed=seed),
                    end_ids=toy[1].end_ids,
                    token_bytes=toy[1].token_bytes,
                ),
                grammar=toy[0].build(rule, "tools"),
                speculation="auto" if drafter is None else "fixed",
            )
            for seed in range(4)
        ]
        events = run_all(make_engine(toy_model, kv_tokens=4096, drafter=drafter), sequences)
        for sequence in sequences:
            text = "".join(event.text for event in events if event.sequence_id == sequence.id)
            assert text.endswith("}\n</tool_call>")
            assert sequence.finish_reason == "stop"
            assert text == b"".join(map(toy[1].token_bytes, sequence.output_ids)).decode()
            texts.setdefault(sequence.id, []).append(text)
        if drafter is not None:
            assert sum(sequence.counts.accepted for sequence in sequences) > 0
    if temperature == 0.0:
        assert all(plain == drafted for plain, drafted in texts.values())


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_drafting_keeps_to_the_schema_and_greedy_answers_stay_the_same(
    toy: Grammars, toy_model: Llama, temperature: float
) -> None:
    """What is looked up in the prompt now fits the schema, now does not."""
    example = '{"name": "Ann", "age": 41}, {"name": "Bob", "age": 7}, '
    schema = {"type": "array", "items": PERSON, "minItems": 2, "maxItems": 3}
    texts: dict[str, list[str]] = {}
    for drafter in (None, PromptLookup()):
        sequences = [
            replace(
                make_sequence(
                    str(seed),
                    toy[1].encode(example * (1 + seed % 3)),
                    300,
                    sampling=Sampling(
                        temperature=temperature,
                        seed=seed,
                        logit_bias=tuple((token_id, 6.0) for token_id in toy[1].encode('",]}')),
                    ),
                    end_ids=toy[1].end_ids,
                    token_bytes=toy[1].token_bytes,
                ),
                grammar=begin(toy, schema),
                speculation="auto" if drafter is None else "fixed",
            )
            for seed in range(6)
        ]
        events = run_all(make_engine(toy_model, kv_tokens=4096, drafter=drafter), sequences)
        assert all(event.error is None for event in events)
        for sequence in sequences:
            assert sequence.finish_reason == "stop"
            text = b"".join(map(toy[1].token_bytes, sequence.output_ids)).decode()
            Draft202012Validator(schema).validate(json.loads(text))
            texts.setdefault(sequence.id, []).append(text)
        if drafter is not None:
            assert sum(sequence.counts.accepted for sequence in sequences) > 0
    if temperature == 0.0:
        assert all(plain == drafted for plain, drafted in texts.values())
