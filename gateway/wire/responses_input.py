"""The input of a Responses call as chat messages.

In: `instructions` and `input` as the caller wrote them. Out: messages for any chat completions target, and the paths
of what was left out. What the assistant said in a row becomes one message, as chat has it; images that tools gave
follow in a user's message, as chat's tool messages carry text only. What cannot be said is refused by name. Ids,
statuses, phases and cache breakpoints of items have no word in chat and no weight in the answer: they stay behind.
"""

from __future__ import annotations

from typing import Any

import orjson

from gateway.wire.errors import BadRequest
from gateway.wire.fields import expect, objects

_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}


def messages_of(
    instructions: Any, given: Any, keeps_reasoning: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """(messages, paths left out). `keeps_reasoning`: the target reads `reasoning_content`. Raises `BadRequest`."""
    history = _History(keeps_reasoning)
    if instructions is not None:
        history.append("system", [_text(instructions, "instructions")])
    if isinstance(given, str):
        history.append("user", [_text(given, "input")])
    elif not given:
        raise BadRequest("'input' must be a string or a list of items", param="input")
    else:
        for path, item in objects(given, "input"):
            history.add(item, path)
    return history.messages(), history.left_out


def unsayable(what: str, path: str) -> BadRequest:
    """The refusal of what a chat completions target cannot be asked for."""
    return BadRequest(
        f"{what} cannot be said in chat completions; leave it out, or choose a target that speaks Responses",
        code="unsupported_parameter",
        param=path,
    )


class _History:
    """Messages in the making; every `content` is a list of parts until `messages` are asked for."""

    def __init__(self, keeps_reasoning: bool) -> None:
        self.left_out: list[str] = []
        self._keeps_reasoning = keeps_reasoning
        self._messages: list[dict[str, Any]] = []
        self._reasoning = ""  # belongs to what the assistant says next
        self._shown: list[dict[str, Any]] = []  # what tools gave besides text: after their messages

    def add(self, item: dict[str, Any], path: str) -> None:
        kind = item.get("type", "message")
        if kind == "message":
            self._add_message(item, path)
        elif kind in ("function_call", "custom_tool_call"):
            self._assistant().setdefault("tool_calls", []).append(_call(item, path))
        elif kind in ("function_call_output", "custom_tool_call_output"):
            self._add_output(item, path)
        elif kind == "reasoning":
            self._add_reasoning(item, path)
        else:
            raise unsayable(f"an item of type {kind!r}", path)

    def append(self, role: str, content: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
        if role != "tool":
            self._show()
        if role != "assistant":
            self._reasoning = ""  # the turn that it led to is not here
        message = {"role": role, "content": content, **fields}
        self._messages.append(message)
        return message

    def _show(self) -> None:
        if self._shown:
            shown, self._shown = self._shown, []
            self.append("user", shown)

    def _add_message(self, item: dict[str, Any], path: str) -> None:
        role = _ROLES.get(str(item.get("role")))
        if role is None:
            raise BadRequest(f"'{path}.role' must be one of {', '.join(_ROLES)}", param=f"{path}.role")
        parts = _parts(item.get("content"), f"{path}.content")
        if role != "assistant":
            self.append(role, parts)
            return
        message = self._assistant()
        message["content"] += [part for part in parts if part["type"] != "refusal"]
        refusals = [part["refusal"] for part in parts if part["type"] == "refusal"]
        if refusals:
            message["refusal"] = "".join([message.get("refusal", ""), *refusals])

    def _add_output(self, item: dict[str, Any], path: str) -> None:
        call_id = expect(item.get("call_id"), str, f"{path}.call_id")
        parts = _parts(item.get("output"), f"{path}.output")
        texts = [part for part in parts if part["type"] == "text"]
        self.append("tool", texts or [_text("", path)], tool_call_id=call_id)
        if len(texts) < len(parts):
            self._shown.append(_text(f"From the output of tool call {call_id}:", path))
            self._shown += [part for part in parts if part["type"] != "text"]

    def _add_reasoning(self, item: dict[str, Any], path: str) -> None:
        """Open text is of use to models that think between tool calls; sealed text and summaries to nobody."""
        texts = [part.get("text") for at, part in objects(item.get("content") or [], f"{path}.content")]
        text = "".join(text for text in texts if isinstance(text, str))
        if text and self._keeps_reasoning:
            self._reasoning += text
        else:
            self.left_out.append(path)

    def _assistant(self) -> dict[str, Any]:
        """The message that the assistant is in the middle of, or a new one."""
        is_speaking = bool(self._messages) and self._messages[-1]["role"] == "assistant"
        message = self._messages[-1] if is_speaking else self.append("assistant", [])
        if self._reasoning:
            message["reasoning_content"] = message.get("reasoning_content", "") + self._reasoning
            self._reasoning = ""
        return message

    def messages(self) -> list[dict[str, Any]]:
        """A lone text goes as a string, which every server reads."""
        self._show()
        for message in self._messages:
            parts = message["content"]
            if len(parts) == 1 and parts[0]["type"] == "text":
                message["content"] = parts[0]["text"]
            elif not parts:
                message["content"] = None if message["role"] == "assistant" else ""
        return self._messages


def _call(item: dict[str, Any], path: str) -> dict[str, Any]:
    if item["type"] == "function_call":
        arguments = expect(item.get("arguments"), str, f"{path}.arguments")
    else:  # as `responses_over_chat` shows custom tools to the model
        arguments = orjson.dumps({"input": expect(item.get("input"), str, f"{path}.input")}).decode()
    function = {"name": expect(item.get("name"), str, f"{path}.name"), "arguments": arguments}
    return {
        "id": expect(item.get("call_id"), str, f"{path}.call_id"),
        "type": "function",
        "function": function,
    }


def _parts(content: Any, path: str) -> list[dict[str, Any]]:
    """Content as parts of chat, refusals among them."""
    if isinstance(content, str):
        return [_text(content, path)]
    return [_part(part, at) for at, part in objects(content, path)]


def _part(part: dict[str, Any], path: str) -> dict[str, Any]:
    kind = part.get("type")
    if kind in ("input_text", "output_text"):
        return _text(part.get("text"), f"{path}.text")
    if kind == "refusal":
        return {"type": "refusal", "refusal": expect(part.get("refusal"), str, f"{path}.refusal")}
    if kind == "input_image":
        return _image(part, path)
    if kind == "input_file":
        return _file(part, path)
    raise unsayable(f"a part of type {kind!r}", path)


def _text(text: Any, path: str) -> dict[str, Any]:
    return {"type": "text", "text": expect(text, str, path)}


def _image(part: dict[str, Any], path: str) -> dict[str, Any]:
    if not part.get("image_url"):
        raise unsayable("an image by file id", path)
    image = {"url": expect(part["image_url"], str, f"{path}.image_url")}
    detail = {"low": "low", "high": "high", "original": "high"}.get(str(part.get("detail")))
    return {"type": "image_url", "image_url": image | ({"detail": detail} if detail else {})}


def _file(part: dict[str, Any], path: str) -> dict[str, Any]:
    file = {name: part[name] for name in ("file_id", "filename", "file_data") if part.get(name)}
    if not file.keys() & {"file_id", "file_data"}:
        raise unsayable("a file by URL", path)
    return {"type": "file", "file": file}
