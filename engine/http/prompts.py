"""Turns a checked request into a `Sequence`: renders, tokenizes, checks lengths.

In: a `GenerationRequest`. Out: a sequence that fits the engine, or an error that says by how much it
does not. The only place where HTTP meets the tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import ContextTooLong, InvalidRequest
from engine.http.requests import GenerationRequest
from engine.sequence import Sequence
from engine.text import TextStream
from engine.tokenizer import ModelTokenizer


@dataclass(frozen=True, slots=True)
class PromptReader:
    """The served model's tokenizer and limits."""

    tokenizer: ModelTokenizer
    end_ids: frozenset[int]
    vocab_size: int
    max_context: int

    def build_sequence(self, request: GenerationRequest, sequence_id: str, caller: str) -> Sequence:
        """Raises `InvalidRequest` or `ContextTooLong`."""
        self._check_stop_ids(request)
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
        return Sequence(
            id=sequence_id,
            prompt_ids=prompt_ids,
            sampling=request.sampling,
            max_new_tokens=max_new_tokens,
            text=TextStream(self.tokenizer.token_bytes, request.stops, request.min_new_tokens),
            end_ids=request.stop_ids | (frozenset() if request.ignore_end else self.end_ids),
            min_new_tokens=request.min_new_tokens,
            suppressed_ids=request.stop_ids | self.end_ids,  # vLLM's rule: the model's own even if ignored
            caller=caller,
        )

    def _check_stop_ids(self, request: GenerationRequest) -> None:
        wrong = next((token for token in request.stop_ids if not 0 <= token < self.vocab_size), None)
        if wrong is not None:
            raise InvalidRequest(f"Token id {wrong} is not in the vocabulary.", param="stop_token_ids")
        if request.min_new_tokens and len(request.stop_ids | self.end_ids) >= self.vocab_size:
            raise InvalidRequest("'min_tokens' leaves no token to choose.", param="stop_token_ids")

    def _encode(self, request: GenerationRequest) -> list[int]:
        if request.prompt_ids is not None:
            wrong = next((token for token in request.prompt_ids if not 0 <= token < self.vocab_size), None)
            if wrong is not None:
                raise InvalidRequest(f"Token id {wrong} is not in the vocabulary.", param="prompt")
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
