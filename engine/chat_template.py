"""The model's own chat template: messages and tools in, prompt text out.

The jinja environment has the semantics of transformers' `apply_chat_template` (sandbox, whitespace,
extra filters and globals), without importing transformers. Knows no tokens.

A message has a role and content, which is text. The assistant's may have `tool_calls`, each with `id`, `type`
and `function`: its name and its arguments as an object. Those of role `tool` have `tool_call_id` and `name`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from engine.errors import InvalidRequest, StartError
from engine.tool_calls import HERMES, MISTRAL, ToolFormat, format_of
from engine.tool_prompt import spell_out

Message = dict[str, Any]

_PROBE = {
    "type": "function",
    "function": {"name": "probe_", "description": "", "parameters": {"type": "object"}},
}
_MISTRAL_ID_CHARACTERS = 9  # its templates refuse other ids

# Templates are programs: given unusual messages they may fail like any other.
_TEMPLATE_FAILURES = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)


class ChatTemplate:
    """Renders messages, ready for the assistant's turn. `variables` are the special tokens by name."""

    def __init__(self, source: str, variables: dict[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
        self._source = source
        self._template = environment.from_string(source)
        self._variables = variables

    @cached_property
    def knows_tools(self) -> bool:
        """Whether it shows tools to the model: seen by showing it one."""
        try:
            return "probe_" in self._rendered([{"role": "user", "content": "x"}], [_PROBE])
        except _TEMPLATE_FAILURES:
            return False

    @cached_property
    def tool_format(self) -> ToolFormat:
        """How the model is taught to write calls."""
        return format_of(self._source) if self.knows_tools else HERMES

    def render(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> str:
        """Raises `InvalidRequest` where the template does not take the messages."""
        if not self.knows_tools:
            messages, tools = spell_out(messages, tools), ()
        elif self.tool_format is MISTRAL:
            messages = [_with_short_ids(message) for message in messages]
        try:
            return self._rendered(messages, tools)
        except _TEMPLATE_FAILURES as error:
            raise InvalidRequest(
                f"The model's chat template refuses these messages: {error}", param="messages"
            ) from None

    def _rendered(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> str:
        return self._template.render(
            messages=list(messages),
            tools=list(tools) or None,
            documents=None,
            add_generation_prompt=True,
            **self._variables,
        )


def load_chat_template(folder: Path, settings: dict[str, Any]) -> ChatTemplate | None:
    """The folder's template, from its own file or from `settings` (tokenizer_config.json)."""
    path = folder / "chat_template.jinja"
    source = path.read_text(encoding="utf-8") if path.is_file() else settings.get("chat_template")
    if isinstance(source, list):  # several named templates
        source = next((entry["template"] for entry in source if entry.get("name") == "default"), None)
    if not isinstance(source, str):
        return None
    try:
        return ChatTemplate(source, special_tokens(settings))
    except jinja2.TemplateSyntaxError as error:
        raise StartError(f"the chat template in {folder} cannot be read: {error}") from None


def special_tokens(settings: dict[str, Any]) -> dict[str, str]:
    """bos_token, eos_token and their like, by name."""
    tokens: dict[str, str] = {}
    for key, value in settings.items():
        content = value.get("content") if isinstance(value, dict) else value
        if key.endswith("_token") and isinstance(content, str):
            tokens[key] = content
    return tokens


def _with_short_ids(message: Message) -> Message:
    changed = dict(message)
    if "tool_call_id" in message:
        changed["tool_call_id"] = _short_id(message["tool_call_id"])
    if "tool_calls" in message:
        changed["tool_calls"] = [{**call, "id": _short_id(call["id"])} for call in message["tool_calls"]]
    return changed


def _short_id(call_id: str) -> str:
    return blake2b(call_id.encode()).hexdigest()[:_MISTRAL_ID_CHARACTERS]


class _GenerationTag(Extension):
    """`{% generation %}` marks what the assistant wrote; for rendering it is transparent."""

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """jinja's own filter escapes HTML, which models were not trained on."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
