"""Serves chat completions from targets that speak Anthropic's Messages API: the way there.

In: the body of a chat call. Out: the body of a Messages call, and the names of what Messages has no word for. What
would change the answer and cannot be said is a `BadRequest` that names it. Answers come back through
`messages_as_chat`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal

from gateway.wire.errors import BadRequest
from gateway.wire.fields import blocks, expect, inner, json_object, objects, text_of

Thinking = Literal["adaptive", "budget"]

_SAME = ("model", "stream", "top_k", "top_p")
# Settings that mean nothing at these values, so that leaving them out loses nothing.
_NEUTRAL: dict[str, Any] = {
    "frequency_penalty": 0,
    "logit_bias": {},
    "logprobs": False,
    "modalities": ["text"],
    "n": 1,
    "presence_penalty": 0,
    "service_tier": "auto",
    "store": False,
    "temperature": 1,
    "top_logprobs": 0,
    "top_p": 1,
}
_BUDGETS = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16384, "xhigh": 32768, "max": 65536}
MIN_BUDGET_TOKENS = 1024
_DATA_URL = re.compile(r"data:([^;,]+)[^,]*;base64,(.*)", re.DOTALL)
_NOT_IN_ID = re.compile(r"[^A-Za-z0-9_-]")


def request(
    body: dict[str, Any], *, default_max_tokens: int, thinking: Thinking = "adaptive"
) -> tuple[dict[str, Any], list[str]]:
    """The Messages request, and the top-level names of `body` that are lost in it.

    `default_max_tokens` stands where the caller set no limit, which Messages requires. `thinking`: how the target's
    model takes its effort, up to Claude 4.5 as a budget. Raises `BadRequest` for what Messages cannot say.
    """
    rest = {name: value for name, value in body.items() if value is not None and _NEUTRAL.get(name) != value}
    rest.pop("stream_options", None)  # Messages always tells usage
    _check(rest)
    limits = (rest.pop("max_completion_tokens", None), rest.pop("max_tokens", None), default_max_tokens)
    said: dict[str, Any] = {name: rest.pop(name) for name in _SAME if name in rest}
    said["max_tokens"] = next(limit for limit in limits if limit is not None)
    said |= _turns(rest.pop("messages", None))
    said |= _tools(
        rest.pop("tools", []), rest.pop("tool_choice", None), rest.pop("parallel_tool_calls", None)
    )
    said |= _stops(rest) | _user(rest)
    if isinstance(rest.get("temperature"), int | float) and rest["temperature"] <= 1:
        said["temperature"] = rest.pop("temperature")
    _think(said, rest, thinking)
    if "response_format" in rest and (schema := _schema(rest.pop("response_format"))):
        said["output_config"] = said.get("output_config", {}) | {"format": schema}
    return said, sorted(rest)


def _check(rest: dict[str, Any]) -> None:
    if "n" in rest:
        raise BadRequest("'n' must be 1: Messages gives one answer; send the call several times", param="n")
    for name in ("functions", "function_call"):
        if name in rest:
            raise BadRequest(f"'{name}' cannot be said in Messages; use 'tools'", param=name)


def _turns(value: Any) -> dict[str, Any]:
    """`system` and `messages`: system messages go to the front, what one role says in a row becomes one turn."""
    system: list[dict[str, Any]] = []
    turns: list[dict[str, Any]] = []
    for path, message in objects(value, "messages"):
        role = message.get("role")
        content = list(blocks(message.get("content"), f"{path}.content"))
        if role in ("system", "developer"):
            system += _texts(content)
            continue
        if role == "user":
            said = [block for at, part in content for block in _user_block(part, at)]
        elif role == "assistant":
            said = [*_assistant_text(message, content), *_tool_uses(message, path)]
        elif role == "tool":
            said = [_tool_result(message, content, path)]
        else:
            raise BadRequest(f"'{path}.role' {role!r} cannot be said in Messages", param=f"{path}.role")
        turn_role = "assistant" if role == "assistant" else "user"
        if turns and turns[-1]["role"] == turn_role:
            turns[-1]["content"] += said
        elif said:
            turns.append({"role": turn_role, "content": said})
    return {"system": system, "messages": turns} if system else {"messages": turns}


def _texts(content: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Text blocks; empty ones, which Anthropic refuses, are left out."""
    texts = [text_of(part, path) for path, part in content]
    return [{"type": "text", "text": text} for text in texts if text]


def _user_block(part: dict[str, Any], path: str) -> list[dict[str, Any]]:
    kind = part.get("type")
    if kind == "text":
        return _texts([(path, part)])
    if kind == "image_url":
        url = expect(expect(part.get(kind), dict, f"{path}.{kind}").get("url"), str, f"{path}.{kind}.url")
        return [{"type": "image", "source": _source(url, f"{path}.{kind}.url")}]
    if kind == "file":
        data = inner(part, "file").get("file_data")
        return [{"type": "document", "source": _source(data, f"{path}.file.file_data")}]
    raise BadRequest(f"'{path}' of type {kind!r} cannot be said in Messages", param=path)


def _source(url: Any, path: str) -> dict[str, Any]:
    url = expect(url, str, path)
    if url.startswith(("http://", "https://")):
        return {"type": "url", "url": url}
    if inline := _DATA_URL.fullmatch(url):
        return {"type": "base64", "media_type": inline[1], "data": inline[2]}
    raise BadRequest(f"'{path}' must be an http(s) URL or a base64 data URL", param=path)


def _assistant_text(
    message: dict[str, Any], content: list[tuple[str, dict[str, Any]]]
) -> Iterator[dict[str, Any]]:
    """A refusal is text too. Reasoning is left out: Anthropic takes back only its own, signed."""
    for path, part in content:
        if part.get("type") == "refusal":
            part = {"type": "text", "text": part.get("refusal")}
        yield from _texts([(path, part)])
    if message.get("refusal"):
        yield {"type": "text", "text": message["refusal"]}


def _tool_uses(message: dict[str, Any], path: str) -> Iterator[dict[str, Any]]:
    for at, call in objects(message.get("tool_calls") or [], f"{path}.tool_calls"):
        function = expect(call.get("function"), dict, f"{at}.function")
        arguments = json_object(expect(function.get("arguments"), str, f"{at}.function.arguments"))
        if arguments is None:
            raise BadRequest(
                f"'{at}.function.arguments' must be a JSON object", param=f"{at}.function.arguments"
            )
        yield {
            "type": "tool_use",
            "id": _tool_use_id(call.get("id"), f"{at}.id"),
            "name": expect(function.get("name"), str, f"{at}.function.name"),
            "input": arguments,
        }


def _tool_result(
    message: dict[str, Any], content: list[tuple[str, dict[str, Any]]], path: str
) -> dict[str, Any]:
    return {
        "type": "tool_result",
        "tool_use_id": _tool_use_id(message.get("tool_call_id"), f"{path}.tool_call_id"),
        "content": _texts(content),
    }


def _tool_use_id(value: Any, path: str) -> str:
    """Ids of other providers may hold characters that Anthropic refuses."""
    return _NOT_IN_ID.sub("_", expect(value, str, path))


def _tools(tools: Any, choice: Any, is_parallel: Any) -> dict[str, Any]:
    said = [_tool(tool, path) for path, tool in objects(tools, "tools")]
    if not said:
        return {}
    chosen: dict[str, Any] = {}
    if choice in ("auto", "none", "required"):
        chosen["type"] = "any" if choice == "required" else choice
    elif isinstance(choice, dict) and choice.get("type") == "function":
        name = expect(inner(choice, "function").get("name"), str, "tool_choice.function.name")
        chosen = {"type": "tool", "name": name}
    elif choice is not None:
        raise BadRequest("'tool_choice' must be auto, none, required or a function", param="tool_choice")
    if is_parallel is False and chosen.get("type") != "none":
        chosen = {"type": "auto"} | chosen | {"disable_parallel_tool_use": True}
    return {"tools": said, "tool_choice": chosen} if chosen else {"tools": said}


def _tool(tool: dict[str, Any], path: str) -> dict[str, Any]:
    if tool.get("type") != "function":
        raise BadRequest(
            f"'{path}' of type {tool.get('type')!r} cannot be said in Messages; define it as a function",
            param=path,
        )
    function = expect(tool.get("function"), dict, f"{path}.function")
    said = {
        "name": expect(function.get("name"), str, f"{path}.function.name"),
        "input_schema": {"type": "object"} | inner(function, "parameters"),
    }
    return said | {key: function[key] for key in ("description", "strict") if function.get(key)}


def _stops(rest: dict[str, Any]) -> dict[str, Any]:
    """Anthropic refuses stop sequences of white space only: `stop` stays in `rest` when it holds one."""
    stop = rest.pop("stop", [])
    stops = [stop] if isinstance(stop, str) else expect(stop, list, "stop")
    kept = [text for text in stops if expect(text, str, "stop").strip()]
    if len(kept) < len(stops):
        rest["stop"] = stop
    return {"stop_sequences": kept} if kept else {}


def _user(rest: dict[str, Any]) -> dict[str, Any]:
    user, safety = rest.pop("user", None), rest.pop("safety_identifier", None)
    return {"metadata": {"user_id": safety or user}} if safety or user else {}


def _think(said: dict[str, Any], rest: dict[str, Any], thinking: Thinking) -> None:
    """Thinking by `reasoning_effort`. It excludes sampling settings, which go back to `rest`; a budget needs room
    below the output limit, a free choice of tools and a turn that begins here, else the effort stays in `rest`."""
    if "reasoning_effort" not in rest:
        return
    effort = expect(rest.pop("reasoning_effort"), str, "reasoning_effort")
    if effort == "none":
        said["thinking"] = {"type": "disabled"}
        return
    if effort not in _BUDGETS:
        names = ", ".join(["none", *_BUDGETS])
        raise BadRequest(
            f"'reasoning_effort' must be one of {names}, not {effort!r}", param="reasoning_effort"
        )
    if thinking == "adaptive":
        said["thinking"] = {"type": "adaptive", "display": "summarized"}
        said["output_config"] = {"effort": "low" if effort == "minimal" else effort}
    else:
        budget = min(_BUDGETS[effort], expect(said["max_tokens"], int, "max_tokens") // 2)
        is_forced = said.get("tool_choice", {}).get("type") in ("any", "tool")
        if budget < MIN_BUDGET_TOKENS or is_forced or _is_in_tool_loop(said["messages"]):
            rest["reasoning_effort"] = effort
            return
        said["thinking"] = {"type": "enabled", "budget_tokens": budget}
    rest |= {name: said.pop(name) for name in ("temperature", "top_k", "top_p") if name in said}


def _is_in_tool_loop(turns: list[dict[str, Any]]) -> bool:
    """Whether the model's own turn goes on: with a budget, it would have to begin with its signed thinking."""
    return bool(turns) and any(block["type"] == "tool_result" for block in turns[-1]["content"])


def _schema(response_format: Any) -> dict[str, Any] | None:
    given = expect(response_format, dict, "response_format")
    if given.get("type") == "text":
        return None
    if given.get("type") != "json_schema":
        raise BadRequest(
            f"'response_format' of type {given.get('type')!r} cannot be said in Messages: give a json_schema",
            param="response_format",
        )
    path = "response_format.json_schema.schema"
    return {"type": "json_schema", "schema": expect(inner(given, "json_schema").get("schema"), dict, path)}
