"""Reads what an answer may call: `tools`, `tool_choice` and `parallel_tool_calls`.

In: a JSON body's fields. Out: a `ToolOffer`, or none. Compiles no schema.
"""

from __future__ import annotations

import re

import orjson

from engine.http.fields import Fields
from engine.tool_calls import Function, ToolOffer

MAX_TOOLS = 128
MAX_PARALLEL_CALLS = 16
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MODES = ("none", "auto", "required")
_OLDER_ADVICE = "use 'tools' and 'tool_choice'."


def read_offer(fields: Fields) -> ToolOffer | None:
    """None where there are no tools or the choice is not to use them: the model is then told of none."""
    if fields.raw("functions"):
        raise fields.unsupported("functions", _OLDER_ADVICE)
    if fields.raw("function_call") not in (None, "none", "auto"):
        raise fields.unsupported("function_call", _OLDER_ADVICE)
    functions = _read_functions(fields)
    most = MAX_PARALLEL_CALLS if fields.flag("parallel_tool_calls", default=True) else 1
    choice = fields.raw("tool_choice")
    if not functions:
        if choice not in (None, "none", "auto"):
            raise fields.invalid("tool_choice", "it needs 'tools' to choose from.")
        return None
    if isinstance(choice, dict):
        return _read_choice(fields.object("tool_choice"), functions, most)
    mode = fields.text("tool_choice") or "auto"
    if mode not in _MODES:
        raise fields.invalid("tool_choice", f"{mode!r} is none of {', '.join(_MODES)}.")
    names = frozenset(function.name for function in functions)
    return None if mode == "none" else ToolOffer(functions, names, mode == "required", most)


def _read_choice(choice: Fields, functions: tuple[Function, ...], most: int) -> ToolOffer:
    """One function that must be called, or some that may be."""
    kind = choice.required_text("type")
    if kind == "function":
        return ToolOffer(functions, frozenset({_read_name(choice, functions)}), is_required=True)
    if kind != "allowed_tools":
        raise choice.invalid("type", f"{kind!r} is none of function, allowed_tools.")
    allowed = choice.object("allowed_tools")
    mode = allowed.required_text("mode")
    if mode not in ("auto", "required"):
        raise allowed.invalid("mode", f"{mode!r} is none of auto, required.")
    names = frozenset(_read_name(tool, functions) for tool in allowed.objects("tools", "tools"))
    if not names:
        raise allowed.invalid("tools", "at least one is needed.")
    return ToolOffer(functions, names, mode == "required", most)


def _read_name(fields: Fields, functions: tuple[Function, ...]) -> str:
    function = fields.object("function")
    name = function.required_text("name")
    if all(name != known.name for known in functions):
        raise function.invalid("name", f"{name[:64]!r} is not the name of one of the 'tools'.")
    return name


def _read_functions(fields: Fields) -> tuple[Function, ...]:
    tools = fields.objects("tools", "tools")
    if len(tools) > MAX_TOOLS:
        raise fields.invalid("tools", f"at most {MAX_TOOLS} are allowed, got {len(tools)}.")
    functions: dict[str, Function] = {}
    for tool in tools:
        kind = tool.required_text("type")
        if kind != "function":
            raise tool.unsupported("type", f"it calls functions only, not {kind[:40]!r}.")
        described = tool.object("function")
        function = _read_function(described)
        if function.name in functions:
            raise described.invalid("name", f"there are two functions named {function.name!r}.")
        functions[function.name] = function
    return tuple(functions.values())


def _read_function(fields: Fields) -> Function:
    name = fields.required_text("name")
    if not _NAME.fullmatch(name):
        raise fields.invalid("name", "it must be 1 to 64 letters, digits, underscores or dashes.")
    parameters = {"type": "object", "properties": {}, **fields.mapping("parameters")}
    if parameters["type"] != "object":
        raise fields.invalid("parameters", "its 'type' must be 'object'.")
    shown = {"name": name, "description": fields.text("description") or "", "parameters": parameters}
    return Function(
        name=name,
        definition={"type": "function", "function": shown},
        schema=orjson.dumps(parameters).decode(),
        is_strict=fields.flag("strict"),
    )
