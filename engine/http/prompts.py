"""Turns a checked request into a `Sequence`: renders, tokenizes, checks lengths.

In: a `GenerationRequest`. Out: a sequence that fits the engine, or an error that says by how much it
does not. The only place where HTTP meets the tokenizer and the grammars.
"""

from __future__ import annotations

from collections.abc import Iterable

from engine.errors import ContextTooLong, InvalidRequest
from engine.grammar import JsonGrammar, JsonGrammars
from engine.http.requests import SCHEMA_PARAM, GenerationRequest
from engine.sequence import Sequence
from engine.text import TextStream
from engine.tokenizer import ModelTokenizer


class PromptReader:
    """The served model's tokenizer, limits and grammars."""

    def __init__(
        self, tokenizer: ModelTokenizer, end_ids: frozenset[int], vocab_size: int, max_context: int
    ) -> None:
        self.tokenizer = tokenizer
        self.end_ids = end_ids
        self.vocab_size = vocab_size
        self.max_context = max_context
        self._grammars = JsonGrammars(tokenizer, end_ids, vocab_size)

    def build_sequence(self, request: GenerationRequest, sequence_id: str, caller: str) -> Sequence:
        """May take seconds where a prompt is long or a schema new. Raises `InvalidRequest`, `ContextTooLong`."""
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
        grammar = self._grammar(request)
        may_end = grammar is not None or not request.ignore_end  # complete JSON has nothing to go on with
        return Sequence(
            id=sequence_id,
            prompt_ids=prompt_ids,
            sampling=request.sampling,
            max_new_tokens=max_new_tokens,
            text=TextStream(self.tokenizer.token_bytes, request.stops, request.min_new_tokens),
            end_ids=request.stop_ids | (self.end_ids if may_end else frozenset()),
            min_new_tokens=request.min_new_tokens,
            suppressed_ids=request.stop_ids | self.end_ids,  # vLLM's rule: the model's own even if ignored
            caller=caller,
            speculation=request.speculation,
            grammar=grammar,
        )

    def _grammar(self, request: GenerationRequest) -> JsonGrammar | None:
        if request.json_schema is None:
            return None
        if not self.end_ids:
            raise InvalidRequest(
                "This model has no token that ends an answer; leave 'response_format' out.",
                param="response_format",
                code="unsupported_parameter",
            )
        return self._grammars.build(request.json_schema, request.is_strict, SCHEMA_PARAM)

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
        if request.messages:
            if not self.tokenizer.has_chat_template:
                raise InvalidRequest(
                    "This model has no chat template; use /v1/completions.", param="messages"
                )
            text = "".join(message["content"] for message in request.messages)
        least = self.tokenizer.least_tokens(text)
        if least > self.max_context:  # not worth minutes of tokenizing
            raise self._too_long(f"your prompt has at least {least}", request)
        return (
            self.tokenizer.encode_chat(request.messages) if request.messages else self.tokenizer.encode(text)
        )

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
