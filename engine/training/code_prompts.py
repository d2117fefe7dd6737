"""Prompts about code, made of parts: what is to be done, in which language, under which condition, how asked.

In: a number and a seed. Out: that many different prompts, always the same. They are what a drafter learns code
from, so they are many and unlike each other in task, length and tone rather than hard.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from engine.errors import StartError
from engine.training.prompts import Prompt

MOST = 40_000  # so that no two need to be much alike

# What a function does, a name for it, its parameters and result in Python.
_FUNCTIONS = """
returns the second largest number of a list | second_largest | numbers: list[int] | int
counts how often each word occurs in a text | word_counts | text: str | dict[str, int]
checks whether a string reads the same in both directions | is_palindrome | text: str | bool
merges two sorted lists into one sorted list | merge_sorted | left: list[int], right: list[int] | list[int]
removes duplicates from a list and keeps the order | unique | items: list[str] | list[str]
computes the nth Fibonacci number | fibonacci | n: int | int
tells whether a number is prime | is_prime | number: int | bool
reverses the words of a sentence | reverse_words | sentence: str | str
flattens a nested list | flatten | nested: list[list[int]] | list[int]
finds the longest word in a sentence | longest_word | sentence: str | str
converts a temperature from Celsius to Fahrenheit | to_fahrenheit | celsius: float | float
counts the vowels in a string | count_vowels | text: str | int
groups people by the city they live in | group_by_city | people: list[dict[str, str]] | dict[str, list[str]]
does a binary search in a sorted list | binary_search | items: list[int], wanted: int | int
rotates a list by k places to the right | rotate | items: list[int], k: int | list[int]
computes the factorial of a number | factorial | n: int | int
tells whether two words are anagrams | are_anagrams | first: str, second: str | bool
transposes a matrix | transpose | matrix: list[list[float]] | list[list[float]]
sums the digits of a whole number | digit_sum | number: int | int
finds the greatest common divisor of two numbers | gcd | a: int, b: int | int
splits a list into chunks of a given size | chunks | items: list[int], size: int | list[list[int]]
turns a roman numeral into a number | from_roman | numeral: str | int
turns a number into binary digits without using bin | to_binary | number: int | str
checks that the brackets of an expression are balanced | is_balanced | expression: str | bool
finds the first character that is not repeated | first_unique | text: str | str
computes the average of a list and returns 0 when it is empty | average | values: list[float] | float
computes the median of a list | median | values: list[float] | float
moves all zeros of a list to its end | move_zeros | numbers: list[int] | list[int]
finds two numbers of a list that add up to a target | two_sum | numbers: list[int], target: int | tuple[int, int]
encodes a string with run-length encoding | run_length | text: str | str
shifts every letter of a text by n places in the alphabet | caesar | text: str, n: int | str
checks whether a year is a leap year | is_leap_year | year: int | bool
sorts a list of tuples by the second value | sort_by_second | pairs: list[tuple[str, int]] | list[tuple[str, int]]
inverts a dictionary | invert | mapping: dict[str, int] | dict[int, str]
returns all permutations of a list | permutations | items: list[int] | list[list[int]]
finds the missing number in a list of 1 to n | missing_number | numbers: list[int] | int
computes the distance between two points | distance | a: tuple[float, float], b: tuple[float, float] | float
capitalizes the first letter of every word | title_case | text: str | str
reads the value at a dotted path in a nested dictionary | lookup | data: dict, path: str | object
tells how many days lie between two dates | days_between | start: str, end: str | int
finds the common elements of two lists | common | first: list[int], second: list[int] | list[int]
computes the running total of a list | running_total | values: list[int] | list[int]
checks if a password has a digit, an upper case letter and 8 characters | is_strong | password: str | bool
finds the longest common prefix of several strings | common_prefix | words: list[str] | str
converts seconds to hours, minutes and seconds | split_seconds | seconds: int | tuple[int, int, int]
parses a query string such as a=1&b=2 | parse_query | query: str | dict[str, str]
computes the interest on a loan after some years | compound | amount: float, rate: float, years: int | float
counts the islands in a grid of zeros and ones | count_islands | grid: list[list[int]] | int
returns the depth of a binary tree | depth | root: Node | int
reverses a linked list | reverse_list | head: Node | Node
computes the price after a discount in percent | discounted | price: float, percent: float | float
replaces every space by an underscore and lowers all letters | slug | title: str | str
validates an IPv4 address | is_ipv4 | address: str | bool
finds the largest sum of a contiguous part of a list | max_subarray | numbers: list[int] | int
sorts a list without using the built-in sort | bubble_sort | numbers: list[int] | list[int]
counts the lines of a file that contain a given word | count_lines | path: str, word: str | int
reads a CSV file and returns its rows as dictionaries | read_rows | path: str | list[dict[str, str]]
generates the first n rows of Pascal's triangle | pascal | n: int | list[list[int]]
picks the k most frequent items | most_frequent | items: list[str], k: int | list[str]
keeps only the even numbers and squares them | even_squares | numbers: list[int] | list[int]
""".strip()

_LANGUAGES = (
    *("Python", "Python", "Python", "JavaScript", "TypeScript", "Java", "C", "C++", "Go", "Rust"),
    *("Ruby", "C#", "PHP", "Kotlin", "Swift"),
)

_CONDITIONS = (
    *("", "", "", "", "No imports, please.", "Explain the code in a few sentences.", "Add comments."),
    *("Add a docstring.", "Use recursion.", "Use a loop, no recursion.", "Handle empty input.", "Code only."),
    *("Show an example call.", "Keep it under 15 lines.", "What is its time complexity?", "Use type hints."),
    *(
        "Raise an error on bad input.",
        "I am a beginner.",
        "Make it as fast as you can.",
        "Include two tests.",
    ),
    *("Don't use any library.", "Write clean, readable code.", "Then show how you would test it."),
)

_ASKED = (
    "Write a {language} function that {does}.",
    "Write a function in {language} which {does}.",
    "I need some {language} code that {does}.",
    "How do I write a {language} function that {does}?",
    "In {language}, implement `{name}`, which {does}.",
    "Can you give me a {language} function called {name}? It {does}.",
    "{language}: function `{name}` that {does}.",
    "Please implement the following in {language}. Name: {name}. Behaviour: {does}.",
    "Show me how to make a {language} helper that {does}",
    "hi, could you help me with {language}? i want a function that {does}",
    "Create a small {language} program with a function that {does}, and call it from main.",
)

_COMPLETED = (
    "Complete this function:\n\n{stub}",
    "{stub}",
    "Fill in the body of this Python function.\n\n```python\n{stub}\n```",
    "Finish the implementation below. Return the whole function.\n{stub}",
    "Here is a signature with its docstring. Write the code.\n\n```python\n{stub}\n```",
)

_TESTED = (
    "Write pytest tests for a function `{name}({parameters}) -> {result}` that {does}.",
    "Which edge cases would you test for a function that {does}? Write the tests in Python.",
    "Write unit tests with unittest for `{name}`. The function {does}.",
    "Give me 5 assert statements that check a Python function {name}, which {does}.",
)

# Python with one mistake, and what goes wrong.
_BUGS = r"""
def {f}({x}):
    total = 0
    for item in {x}:
        total = item
    return total
??? it should add everything up
---
def {f}({x}):
    for i in range(len({x}) + 1):
        print({x}[i])
??? IndexError: list index out of range
---
def {f}({x}=[]):
    {x}.append({n})
    return {x}
??? the list keeps growing between calls
---
def {f}({x}):
    if {x} = {n}:
        return True
    return False
??? SyntaxError: invalid syntax
---
def {f}({x}):
    result = []
    for item in {x}:
        if item > {n}:
            result.append(item)
        return result
??? it only looks at the first item
---
def {f}(n):
    return n * {f}(n - 1)
??? RecursionError: maximum recursion depth exceeded
---
{x} = {{'a': {n}, 'b': 2}}
for key in {x}:
    if {x}[key] > 1:
        del {x}[key]
??? RuntimeError: dictionary changed size during iteration
---
def {f}({x}):
    largest = 0
    for item in {x}:
        if item > largest:
            largest = item
    return largest
??? it gives 0 for [-{n}, -2]
---
age = input('Age? ')
if age > {n}:
    print('ok')
??? TypeError: '>' not supported between instances of 'str' and 'int'
---
def {f}({x}):
    return sum({x}) / len({x})
??? ZeroDivisionError when there is nothing in it
---
def {f}({x}):
    {x}.sort()
    return {x}[0]
??? the caller's list comes back in another order
---
def {f}({x}):
    {x} = {x}.sort()
    return {x}[:{n}]
??? TypeError: 'NoneType' object is not subscriptable
---
class Counter:
    count = 0
    def {f}():
        self.count += {n}
??? TypeError: takes 0 positional arguments but 1 was given
---
with open('{x}.txt') as file:
    first = file.read()
    second = file.read()
print(len(second))
??? it prints 0
---
def {f}({x}):
    while {x} > 0:
        print({x})
??? it never stops
---
def {f}({x}):
    return {x} % 2 == 1

print({f}('{n}'))
??? TypeError: not all arguments converted during string formatting
---
import json

def {f}({x}):
    return json.loads({x})['name']

{f}("{{'name': 'Ann'}}")
??? json.decoder.JSONDecodeError
---
funcs = [lambda: i * {n} for i in range(3)]
print([{x}() for {x} in funcs])
??? all three results are the same
""".strip("\n").split("\n---\n")
_BUG_ASKED = (
    "Fix this code:\n\n{code}\n\nProblem: {trouble}.",
    "What is wrong here? {trouble}\n\n```python\n{code}\n```",
    "My script does not work ({trouble}). Can you find the bug?\n{code}",
    "```python\n{code}\n```\nI get: {trouble}. Why, and how do I fix it?",
    "Find and correct the mistake. {trouble}.\n\n{code}",
    "{code}\n\nwhy does this go wrong? {trouble}",
)

_SNIPPETS = r"""
def {f}({x}):
    return [item * {n} for item in {x} if item % 2 == 0]
---
def {f}({x}):
    seen = set()
    for item in {x}:
        if item in seen:
            return item
        seen.add(item)
    return None
---
def {f}(n):
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a
---
from functools import lru_cache

@lru_cache(maxsize={n})
def {f}({x}):
    return {x} if {x} < 2 else {f}({x} - 1) + {f}({x} - 2)
---
def {f}({x}):
    if len({x}) <= 1:
        return {x}
    pivot = {x}[0]
    low = [v for v in {x}[1:] if v < pivot]
    high = [v for v in {x}[1:] if v >= pivot]
    return {f}(low) + [pivot] + {f}(high)
---
const {f} = ({x}) => {x}.filter(v => v > {n}).map(v => v * 2);
---
function {f}({x}) {{
  let result = '';
  for (let i = {x}.length - 1; i >= 0; i--) {{
    result += {x}[i];
  }}
  return result;
}}
---
for (int i = 0; i < {n}; i++) {{
    for (int j = 0; j <= i; j++) printf("*");
    printf("\n");
}}
---
with open('{x}.log') as file:
    errors = sum('ERROR' in line for line in file)
print(errors)
---
try:
    value = int({x})
except ValueError:
    value = {n}
finally:
    print('done')
---
class {F}:
    def __init__(self, size={n}):
        self.items = []
        self.size = size

    def push(self, item):
        if len(self.items) == self.size:
            self.items.pop(0)
        self.items.append(item)
---
def {f}(*args, **kwargs):
    print(args, kwargs)

{f}(1, {n}, {x}=3)
---
def {f}():
    for i in range({n}):
        yield i * i

print(list({f}()))
---
{x} = {{word: len(word) for word in ['red', 'green', 'blue']}}
print(sorted({x}, key={x}.get, reverse=True)[:{n}])
---
SELECT city, COUNT(*) FROM {x} GROUP BY city HAVING COUNT(*) > {n} ORDER BY 2 DESC;
---
find . -name '*.{x}' -mtime -{n} | xargs grep -l TODO
---
func {f}({x} []int) int {{
	best := {x}[0]
	for _, v := range {x} {{
		if v > best {{
			best = v
		}}
	}}
	return best
}}
---
public static int {f}(int[] {x}) {{
    int sum = 0;
    for (int v : {x}) {{
        sum += v > {n} ? v : 0;
    }}
    return sum;
}}
""".strip("\n").split("\n---\n")
_SNIPPET_ASKED = (
    "Explain this code:\n\n{code}",
    "What does the following do?\n\n```\n{code}\n```",
    "{code}\n\nExplain line by line.",
    "Refactor this so that it is easier to read:\n\n{code}",
    "Add comments and better names to this code.\n\n```\n{code}\n```",
    "Rewrite this in {language}:\n\n{code}",
    "What will this print or return, and why?\n{code}",
    "Review this code. What would you improve?\n\n{code}",
    "Can this be written in a shorter way?\n\n```\n{code}\n```",
    "Tell me the time and space complexity of this:\n{code}",
    "Write documentation for this code:\n\n{code}",
)
_FUNCTION_NAMES = (
    "process",
    "compute",
    "get_result",
    "check",
    "f",
    "helper",
    "calc",
    "run",
    "solve",
    "handle",
    "walk",
)
_VARIABLE_NAMES = (
    "items",
    "data",
    "numbers",
    "values",
    "xs",
    "scores",
    "users",
    "rows",
    "nums",
    "records",
    "prices",
)

# A table with its columns, and things to be known from such a table.
_TABLES = (
    ("orders", "id, customer_id, total, created_at", "total"),
    ("employees", "id, name, department, salary, hired_on", "salary"),
    ("products", "id, name, category, price, stock", "price"),
    ("books", "id, title, author, pages, year", "pages"),
    ("payments", "id, user_id, amount, paid_at, method", "amount"),
    ("students", "id, name, class, grade", "grade"),
    ("visits", "id, page, user_id, seconds, visited_at", "seconds"),
    ("movies", "id, title, genre, rating, year", "rating"),
    ("trips", "id, driver_id, distance_km, fare, started_at", "fare"),
    ("songs", "id, title, artist, plays, released", "plays"),
)
_SQL_WANTED = (
    "the {n} rows with the highest {column}",
    "the average {column} over all rows",
    "how many rows have a {column} above {n}",
    "the row with the second highest {column}",
    "the sum of {column} for each {group}, largest first",
    "every {group} with more than {n} rows",
    "rows whose {column} is above the average",
    "duplicate values of {group}",
    "the smallest and the largest {column} for each {group}",
    "the share of rows with a {column} below {n}, in percent",
    "an index that makes queries by {group} fast, and why it does",
    "the rank of each row by {column} within its {group}",
)
_SQL_ASKED = (
    "Table {table}({columns}). Write an SQL query for {wanted}.",
    "I have a table `{table}` with the columns {columns}. How do I get {wanted}?",
    "Write a PostgreSQL query: {wanted} (table {table}: {columns}).",
    "sqlite, table {table} ({columns}): {wanted}?",
    "CREATE TABLE {table} ({columns});\n-- query: {wanted}",
)

_SHELL = (
    "find all files larger than {n} MB in a folder",
    "count the lines of all .{kind} files below the current folder",
    "rename all .{kind} files to lower case",
    "delete .{kind} files older than {n} days",
    "show the {n} largest folders in my home",
    "replace a word in every .{kind} file",
    "list the {n} processes that use the most memory",
    "print column {n} of a file separated by commas",
    "watch a log file and show only lines with errors",
    "make a backup of a folder with today's date in its name",
    "run a command every {n} minutes",
    "download a file and retry up to {n} times",
    "find out which process listens on port {n}",
    "undo the last {n} commits in git but keep the changes",
    "copy a folder to another machine over ssh, without the .{kind} files",
    "compare two folders and list what differs",
    "extract all email addresses from a .{kind} file",
    "sort a file by its column {n}, as numbers",
)
_SHELL_ASKED = (
    "Write a bash command to {wanted}.",
    "How do I {wanted} in the terminal on Linux?",
    "Write a shell script that can {wanted}. Explain every flag.",
    "bash one-liner: {wanted}",
    "I want to {wanted}. Which command do I need?",
)

_PATTERNS = (
    *("an email address", "a phone number such as 555-0{n}", "a date like 2024-03-{n}", "a hex colour"),
    *("a time in 24 hour format", "an IPv4 address", "a number with up to {n} decimals", "a URL"),
    *("a word of at least {n} letters", "text in double quotes", "a line that starts with #", "an HTML tag"),
    *(
        "repeated words",
        "a postal code of {n} digits",
        "a version like 1.{n}.0",
        "a variable name in snake case",
    ),
    *("a floating point number", "a username of 3 to {n} characters", "a key=value pair", "blank lines"),
)
_PATTERN_ASKED = (
    "Write a regular expression that matches {wanted}.",
    "I need a regex for {wanted} in {language}. Show an example.",
    "Give me a regex which finds {wanted} and explain each part of it.",
    "How can I extract {wanted} from a long text with {language}?",
    "regex to validate {wanted}?",
)

_CLASSES = (
    *("a stack", "a queue", "a bank account", "a shopping cart", "an LRU cache", "a linked list", "a timer"),
    *("a deck of cards", "a binary search tree", "a parking lot", "a to-do list", "a library of books"),
    *(
        "a matrix",
        "a rate limiter",
        "a phone book",
        "a priority queue",
        "a graph",
        "an inventory",
        "a bounded buffer",
    ),
    *(
        "a tic-tac-toe board",
        "a calculator",
        "an event emitter",
        "a text editor with undo",
        "a vending machine",
    ),
)
_CLASS_ASKED = (
    "Write a {language} class for {wanted}. {condition}",
    "Implement {wanted} in {language}. {condition}",
    "Design {wanted} in {language}: which methods does it need? Write them.",
    "Model {wanted} with classes in {language}. {condition}",
    "Show a minimal example of {wanted} in {language}. {condition}",
)

_CONCEPTS = (
    *(
        "a pointer and a reference",
        "a list and a tuple",
        "a process and a thread",
        "GET and POST",
        "== and is",
    ),
    *(
        "an interface and an abstract class",
        "let and const",
        "INNER JOIN and LEFT JOIN",
        "git merge and git rebase",
    ),
    *("shallow and deep copies", "a stack and a heap", "unit and integration tests", "TCP and UDP"),
    *("a set and a dictionary", "compiled and interpreted languages", "an array and a linked list"),
    *("synchronous and asynchronous code", "overloading and overriding", "a class and an object"),
)
_CONCEPT_ASKED = (
    "What is the difference between {wanted}? Show code in {language}.",
    "Explain {wanted} to a {language} beginner with a short example.",
    "When should I use which: {wanted}? I mostly write {language}.",
)


def code_prompts(count: int, seed: int = 0) -> list[Prompt]:
    """`count` different prompts; the first ones are the same for any count. StartError above MOST."""
    if count > MOST:
        raise StartError(f"{count} prompts on code are more than there are of ours; {MOST} at most")
    chance = random.Random(seed)
    texts: dict[str, None] = {}
    while len(texts) < count:
        make = chance.choices(_KINDS, _WEIGHTS)[0]
        texts[make(chance)] = None
    return [Prompt(text, "code") for text in texts]


def _written(chance: random.Random) -> str:
    does, name, _, _ = _function(chance)
    language = chance.choice(_LANGUAGES)
    asked = chance.choice(_ASKED).format(language=language, name=name, does=does)
    return f"{asked} {chance.choice(_CONDITIONS)}".strip()


def _completed(chance: random.Random) -> str:
    does, name, parameters, result = _function(chance)
    doc = f"{does[0].upper()}{does[1:]}."
    stub = f'def {name}({parameters}) -> {result}:\n    """{doc}"""'
    if chance.random() < 0.3:
        untyped = ", ".join(one.split(":")[0].strip() for one in parameters.split(", ") if ":" in one)
        stub = f"def {name}({untyped}):\n    # {doc}"
    return chance.choice(_COMPLETED).format(stub=stub)


def _tested(chance: random.Random) -> str:
    does, name, parameters, result = _function(chance)
    return chance.choice(_TESTED).format(name=name, parameters=parameters, result=result, does=does)


def _fixed(chance: random.Random) -> str:
    code, trouble = chance.choice(_BUGS).split("\n??? ")
    names = _names(chance)
    return chance.choice(_BUG_ASKED).format(code=code.format(**names), trouble=trouble.format(**names))


def _explained(chance: random.Random) -> str:
    code = chance.choice(_SNIPPETS).format(**_names(chance))
    return chance.choice(_SNIPPET_ASKED).format(code=code, language=chance.choice(_LANGUAGES))


def _queried(chance: random.Random) -> str:
    table, columns, column = chance.choice(_TABLES)
    group = columns.split(", ")[chance.choice((1, 2))]
    wanted = chance.choice(_SQL_WANTED).format(n=_number(chance), column=column, group=group)
    return chance.choice(_SQL_ASKED).format(table=table, columns=columns, wanted=wanted)


def _commanded(chance: random.Random) -> str:
    kind = chance.choice(("txt", "log", "py", "jpg", "csv", "md", "json"))
    wanted = chance.choice(_SHELL).format(n=_number(chance), kind=kind)
    return chance.choice(_SHELL_ASKED).format(wanted=wanted)


def _matched(chance: random.Random) -> str:
    wanted = chance.choice(_PATTERNS).format(n=_number(chance))
    return chance.choice(_PATTERN_ASKED).format(wanted=wanted, language=chance.choice(_LANGUAGES))


def _modelled(chance: random.Random) -> str:
    parts = {"wanted": chance.choice(_CLASSES), "language": chance.choice(_LANGUAGES)}
    return chance.choice(_CLASS_ASKED).format(**parts, condition=chance.choice(_CONDITIONS)).strip()


def _compared(chance: random.Random) -> str:
    language = chance.choice(_LANGUAGES)
    return chance.choice(_CONCEPT_ASKED).format(wanted=chance.choice(_CONCEPTS), language=language)


_KINDS: tuple[Callable[[random.Random], str], ...] = (
    *(_written, _completed, _tested, _fixed, _explained),
    *(_queried, _commanded, _matched, _modelled, _compared),
)
_WEIGHTS = (30, 10, 5, 12, 14, 10, 6, 4, 6, 3)


def _function(chance: random.Random) -> list[str]:
    return [part.strip() for part in chance.choice(_FUNCTIONS.splitlines()).split(" | ")]


def _names(chance: random.Random) -> dict[str, str | int]:
    name = chance.choice(_FUNCTION_NAMES)
    return {
        "f": name,
        "F": name.title().replace("_", ""),
        "x": chance.choice(_VARIABLE_NAMES),
        "n": _number(chance),
    }


def _number(chance: random.Random) -> int:
    return chance.choice((2, 3, 4, 5, 7, 8, 10, 12, 20, 25, 30, 50, 100))
