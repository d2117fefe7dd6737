"""Text and chats to tokens, tokens to bytes. In: a model folder.

Uses the `tokenizers` package directly, because importing transformers costs seconds. Knows no HTTP.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from engine.chat_template import Message, load_chat_template, special_tokens
from engine.errors import StartError
from engine.tool_calls import HERMES, TRIGGERS, ToolFormat

# Private-use characters put around control tokens that a caller wrote in a message.
_OPEN, _CLOSE = "\ue0f0", "\ue0f1"


class ModelTokenizer:
    """Encodes prompts, renders chats, gives each token's bytes. Safe to share between threads."""

    def __init__(self, folder: Path) -> None:
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise StartError(f"{folder} has no tokenizer.json: only fast tokenizers can be served")
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the tokenizers package raises bare Exception
            raise StartError(f"{path} cannot be read: {error}") from None
        settings = _read_settings(folder)
        added = self._tokenizer.get_added_tokens_decoder()
        self._added = {token_id: token.content for token_id, token in added.items()}
        controls = sorted((token.content for token in added.values() if token.special), key=len, reverse=True)
        self._controls = re.compile("|".join(map(re.escape, controls)) or "(?!)")
        # What begins a call is text, whether a model has a token for it or not.
        self.special_ids = {
            token_id for token_id, token in added.items() if token.special and token.content not in TRIGGERS
        }
        self._template = load_chat_template(folder, settings)
        self._end_token = special_tokens(settings).get("eos_token")
        self._is_byte_level = "ByteLevel" in str(json.loads(path.read_text(encoding="utf-8")).get("decoder"))
        self._longest = max(map(len, self._tokenizer.get_vocab()))
        self.token_bytes = lru_cache(maxsize=None)(self._token_bytes)

    @property
    def vocab_size(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    @property
    def has_chat_template(self) -> bool:
        return self._template is not None

    @property
    def tool_format(self) -> ToolFormat:
        """How the model writes calls of functions."""
        return self._template.tool_format if self._template else HERMES

    @property
    def end_ids(self) -> frozenset[int]:
        """The token that ends a turn, where the tokenizer names one."""
        token_id = None if self._end_token is None else self._tokenizer.token_to_id(self._end_token)
        return frozenset() if token_id is None else frozenset({token_id})

    def encode(self, text: str) -> list[int]:
        """A completion prompt: control tokens in it count as such; models with a begin token get it."""
        return list(self._tokenizer.encode(text).ids)

    def least_tokens(self, text: str) -> int:
        """A lower bound for the number of tokens of `text`, found without encoding it."""
        return len(text.encode("utf-8", "surrogatepass")) // self._longest // 4

    def encode_chat(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        """Render a chat with the model's template, ready for the assistant's turn.

        Control tokens that stand in a text of it are encoded as plain text, so that a message cannot end
        its own turn and speak in another role.
        """
        assert self._template is not None, "the HTTP side refuses chats when there is no template"
        if not any(map(self._controls.search, texts_of([*messages, *tools]))):
            return self._encode_marked_up(self._template.render(messages, tools))
        ids: list[int] = []
        rendered = self._template.render(self._mark(messages), self._mark(tools))
        for index, piece in enumerate(re.split(f"[{_OPEN}{_CLOSE}]", rendered)):
            ids += self._encode_plain(piece) if index % 2 else self._encode_marked_up(piece)
        return ids

    def _mark(self, value: Any) -> Any:
        """The same with marks around the control tokens in all its texts."""
        if isinstance(value, str):
            text = value.replace(_OPEN, "").replace(_CLOSE, "")
            return self._controls.sub(f"{_OPEN}\\g<0>{_CLOSE}", text)
        if isinstance(value, dict):
            return {self._mark(key): self._mark(inner) for key, inner in value.items()}
        return [self._mark(inner) for inner in value] if isinstance(value, list | tuple) else value

    def _encode_marked_up(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _encode_plain(self, text: str) -> list[int]:
        """Encode a control token's name as ordinary text: in two halves it is no token's name."""
        half = len(text) // 2
        return self._encode_marked_up(text[:half]) + self._encode_marked_up(text[half:])

    def token_text(self, token_id: int) -> str:
        return self.raw_token_bytes(token_id).decode("utf-8", "replace")

    def raw_token_bytes(self, token_id: int) -> bytes:
        """The token's bytes, with the names of control tokens."""
        if token_id in self._added:
            return self._added[token_id].encode()
        return self.token_bytes(token_id)

    def _token_bytes(self, token_id: int) -> bytes:
        """What the token adds to the text: nothing for control tokens, maybe part of a character."""
        if token_id in self.special_ids:
            return b""
        if token_id in self._added:
            return self._added[token_id].encode()
        piece = self._tokenizer.id_to_token(token_id)
        if piece is None:  # padding rows of the embedding, beyond the vocabulary
            return b""
        if self._is_byte_level:
            return bytes(_byte_of()[character] for character in piece)
        if re.fullmatch(r"<0x[0-9A-F]{2}>", piece):
            return bytes([int(piece[3:5], 16)])
        return str(piece).replace("\u2581", " ").encode()


def texts_of(value: Any) -> Iterator[str]:
    """Every text within a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in [*value, *value.values()] if isinstance(value, dict) else value:
            yield from texts_of(inner)


@lru_cache(maxsize=1)
def _byte_of() -> dict[str, int]:
    """The byte behind each character of byte-level BPE: printable Latin-1 as is, others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    table = {chr(byte): byte for byte in printable}
    table.update({chr(0x100 + index): byte for index, byte in enumerate(others)})
    return table


def _read_settings(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return settings if isinstance(settings, dict) else {}
