"""Turns a checked request into its `Sequence`s: renders, tokenizes, checks lengths.

In: a `GenerationRequest`. Out: a sequence for each choice, all fitting the engine, or an error that says by how
much they do not. The only place where HTTP meets the tokenizer and the grammars.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from engine.errors import ContextTooLong, InvalidRequest
from engine.grammar import AnswerGrammar, AnswerGrammars, AnswerRule, CallsRule, JsonRule
from engine.http.requests import SCHEMA_PARAM, GenerationRequest
from engine.sequence import Sequence
from engine.text import TextStream
from engine.tokenizer import ModelTokenizer, texts_of
from engine.tool_calls import CallReader

_ANY_OBJECT = '{"type":"object"}'


class PromptReader:
    """The served model's tokenizer, limits and grammars."""

    def __init__(
        self, tokenizer: ModelTokenizer, end_ids: frozenset[int], vocab_size: int, max_context: int
    ) -> None:
        self.tokenizer = tokenizer
        self.end_ids = end_ids
        self.vocab_size = vocab_size
        self.max_context = max_context
        self._grammars = AnswerGrammars(tokenizer, end_ids, vocab_size)

    def build_sequences(self, request: GenerationRequest, answer_id: str, caller: str) -> list[Sequence]:
        """One for each choice; the n-th, counted from 0, draws with the request's seed + n.

        May take seconds where a prompt is long or a schema new. Raises `InvalidRequest`, `ContextTooLong`.
        """
        self._check_ids(request)
        prompt_ids = self._encode(request)
        if not prompt_ids:
            raise InvalidRequest("The prompt is empty; give at least one token.", param="prompt")
        max_new_tokens = self._answer_limit(len(prompt_ids), request)
        if request.min_new_tokens > max_new_tokens:
            raise InvalidRequest(
                f"'min_tokens' is {request.min_new_tokens}, but the answer may have at most "
                f"{max_new_tokens} tokens.",
                param="min_tokens",
            )
        ends = request.stop_ids | self.end_ids
        may_end = request.has_rule or not request.ignore_end  # complete JSON has nothing to go on with
        return [
            Sequence(
                id=f"{answer_id}-{index}",
                prompt_ids=prompt_ids,
                sampling=replace(request.sampling, seed=(request.sampling.seed + index) % 2**64),
                max_new_tokens=max_new_tokens,
                text=TextStream(self.tokenizer.token_bytes, request.stops, request.min_new_tokens),
                end_ids=ends if may_end else request.stop_ids,
                min_new_tokens=request.min_new_tokens,
                suppressed_ids=ends,  # vLLM's rule: the model's own even if ignored
                caller=caller,
                speculation=request.speculation,
                grammar=self._grammar(request),
            )
            for index in range(request.num_choices)
        ]

    def call_reader(self, request: GenerationRequest) -> CallReader | None:
        """Finds the calls in one answer; None where nothing may be called."""
        if request.tools is None:
            return None
        return CallReader(self.tokenizer.tool_format, request.tools.names)

    def _grammar(self, request: GenerationRequest) -> AnswerGrammar | None:
        if not request.has_rule:
            return None
        param = SCHEMA_PARAM if request.tools is None else "tools"
        if not self.end_ids:
            field = param.partition(".")[0]
            raise InvalidRequest(
                f"This model has no token that ends an answer; leave '{field}' out.",
                param=field,
                code="unsupported_parameter",
            )
        schema = request.json_schema
        content = None if schema is None else JsonRule(schema, request.is_strict)
        return self._grammars.build(AnswerRule(content, self._calls_rule(request)), param)

    def _calls_rule(self, request: GenerationRequest) -> CallsRule | None:
        """Arguments match their schema where a call is asked for or the function is strict, else they are an object."""
        offer = request.tools
        if offer is None:
            return None
        return CallsRule(
            form=self.tokenizer.tool_format,
            functions=tuple(
                (function.name, JsonRule(function.schema, function.is_strict))
                if offer.is_required or function.is_strict
                else (function.name, JsonRule(_ANY_OBJECT))
                for function in offer.callable
            ),
            is_required=offer.is_required,
            max_calls=offer.max_calls,
        )

    def _check_ids(self, request: GenerationRequest) -> None:
        self._check_known(request.stop_ids, "stop_token_ids")
        self._check_known((token_id for token_id, _ in request.sampling.logit_bias), "logit_bias")
        if request.min_new_tokens and len(request.stop_ids | self.end_ids) >= self.vocab_size:
            raise InvalidRequest("'min_tokens' leaves no token to choose.", param="stop_token_ids")

    def _check_known(self, token_ids: Iterable[int], param: str) -> None:
        wrong = next((token_id for token_id in token_ids if not 0 <= token_id < self.vocab_size), None)
        if wrong is not None:
            raise InvalidRequest(f"Token id {wrong} is not in the vocabulary.", param=param)

    def _encode(self, request: GenerationRequest) -> list[int]:
        if request.prompt_ids is not None:
            self._check_known(request.prompt_ids, "prompt")
            return request.prompt_ids
        text = request.prompt or ""
        tools = [function.definition for function in request.tools.functions] if request.tools else []
        if request.messages:
            if not self.tokenizer.has_chat_template:
                raise InvalidRequest(
                    "This model has no chat template; use /v1/completions.", param="messages"
                )
            text = "".join(texts_of([*request.messages, *tools]))
        least = self.tokenizer.least_tokens(text)
        if least > self.max_context:  # not worth minutes of tokenizing
            raise self._too_long(f"your prompt has at least {least}", request)
        if request.messages:
            return self.tokenizer.encode_chat(request.messages, tools)
        return self.tokenizer.encode(text)

    def _answer_limit(self, num_prompt: int, request: GenerationRequest) -> int:
        room = self.max_context - num_prompt
        if room < 1:
            raise self._too_long(f"your prompt has {num_prompt}", request)
        wanted = request.max_new_tokens
        if wanted is not None and wanted > room:
            total = num_prompt + wanted
            raise self._too_long(
                f"you asked for {total} ({num_prompt} in the prompt, {wanted} for the answer)", request
            )
        return room if wanted is None else wanted

    def _too_long(self, what: str, request: GenerationRequest) -> ContextTooLong:
        param = "messages" if request.messages else "prompt"
        return ContextTooLong(
            f"This model's maximum context length is {self.max_context} tokens, but {what}. "
            "Shorten the prompt or the answer.",
            param=param,
        )
