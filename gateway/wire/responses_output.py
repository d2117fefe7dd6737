"""The output items of a response as they grow, each telling of itself in events of the published order.

In: text, logprobs and arguments as chat has them. Out: items as a Response lists them, and their events: item added,
part added, deltas, text done, part done, item done. Items that are open at once are told apart by `output_index`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

from gateway.wire.fields import inner_objects, json_object
from gateway.wire.responses import event

Part = Literal["output_text", "refusal", "reasoning_text"]
Status = Literal["completed", "incomplete"]


class Events:
    """Numbers events from 0 and holds them until they are taken."""

    def __init__(self) -> None:
        self.count = 0
        self._waiting: list[bytes] = []

    def add(self, kind: str, **fields: Any) -> None:
        self._waiting.append(event(kind, self.count, fields))
        self.count += 1

    def take(self) -> list[bytes]:
        waiting, self._waiting = self._waiting, []
        return waiting


class Item(ABC):
    """An output item. `value` is what the Response lists, complete once it is settled or ended."""

    def __init__(self, value: dict[str, Any], output_index: int, events: Events) -> None:
        self.value = value
        self.is_open = True
        self._events, self._output_index = events, output_index
        events.add("response.output_item.added", output_index=output_index, item=value)

    @property
    def can_end(self) -> bool:
        """Whether nothing need follow, so that the item may end when another begins."""
        return True

    def settle(self, status: Status) -> None:
        """Completes `value` without an event, for a response that breaks off."""
        self.is_open = False
        if "status" in self.value:
            self.value["status"] = status

    def end(self, status: Status) -> None:
        """Completes `value` and tells of all that ends with it."""
        self.settle(status)
        self._tell_whole()
        self._events.add("response.output_item.done", output_index=self._output_index, item=self.value)

    @abstractmethod
    def _tell_whole(self) -> None:
        """The events of what lies in the item and ends with it."""

    def _tell(self, kind: str, **fields: Any) -> None:
        self._events.add(kind, item_id=self.value["id"], output_index=self._output_index, **fields)


class Talk(Item):
    """A message, or reasoning: parts of text one after the other."""

    def __init__(
        self, kind: Literal["message", "reasoning"], item_id: str, output_index: int, events: Events
    ) -> None:
        value = {"id": item_id, "type": kind, "status": "in_progress", "content": []}
        own: dict[str, Any] = {"role": "assistant"} if kind == "message" else {"summary": []}
        self._part: dict[str, Any] = {"type": None}  # the last one, which is open
        self._text_key = "text"  # where its text goes
        self._texts: list[str] = []  # what was said of it
        super().__init__(value | own, output_index, events)

    def say(self, kind: Part, text: str, logprobs: Sequence[dict[str, Any]] = ()) -> None:
        """More text, which must not be empty. `logprobs`, one a token, are for `output_text`."""
        if self._part["type"] != kind:
            self._next_part(kind)
        self._texts.append(text)
        extra: dict[str, Any] = {}
        if kind == "output_text":
            self._part["logprobs"] += map(_logprob, logprobs)
            extra["logprobs"] = list(map(_short_logprob, logprobs))
        self._tell_part(f"response.{kind}.delta", delta=text, **extra)

    def settle(self, status: Status) -> None:
        self._settle_part()
        super().settle(status)

    def _next_part(self, kind: Part) -> None:
        if self._texts:
            self._settle_part()
            self._tell_whole()
        self._text_key, self._texts = "refusal" if kind == "refusal" else "text", []
        self._part = {"type": kind, self._text_key: ""}
        if kind == "output_text":
            self._part |= {"annotations": [], "logprobs": []}
        self.value["content"].append(self._part)
        self._tell_part("response.content_part.added", part=self._part)

    def _settle_part(self) -> None:
        self._part[self._text_key] = "".join(self._texts)

    def _tell_whole(self) -> None:
        said = {self._text_key: self._part[self._text_key]}
        if "logprobs" in self._part:
            said["logprobs"] = list(map(_short_logprob, self._part["logprobs"]))
        self._tell_part(f"response.{self._part['type']}.done", **said)
        self._tell_part("response.content_part.done", part=self._part)

    def _tell_part(self, kind: str, **fields: Any) -> None:
        self._tell(kind, content_index=len(self.value["content"]) - 1, **fields)


class FunctionCall(Item):
    """A call of one of the caller's functions."""

    def __init__(self, item_id: str, call_id: str, name: str, output_index: int, events: Events) -> None:
        self._arguments: list[str] = []
        super().__init__(self._begin(item_id, call_id, name), output_index, events)

    @property
    def can_end(self) -> bool:
        arguments = "".join(self._arguments).strip()
        return arguments.endswith("}") and json_object(arguments) is not None

    def add(self, arguments: str) -> None:
        """More of the arguments, which are JSON. To one that has ended only blanks can come."""
        if arguments and self.is_open:
            self._arguments.append(arguments)
            self._tell_added(arguments)

    def settle(self, status: Status) -> None:
        self._read("".join(self._arguments))
        super().settle(status)

    def _begin(self, item_id: str, call_id: str, name: str) -> dict[str, Any]:
        value = {"id": item_id, "type": "function_call", "status": "in_progress", "call_id": call_id}
        return value | {"name": name, "arguments": ""}

    def _read(self, arguments: str) -> None:
        self.value["arguments"] = arguments

    def _tell_added(self, arguments: str) -> None:
        self._tell("response.function_call_arguments.delta", delta=arguments)

    def _tell_whole(self) -> None:
        whole = {"name": self.value["name"], "arguments": self.value["arguments"]}
        self._tell("response.function_call_arguments.done", **whole)


class CustomCall(FunctionCall):
    """A call of a custom tool, which the model sees as a function of one text, `input`.

    That text lies inside JSON, so it is told at once when all of it is there.
    """

    def _begin(self, item_id: str, call_id: str, name: str) -> dict[str, Any]:
        return {"id": item_id, "type": "custom_tool_call", "call_id": call_id, "name": name, "input": ""}

    def _read(self, arguments: str) -> None:
        text = (json_object(arguments) or {}).get("input")
        self.value["input"] = text if isinstance(text, str) else arguments  # as it stands, if the model erred

    def _tell_added(self, arguments: str) -> None:
        pass

    def _tell_whole(self) -> None:
        if self.value["input"]:
            self._tell("response.custom_tool_call_input.delta", delta=self.value["input"])
        self._tell("response.custom_tool_call_input.done", input=self.value["input"])


def _logprob(token: dict[str, Any]) -> dict[str, Any]:
    """As parts have it: `bytes` is a list, empty where the target knows none."""
    top = [_short(one) | {"bytes": one.get("bytes") or []} for one in inner_objects(token, "top_logprobs")]
    return _short(token) | {"bytes": token.get("bytes") or [], "top_logprobs": top}


def _short_logprob(token: dict[str, Any]) -> dict[str, Any]:
    """As events of text have it."""
    return _short(token) | {"top_logprobs": list(map(_short, inner_objects(token, "top_logprobs")))}


def _short(token: dict[str, Any]) -> dict[str, Any]:
    return {"token": token.get("token"), "logprob": token.get("logprob")}
