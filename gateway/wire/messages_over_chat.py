"""Serves Anthropic's Messages API from targets that speak chat completions: the way there.

In: the body of a Messages call. Out: the body of a chat call, and the names of what chat completions has no word for.
What would change the answer and cannot be said is a `BadRequest` that names it. Answers come back through
`chat_as_messages`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import orjson

from gateway.wire.errors import BadRequest
from gateway.wire.fields import blocks, expect, inner, objects, text_of

_SAME = ("model", "stream", "temperature", "top_p")
_EFFORT_BELOW = {"low": 4096, "medium": 16384}  # thinking tokens; from there on: high
MAX_USER_CHARS = 64  # OpenAI refuses longer ones


def request(
    body: dict[str, Any], *, limit_name: str = "max_tokens", extensions: Collection[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """The chat request, and the top-level names of `body` that are lost in it.

    `limit_name`: how the target calls the output limit. `extensions`: which fields beyond OpenAI's the target
    reads, of `top_k` and `reasoning_content`. Raises `BadRequest` for what chat completions cannot say.
    """
    rest = {name: value for name, value in body.items() if value is not None}
    for path, server in objects(rest.pop("mcp_servers", []), "mcp_servers"):
        raise BadRequest(f"MCP server {server.get('name')!r}: {_unsayable('a server-side tool')}", param=path)
    rest.pop("cache_control", None)  # chat targets cache by themselves
    said = {name: rest.pop(name) for name in _SAME if name in rest}
    said["messages"] = [
        *_system(rest.pop("system", None)),
        *_messages(rest.pop("messages", None), "reasoning_content" in extensions),
    ]
    if said.get("stream") is True:
        said["stream_options"] = {"include_usage": True}
    if "max_tokens" in rest:
        said[limit_name] = rest.pop("max_tokens")
    if stops := rest.pop("stop_sequences", None):
        said["stop"] = expect(stops, list, "stop_sequences")
    if "top_k" in extensions and "top_k" in rest:
        said["top_k"] = rest.pop("top_k")
    said |= _tools(rest.pop("tools", []), rest.pop("tool_choice", None))
    said |= _output(rest)
    said |= _user(rest)
    return said, sorted(rest)


def as_chat_for_count(body: dict[str, Any]) -> dict[str, Any]:
    """The chat request whose prompt tokens answer a `count_tokens` call."""
    return request(body)[0]


def _system(system: Any) -> Iterator[dict[str, Any]]:
    texts = [text_of(block, path) for path, block in blocks(system, "system")]
    if texts:
        yield {"role": "system", "content": "\n\n".join(texts)}


def _messages(value: Any, keeps_reasoning: bool) -> Iterator[dict[str, Any]]:
    for path, message in objects(value, "messages"):
        role, content = message.get("role"), list(blocks(message.get("content"), f"{path}.content"))
        if role == "user":
            yield from _user_turn(content)
        elif role == "assistant":
            yield _assistant_turn(content, keeps_reasoning)
        elif role == "system":
            yield {"role": "system", "content": "\n\n".join(text_of(block, at) for at, block in content)}
        else:
            raise BadRequest(
                f"'{path}.role' must be user, assistant or system, not {role!r}", param=f"{path}.role"
            )


def _user_turn(content: list[tuple[str, dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Tool results become messages of their own, which chat wants right after the calls."""
    parts: list[dict[str, Any]] = []
    for path, block in content:
        if block.get("type") == "tool_result":
            message, shown = _tool_result(block, path)
            parts += shown
            yield message
        else:
            parts += _parts(block, path)
    if parts or not content:
        yield {"role": "user", "content": _content(parts)}


def _tool_result(block: dict[str, Any], path: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The tool message, and what belongs into the user's: chat's tool messages carry text only."""
    call_id = expect(block.get("tool_use_id"), str, f"{path}.tool_use_id")
    parts = [p for at, b in blocks(block.get("content"), f"{path}.content") for p in _parts(b, at)]
    text = "\n\n".join(part["text"] for part in parts if part["type"] == "text")
    shown = [part for part in parts if part["type"] != "text"]
    if block.get("is_error"):
        text = f"Error: {text}"
    if shown:
        shown.insert(0, {"type": "text", "text": f"From the result of tool call {call_id}:"})
    return {"role": "tool", "tool_call_id": call_id, "content": text}, shown


def _content(parts: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """A lone text as a string, which every server reads."""
    if not parts:
        return ""
    return parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts


def _parts(block: dict[str, Any], path: str) -> list[dict[str, Any]]:
    """A block of a user's turn as content parts."""
    kind = block.get("type")
    if inner(block, "citations").get("enabled"):
        raise BadRequest(f"'{path}': {_unsayable('a wish for citations')}", param=path)
    if kind == "text":
        return [{"type": "text", "text": text_of(block, path)}]
    if kind == "image":
        return [{"type": "image_url", "image_url": {"url": _image_url(block, path)}}]
    if kind == "document":
        return _document(block, path)
    if kind == "search_result":
        texts = [text_of(text, at) for at, text in blocks(block.get("content"), f"{path}.content")]
        return [_titled(texts, block.get("title"), block.get("source"))]
    raise BadRequest(f"'{path}': {_unsayable(f'a block of type {kind!r}')}", param=path)


def _image_url(block: dict[str, Any], path: str) -> str:
    source = expect(block.get("source"), dict, f"{path}.source")
    if source.get("type") == "url":
        return expect(source.get("url"), str, f"{path}.source.url")
    if source.get("type") == "base64":
        return _data_url(source, path)
    raise BadRequest(f"'{path}': {_unsayable('an image by file id')}", param=path)


def _document(block: dict[str, Any], path: str) -> list[dict[str, Any]]:
    source = expect(block.get("source"), dict, f"{path}.source")
    kind, title = source.get("type"), block.get("title")
    if kind == "text":
        return [
            _titled([expect(source.get("data"), str, f"{path}.source.data")], title, block.get("context"))
        ]
    if kind == "content":
        return [p for at, b in blocks(source.get("content"), f"{path}.source.content") for p in _parts(b, at)]
    if kind == "base64":
        name = title if isinstance(title, str) else "document.pdf"
        return [{"type": "file", "file": {"filename": name, "file_data": _data_url(source, path)}}]
    raise BadRequest(f"'{path}': {_unsayable('a document by URL or file id')}", param=path)


def _data_url(source: dict[str, Any], path: str) -> str:
    media_type = expect(source.get("media_type"), str, f"{path}.source.media_type")
    return f"data:{media_type};base64,{expect(source.get('data'), str, f'{path}.source.data')}"


def _titled(texts: list[str], *titles: Any) -> dict[str, Any]:
    return {"type": "text", "text": "\n\n".join([*(t for t in titles if isinstance(t, str)), *texts])}


def _assistant_turn(content: list[tuple[str, dict[str, Any]]], keeps_reasoning: bool) -> dict[str, Any]:
    text, reasoning, calls = "", "", []
    for path, block in content:
        kind = block.get("type")
        if kind == "text":
            text += text_of(block, path)
        elif kind == "tool_use":
            calls.append(_tool_call(block, path))
        elif kind == "thinking" and keeps_reasoning and not block.get("signature"):
            reasoning += expect(block.get("thinking"), str, f"{path}.thinking")
        elif kind not in ("thinking", "redacted_thinking"):
            raise BadRequest(f"'{path}': {_unsayable(f'a block of type {kind!r}')}", param=path)
    message: dict[str, Any] = {"role": "assistant", "content": text or (None if calls else "")}
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = calls
    return message


def _tool_call(block: dict[str, Any], path: str) -> dict[str, Any]:
    arguments = orjson.dumps(expect(block.get("input"), dict, f"{path}.input")).decode()
    name = expect(block.get("name"), str, f"{path}.name")
    call_id = expect(block.get("id"), str, f"{path}.id")
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _tools(tools: Any, choice: Any) -> dict[str, Any]:
    said: dict[str, Any] = {"tools": [_function(tool, path) for path, tool in objects(tools, "tools")]}
    if not said["tools"]:
        return {}
    if choice is None:
        return said
    choice = expect(choice, dict, "tool_choice")
    kind = choice.get("type")
    if kind == "tool":
        name = expect(choice.get("name"), str, "tool_choice.name")
        said["tool_choice"] = {"type": "function", "function": {"name": name}}
    elif kind in ("auto", "any", "none"):
        said["tool_choice"] = "required" if kind == "any" else kind
    else:
        raise BadRequest(
            f"'tool_choice.type' must be auto, any, tool or none, not {kind!r}", param="tool_choice.type"
        )
    if choice.get("disable_parallel_tool_use"):
        said["parallel_tool_calls"] = False
    return said


def _function(tool: dict[str, Any], path: str) -> dict[str, Any]:
    if tool.get("type") not in (None, "custom"):
        what = f"a tool of type {tool['type']!r}"
        raise BadRequest(f"tool {tool.get('name')!r}: {_unsayable(what)}", param=path)
    function = {
        "name": expect(tool.get("name"), str, f"{path}.name"),
        "parameters": expect(tool.get("input_schema"), dict, f"{path}.input_schema"),
    }
    return {
        "type": "function",
        "function": function | {key: tool[key] for key in ("description", "strict") if tool.get(key)},
    }


def _output(rest: dict[str, Any]) -> dict[str, Any]:
    """Effort and format of the answer, taken out of `rest`; what has no equivalent stays there."""
    config = dict(expect(rest.pop("output_config", {}), dict, "output_config"))
    thinking = expect(rest.pop("thinking", {}), dict, "thinking")
    schema_format = config.pop("format", None) or rest.pop("output_format", None)
    effort = None if thinking.get("type") == "disabled" else config.pop("effort", None)
    if thinking.get("type") == "enabled":
        budget = expect(thinking.get("budget_tokens"), int, "thinking.budget_tokens")
        effort = effort or next((name for name, below in _EFFORT_BELOW.items() if budget < below), "high")
    elif thinking.get("type") not in (None, "adaptive", "disabled"):
        rest["thinking"] = thinking
    if config:
        rest["output_config"] = config
    said: dict[str, Any] = {"reasoning_effort": effort} if effort else {}
    if schema_format is not None:
        path = "output_config.format"
        schema = expect(expect(schema_format, dict, path).get("schema"), dict, f"{path}.schema")
        named = {"name": "answer", "schema": schema, "strict": True}
        said["response_format"] = {"type": "json_schema", "json_schema": named}
    return said


def _user(rest: dict[str, Any]) -> dict[str, Any]:
    """`metadata.user_id`, taken out of `rest`; other metadata stays there."""
    metadata = dict(expect(rest.pop("metadata", {}), dict, "metadata"))
    user = metadata.pop("user_id", None)
    if metadata:
        rest["metadata"] = metadata
    return {"user": expect(user, str, "metadata.user_id")[:MAX_USER_CHARS]} if user else {}


def _unsayable(what: str) -> str:
    return f"{what} cannot be said in chat completions; leave it out, or choose a target that speaks Messages"
