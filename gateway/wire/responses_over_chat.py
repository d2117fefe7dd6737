"""Serving a client of OpenAI's Responses API from a chat completions target: its requests as chat requests.

In: decoded JSON. Out: decoded JSON, and the paths of what chat completions has no word for. A chat target keeps no
state and runs no tools of its own, so what needs either is refused by name. Fields that neither API publishes go on
as they came. Knows no target; `responses_from_chat` makes the answers.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from gateway.wire.errors import BadRequest
from gateway.wire.fields import expect, objects
from gateway.wire.responses_input import messages_of, unsayable

LOGPROBS = "message.output_text.logprobs"
_STATEFUL = ("previous_response_id", "conversation", "background", "prompt")
# What chat does not have at all, or has under another name or in another form; `store` means another store.
_TRANSLATED = (
    *("previous_response_id", "conversation", "background", "prompt", "input", "instructions", "include"),
    *("max_output_tokens", "reasoning", "text", "tools", "tool_choice", "max_tool_calls", "top_logprobs"),
    *("stream_options", "store", "truncation", "context_management"),
)
# A custom tool takes any text: a function of one text says the same to the model.
_ANY_TEXT = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}


def request(
    body: dict[str, Any],
    *,
    limit_name: str = "max_completion_tokens",
    extensions: Collection[str] = (),
) -> tuple[dict[str, Any], list[str]]:
    """The chat request, and the paths in `body` of what is lost in it.

    `limit_name`: how the target calls the output limit. `extensions`: `reasoning_content` if the target reads it.
    Raises `BadRequest` for what chat completions cannot say.
    """
    for name in _STATEFUL:
        if body.get(name):
            raise unsayable(f"'{name}', for which a target must keep state,", name)
    said = {name: value for name, value in body.items() if value is not None and name not in _TRANSLATED}
    said["messages"], lost = messages_of(
        body.get("instructions"), body.get("input"), "reasoning_content" in extensions
    )
    if said.get("stream") is True:
        said["stream_options"] = {"include_usage": True}  # the last event of a stream carries it
    if body.get("max_output_tokens") is not None:
        said[limit_name] = body["max_output_tokens"]
    said |= _text(body) | _reasoning(body, lost) | _logprobs(body, lost)
    _put_tools(said, body)
    lost += ["context_management"] if body.get("context_management") else []
    lost += ["truncation"] if body.get("truncation") == "auto" else []
    return said, lost


def _text(body: dict[str, Any]) -> dict[str, Any]:
    text = _object(body, "text")
    said = {"verbosity": text["verbosity"]} if text.get("verbosity") else {}
    schema = {name: value for name, value in _object(text, "format", "text.").items() if value is not None}
    kind = schema.pop("type", "text")
    if kind == "json_schema":
        said["response_format"] = {"type": kind, "json_schema": schema}
    elif kind == "json_object":
        said["response_format"] = {"type": kind}
    elif kind != "text":
        raise unsayable(f"a text format of type {kind!r}", "text.format")
    return said


def _reasoning(body: dict[str, Any], lost: list[str]) -> dict[str, Any]:
    reasoning = _object(body, "reasoning")
    effort = reasoning.get("effort")
    lost += [f"reasoning.{name}" for name, value in reasoning.items() if name != "effort" and value]
    return {"reasoning_effort": effort} if effort else {}


def _logprobs(body: dict[str, Any], lost: list[str]) -> dict[str, Any]:
    """`include` asks for them; without it `top_logprobs` changes nothing, here as there."""
    wishes = expect(body.get("include") or [], list, "include")
    lost += [f"include.{wish}" for wish in wishes if wish != LOGPROBS]
    if LOGPROBS not in wishes:
        return {}
    top = body.get("top_logprobs")
    return {"logprobs": True} | ({} if top is None else {"top_logprobs": top})


def _put_tools(said: dict[str, Any], body: dict[str, Any]) -> None:
    """Tools and what is set about them, which many servers refuse where there are no tools."""
    tools = [_tool(tool, path) for path, tool in objects(body.get("tools") or [], "tools")]
    choice = body.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        tools, choice = _allowed(tools, choice), choice.get("mode")
    if tools:
        said["tools"] = tools
    else:
        said.pop("parallel_tool_calls", None)
    if choice is not None and (tools or choice not in ("auto", "none")):
        said["tool_choice"] = _choice(choice)


def _tool(tool: dict[str, Any], path: str) -> dict[str, Any]:
    kind = tool.get("type")
    if kind not in ("function", "custom"):
        raise unsayable(f"a tool of type {kind!r}", path)
    function = {"name": expect(tool.get("name"), str, f"{path}.name")}
    if kind == "custom":
        if _object(tool, "format", f"{path}.").get("type", "text") != "text":
            raise unsayable(f"the grammar of custom tool {function['name']!r}", f"{path}.format")
        tool = {**tool, "parameters": _ANY_TEXT}
    known = ("description", "parameters", "strict")
    return {
        "type": "function",
        "function": function | {key: tool[key] for key in known if tool.get(key) is not None},
    }


def _allowed(tools: list[dict[str, Any]], choice: dict[str, Any]) -> list[dict[str, Any]]:
    """To offer only what is allowed is the same to the model, and every server understands it."""
    names = [tool.get("name") for _, tool in objects(choice.get("tools"), "tool_choice.tools")]
    kept = [tool for tool in tools if tool["function"]["name"] in names]
    if not kept:
        raise BadRequest("'tool_choice.tools' names none of 'tools'", param="tool_choice.tools")
    return kept


def _choice(choice: Any) -> Any:
    if choice in ("none", "auto", "required"):
        return choice
    kind = expect(choice, dict, "tool_choice").get("type")
    if kind not in ("function", "custom"):
        raise unsayable(f"a choice of tool {kind!r}", "tool_choice")
    name = expect(choice.get("name"), str, "tool_choice.name")
    return {"type": "function", "function": {"name": name}}


def _object(value: dict[str, Any], key: str, above: str = "") -> dict[str, Any]:
    """The object under `key`, empty where there is none."""
    return expect(value.get(key) or {}, dict, f"{above}{key}")
