"""Answers that match a JSON Schema or call functions: which tokens may come next, found by llguidance.

In: rules for an answer. Out: a `Grammar` for each answer, its masks as wide as the model's logits. Properties
come in the order of the schema. White space is what people write: none, one space, or a new line with up to
16 spaces, so that no model can fill its answer with it. Knows no HTTP and does no sampling.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence as Ordered
from dataclasses import dataclass
from functools import cached_property, lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from engine.errors import InvalidRequest
from engine.tokenizer import ModelTokenizer
from engine.tool_calls import ToolFormat

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

log = logging.getLogger("engine")

MAX_SCHEMA_CHARACTERS = 128 * 1024
_WHITE_SPACE = r" |\n {0,16}"
_KEPT_RULES = 64
_LONGEST_REASON = 300  # characters; llguidance may quote whole expressions


@dataclass(frozen=True, slots=True)
class JsonRule:
    """JSON that matches `schema`, whose keywords that cannot be enforced are refused if `is_strict`, else ignored."""

    schema: str
    is_strict: bool = False


@dataclass(frozen=True, slots=True)
class CallsRule:
    """Up to `max_calls` calls of `functions`, by name with the rule for their arguments."""

    form: ToolFormat
    functions: tuple[tuple[str, JsonRule], ...]
    is_required: bool
    max_calls: int


@dataclass(frozen=True, slots=True)
class AnswerRule:
    """What an answer may be: what `content` says (None: any text), or calls; with calls that are required, only those.

    Calls may follow free text, not JSON.
    """

    content: JsonRule | None = None
    calls: CallsRule | None = None

    @property
    def schemas(self) -> list[JsonRule]:
        return [
            *([self.content] if self.content else []),
            *(schema for _, schema in (self.calls.functions if self.calls else ())),
        ]


class AnswerGrammars:
    """Compiles rules for one model's tokens, each once. Safe to share between threads."""

    def __init__(self, tokenizer: ModelTokenizer, end_ids: frozenset[int], vocab_size: int) -> None:
        """`end_ids` end an answer, at least one is needed; `vocab_size` is the width of the logits."""
        self._tokenizer, self._end_ids, self._vocab_size = tokenizer, end_ids, vocab_size
        self._lock = Lock()
        self._compiled = lru_cache(_KEPT_RULES)(self._compile)

    def build(self, rule: AnswerRule, param: str) -> AnswerGrammar:
        """A grammar at its beginning. May take seconds where the rule is new.

        Raises `InvalidRequest`, which names `param`.
        """
        try:
            start = self._compiled(rule)
        except ValueError as error:
            raise InvalidRequest(f"Invalid value for '{param}': {error}", param=param) from None
        return AnswerGrammar(start.deep_copy(), self._end_ids, self._vocab_size)

    def _compile(self, rule: AnswerRule) -> LLMatcher:
        """Raises `ValueError` that says what is wrong with a schema."""
        from llguidance import LLMatcher  # costs 20 ms, and most answers are free

        from engine.schema_trial import LIMITS, fault_of

        num_characters = sum(len(json_rule.schema) for json_rule in rule.schemas)
        if num_characters > MAX_SCHEMA_CHARACTERS:
            raise ValueError(
                f"the schema has {num_characters} characters; at most {MAX_SCHEMA_CHARACTERS} are allowed."
            )
        with self._lock:  # one at a time, so that schemas take at most one processor from the model
            grammar = _written(rule)
            _check(fault_of(grammar))
            matcher = LLMatcher(self._ll_tokenizer, grammar, log_level=0, limits=LIMITS)
            _check(matcher.get_error())
            if not any(matcher.compute_bitmask()) or matcher.is_error():
                _check(f"no answer can begin. {matcher.get_error()}")
        return matcher

    @cached_property
    def _ll_tokenizer(self) -> LLTokenizer:
        from llguidance import LLTokenizer, TokenizerWrapper

        vocabulary = _Vocabulary(self._tokenizer, self._end_ids, self._vocab_size)
        return LLTokenizer(TokenizerWrapper(vocabulary), eos_token=sorted(self._end_ids))


class AnswerGrammar:
    """The way of one answer through its rule; see `engine.sequence.Grammar`. For one thread at a time."""

    def __init__(self, matcher: LLMatcher, end_ids: frozenset[int], vocab_size: int) -> None:
        self._matcher, self._end_ids, self._vocab_size = matcher, end_ids, vocab_size

    @property
    def is_complete(self) -> bool:
        """Whether nothing but an end token may come next."""
        return self._matcher.is_stopped()

    def allowed(self, drafted: Ordered[int]) -> Tensor:
        """bool [1 + len(drafted), V]: what may come next, and after each of the `drafted` tokens.

        No row is empty: an answer that cannot go on may end. Rows after a drafted token that is not
        allowed, or that ends the answer, allow the end tokens only. Changes nothing.
        """
        masks = [self._matcher.compute_bitmask()]
        for token_id in drafted:
            if token_id in self._end_ids or not self._matcher.try_consume_tokens([token_id]):
                break
            masks.append(self._matcher.compute_bitmask())
        self._matcher.rollback(len(masks) - 1)
        packed = np.frombuffer(b"".join(masks), dtype=np.uint8).reshape(len(masks), -1)
        rows = np.zeros((1 + len(drafted), self._vocab_size), dtype=np.uint8)
        rows[: len(masks)] = np.unpackbits(packed, axis=1, count=self._vocab_size, bitorder="little")
        is_empty = ~rows.any(axis=1)
        for token_id in self._end_ids:
            rows[is_empty, token_id] = 1
        return torch.from_numpy(rows.view(np.bool_))

    def push(self, token_id: int) -> None:
        """Take the token that was chosen, one that `allowed` had and that does not end the answer."""
        if not self._matcher.consume_token(token_id):
            log.warning("an answer leaves its grammar and ends: %s", self._matcher.get_error())


class _Vocabulary:
    """The model's tokens in the form llguidance reads: bytes, nothing for tokens that show no text."""

    bos_token_id = None

    def __init__(self, tokenizer: ModelTokenizer, end_ids: frozenset[int], size: int) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = min(end_ids)
        self.special_token_ids = [at for at in sorted(tokenizer.special_ids | end_ids) if at < size]
        self.tokens = [tokenizer.token_bytes(token_id) for token_id in range(size)]

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)


def _check(fault: str) -> None:
    if fault:
        reason = fault.removesuffix("<non-verbose/>").strip()[:_LONGEST_REASON]
        raise ValueError(f"the schema cannot be enforced: {reason}")


def _written(rule: AnswerRule) -> str:
    """The rule as llguidance reads it: a grammar in Lark's notation that refers to those of the schemas."""
    content, calls = rule.content, rule.calls
    schemas = {"content": content} if content else {}
    lines = ["start: @content"]
    if calls:
        form, count = calls.form, calls.max_calls if calls.form.between else 1
        schemas |= {f"arguments_{index}": schema for index, (_, schema) in enumerate(calls.functions)}
        objects = [
            f'{_literal(form.opening(name))} @arguments_{index} "}}"'
            for index, (name, _) in enumerate(calls.functions)
        ]
        others = f"({_literal(form.between)} object){{0,{count - 1}}}" if count > 1 else ""
        trigger = _literal(form.trigger)
        if calls.is_required:
            start = "calls" if form.is_bare else f"{trigger} calls"
        elif content:  # a call without its trigger could not be told from the content's beginning
            start = f"@content | {trigger} calls"
        else:
            start = "TEXT | lead calls" + (" | calls" if form.is_bare else "")
        lines = [
            f"start: {start}",
            f"lead[lazy]: TEXT {trigger}",
            r"TEXT: /([^{](.|\n)*)?/" if form.is_bare else r"TEXT: /(.|\n)*/",
            f"calls: {_literal(form.first)} object {others} {_literal(form.last)}",
            f"object: {' | '.join(objects)}",
        ]
    named = [{"name": name, "json_schema": _with_options(schema)} for name, schema in schemas.items()]
    return json.dumps({"grammars": [{"name": "answer", "lark_grammar": "\n".join(lines)}, *named]})


def _literal(text: str) -> str:
    return json.dumps(text) if text else ""


def _with_options(rule: JsonRule) -> dict[str, Any]:
    """The schema with our options for llguidance, in the place of any that came with it."""
    options = {"whitespace_pattern": _WHITE_SPACE, "lenient": not rule.is_strict}
    return {**json.loads(rule.schema), "x-guidance": options}
