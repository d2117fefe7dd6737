"""The prompts that `sparkgate bench engine` sends: code, math, chat, and JSON to be drawn out of a text.

In: a kind and a count. Out: `Prompt`s, always in the same order. Some of the code prompts ask for an edit, so
their answers repeat much of their question; every JSON prompt brings the schema that its answer must fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

KINDS = ("code", "math", "chat", "json")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One user message; `schema` is a JSON Schema, or None where the answer is free text."""

    text: str
    schema: Mapping[str, Any] | None = None


def prompts(kind: str, count: int, start: int = 0) -> list[Prompt]:
    """`count` prompts of `kind` (one of KINDS), the first at place `start`, over and over again."""
    known = _PROMPTS[kind]
    return [known[(start + place) % len(known)] for place in range(count)]


def _object(**properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _list_of(items: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _one_of(*values: str) -> dict[str, Any]:
    return {"type": "string", "enum": list(values)}


_TEXT = {"type": "string"}
_COUNT = {"type": "integer"}
_AMOUNT = {"type": "number"}
_FLAG = {"type": "boolean"}

_CODE = (
    Prompt(
        "Add type hints and a docstring to every function and return the whole file:\n\n"
        "def area(width, height):\n    return width * height\n\n"
        "def perimeter(width, height):\n    return 2 * (width + height)\n\n"
        "def scaled(width, height, factor):\n    return width * factor, height * factor\n"
    ),
    Prompt("Write a Python function that merges two sorted lists into one sorted list without using sort()."),
    Prompt(
        "Rename the variable `d` to `days_left` everywhere and return the whole function:\n\n"
        "def describe(d):\n    if d < 0:\n        return 'over'\n    if d == 0:\n        return 'last day'\n"
        "    weeks, rest = divmod(d, 7)\n    if weeks:\n        return f'{weeks} weeks and {rest} days'\n"
        "    return f'{d} days'\n"
    ),
    Prompt(
        "Write a SQL query that lists each customer and the total of their orders in 2025, largest first."
    ),
    Prompt(
        "This loop fails on an empty list. Repair it and print the complete program again:\n\n"
        "import sys\n\nreadings = [float(line) for line in sys.stdin if line.strip()]\n"
        "largest = readings[0]\nsmallest = readings[0]\nfor reading in readings:\n"
        "    if reading > largest:\n        largest = reading\n    if reading < smallest:\n"
        "        smallest = reading\nprint('largest', largest)\nprint('smallest', smallest)\n"
    ),
    Prompt(
        "Write a C function that counts the bits set in a 64-bit unsigned integer, and explain how it works."
    ),
    Prompt(
        "Turn this JavaScript into TypeScript with an interface for the items, and print all of it:\n\n"
        "function total(items) {\n  let sum = 0;\n  for (const item of items) {\n"
        "    sum += item.price * item.quantity;\n  }\n  return sum;\n}\n\n"
        "function cheapest(items) {\n  return items.reduce((a, b) => (a.price < b.price ? a : b));\n}\n"
    ),
    Prompt("Write a Python class for a fixed-size ring buffer with push, pop and len, and test it."),
)

_MATH = (
    Prompt(
        "A bakery sells rolls in bags of 6. It baked 250 and kept 16. How many bags are full? Show each step."
    ),
    Prompt("A train leaves at 9:40 and travels 186 km at 72 km/h. When does it arrive? Show your working."),
    Prompt(
        "Three friends share a bill of 84 euros in the ratio 2:3:7. What does each pay? Explain the steps."
    ),
    Prompt("A tank holds 900 litres. A pipe fills 15 a minute, a leak loses 3. How long until it is full?"),
    Prompt(
        "A jacket costs 120 after a discount of 20 percent. What was its price before? Check your answer."
    ),
    Prompt("Solve 3(x - 4) + 5 = 2x + 9 and name the rule that you use in every step."),
    Prompt("The sum of three consecutive odd numbers is 93. Which are they? Derive them with an equation."),
    Prompt(
        "A class of 28 pupils has 4 more girls than boys. How many boys and girls are there? Show each step."
    ),
)

_CHAT = (
    Prompt("I have a free Sunday and rain is forecast. Suggest how I could spend it at home."),
    Prompt("Explain to a ten-year-old why the moon changes its shape during a month."),
    Prompt("Write a friendly message to my neighbour asking her to water my plants next week."),
    Prompt("What should I look at before I rent a flat in an old building?"),
    Prompt("My sourdough bread comes out flat. What may be wrong and what can I try?"),
    Prompt("Compare travelling by night train with flying for a trip of a thousand kilometres."),
    Prompt("Give me a plan for learning to run five kilometres, starting from nothing."),
    Prompt("Tell a short story about a lighthouse keeper who finds a letter in a bottle."),
)

_JSON = (
    Prompt(
        "Give the order below as JSON.\n\nHello, Maria Lopez here. Please send two boxes of green tea and a "
        "teapot to 14 Harbour Street, Galway. I need it by Friday, and it is a present, so wrap it.",
        _object(
            customer=_TEXT,
            address=_object(street=_TEXT, city=_TEXT),
            items=_list_of(_object(name=_TEXT, quantity=_COUNT)),
            gift=_FLAG,
            wanted_by=_TEXT,
        ),
    ),
    Prompt(
        "Give the ticket below as JSON.\n\nSince Tuesday's update the export button fails in Firefox. "
        "In Chrome it works. Three colleagues have the same problem and the report is due tomorrow.",
        _object(
            title=_TEXT,
            severity=_one_of("low", "medium", "high"),
            browser=_TEXT,
            affected_users=_COUNT,
            description=_TEXT,
        ),
    ),
    Prompt(
        "Give the people in this text as JSON.\n\nThe workshop was opened by Ada Novak, nurse from Prague. "
        "Tom Reed, a teacher from Leeds, and Lin Wei, an engineer from Taipei, gave the two talks.",
        _object(people=_list_of(_object(name=_TEXT, occupation=_TEXT, city=_TEXT, gave_talk=_FLAG))),
    ),
    Prompt(
        "Give the invoice below as JSON.\n\nInvoice 2025-118 of 3 March. Four hours of gardening at 38.50, "
        "twelve bags of soil at 6.20 each, delivery 15.00. Payable within 14 days.",
        _object(
            number=_TEXT,
            date=_TEXT,
            lines=_list_of(_object(text=_TEXT, quantity=_COUNT, unit_price=_AMOUNT)),
            days_to_pay=_COUNT,
        ),
    ),
    Prompt(
        "Give the recipe below as JSON.\n\nFor pancakes for four, whisk 250 g flour, 3 eggs and half a litre "
        "of milk, let it rest for 20 minutes, then fry thin cakes in butter.",
        _object(
            dish=_TEXT,
            servings=_COUNT,
            minutes=_COUNT,
            ingredients=_list_of(_object(name=_TEXT, amount=_TEXT)),
            steps=_list_of(_TEXT),
        ),
    ),
    Prompt(
        "Give the review below as JSON.\n\nThe room was quiet and clean, the breakfast good, but the lift "
        "was broken for two days and nobody apologised. Still, for this price I would come again.",
        _object(
            verdict=_one_of("good", "mixed", "bad"),
            praised=_list_of(_TEXT),
            criticised=_list_of(_TEXT),
            would_return=_FLAG,
            summary=_TEXT,
        ),
    ),
    Prompt(
        "Give the meeting below as JSON.\n\nLet us meet on 12 May at 10:30 in room 204 for 90 minutes. Priya "
        "presents the budget, Jon the hiring plan. Bring last year's figures.",
        _object(
            date=_TEXT,
            time=_TEXT,
            place=_TEXT,
            minutes=_COUNT,
            agenda=_list_of(_object(topic=_TEXT, presenter=_TEXT)),
        ),
    ),
    Prompt(
        "Give the flight below as JSON.\n\nFlight KX 482 from Oslo to Lisbon leaves on 9 May at 07:15 from "
        "gate B12 and lands at 11:05. Seat 23A, one checked bag of up to 23 kg.",
        _object(
            flight=_TEXT,
            departure=_object(airport=_TEXT, time=_TEXT),
            arrival=_object(airport=_TEXT, time=_TEXT),
            gate=_TEXT,
            seat=_TEXT,
            checked_bags=_COUNT,
        ),
    ),
)

_PROMPTS = {"code": _CODE, "math": _MATH, "chat": _CHAT, "json": _JSON}
