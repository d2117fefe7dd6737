"""Fifty prompts for comparing greedy answers: code, mathematics, chat, several languages, short and long.

Every fourth one is asked, or with `SPARKGATE_ALL_PROMPTS` in the environment all (`make test-lossless`).
"""

from __future__ import annotations

import os

EVERY = 1 if "SPARKGATE_ALL_PROMPTS" in os.environ else 4

CODE = [
    "Write a Python function that returns the n-th Fibonacci number.",
    "def quicksort(items):\n    if len(items) < 2:\n        return items\n    pivot = items[0]\n",
    "Explain what this does: `SELECT city, COUNT(*) FROM orders GROUP BY city HAVING COUNT(*) > 3;`",
    "Turn this loop into a list comprehension:\nout = []\nfor x in xs:\n    if x > 0:\n        out.append(x * x)",
    "Why does `0.1 + 0.2 == 0.3` give False in most languages?",
    "Write a bash one-liner that counts the lines of all .txt files under a folder.",
    "#include <stdio.h>\n\nint main(void) {\n    for (int i = 0; i < 10; i++)",
    "What is the difference between a process and a thread?",
    "Give me a regular expression that matches an ISO date such as 2024-05-31.",
    "class Stack:\n    def __init__(self):\n        self._items = []\n\n    def push(self, item):",
    "Fix this JavaScript: `const total = prices.reduce((a, b) => a + b)` fails on an empty array.",
    "Write unit tests for a function `slugify(title)`.",
]
MATHEMATICS = [
    "What is 17 * 23?",
    "Solve for x: 3x + 7 = 31. Show each step.",
    "A train travels 180 km in 2.5 hours. What is its average speed?",
    "What is the derivative of x^3 - 4x + 1?",
    "If I buy 3 apples at 0.40 each and 2 pears at 0.55 each, what do I pay?",
    "List the prime numbers between 20 and 50.",
    "The sum of two numbers is 20 and their difference is 4. Find them.",
    "How many ways are there to arrange the letters of the word LEVEL?",
    "Convert 98.6 degrees Fahrenheit to Celsius.",
    "1, 1, 2, 3, 5, 8, 13,",
]
CHAT = [
    "Hi!",
    "Tell me a joke about a cat and a keyboard.",
    "What should I cook tonight with eggs, spinach and rice?",
    "My flight was cancelled. Write a polite message asking for a refund.",
    "Who wrote Pride and Prejudice?",
    "Give me three tips for sleeping better.",
    "Describe autumn in two sentences.",
    "I feel nervous about my first day at work. Any advice?",
    "Once upon a time, in a village by the sea,",
    "Answer yes or no: is the moon bigger than the earth?",
    "Name the planets of the solar system in order.",
    "Write a haiku about rain on a tin roof.",
    "?",
    "Summarise in one line: The committee met on Tuesday, argued about the fence, and went home undecided.",
]
LANGUAGES = [
    "Quelle est la capitale de l'Australie ?",
    "Erkläre kurz, wie ein Regenbogen entsteht.",
    "¿Cuántos días tiene un año bisiesto?",
    "Qual è il fiume più lungo d'Italia?",
    "日本の首都はどこですか？",
    "你好，请介绍一下你自己。",
    "Сколько будет семь умножить на восемь?",
    "Napiš krátkou větu o zimě. 🙂❄️",
]

_REPORT = (
    "On {day} the harbour recorded {ships} arrivals. The largest vessel carried {tons} tons of grain, and the "
    "pilot noted a swell of {swell} metres at the outer buoy. Repairs to the eastern quay went on without delay. "
)
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def _report(num_days: int) -> str:
    """A harbour log long enough to be read in several chunks."""
    entries = [
        _REPORT.format(day=_DAYS[at % 7], ships=3 + at * 5 % 11, tons=900 + at * 137 % 4000, swell=at * 3 % 4)
        for at in range(num_days)
    ]
    return "".join(entries)


LONG = [
    "Summarise this log in one sentence.\n\n" + _report(6),
    _report(9) + "\n\nQuestion: on which day did the most ships arrive?",
    "Here is a log. Translate its first sentence into French.\n\n" + _report(12),
    _report(16),
    "Find the mistakes in this program.\n\n"
    + "".join(f"def step_{at}(value):\n    return value * {at} + {at * at}\n\n" for at in range(24)),
    "Add these numbers: " + ", ".join(str(at * at % 97) for at in range(150)),
]

PROMPTS = [*CODE, *MATHEMATICS, *CHAT, *LANGUAGES, *LONG]
