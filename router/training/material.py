"""What the classifier of task shapes learns from: our cases, texts composed of our phrases, and public data sets.

In: the files beside this one, and paths of data sets. Out: lists of `Case`. A composed text is an instruction with some
material, which comes with other instructions elsewhere: so it is the instruction that is learnt.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

HERE = Path(__file__).parent
HELD_OUT = "held_out"
WITH_MATERIAL = ("extraction", "classification", "summarization", "document_qa")
_DENSE = ("zh", "ja", "ko")
_SEPARATORS = ("\n\n", "\n", "\n\n", " ")

# Public data sets, by task or source: those of no clear counterpart among our shapes are left out. `family` is the same
# for sets cut from one original, so that leaving out a source leaves out all of it.
LLMROUTER = {
    "math": ("reasoning", "math"),
    "gsm8k": ("reasoning", "gsm8k"),
    "agentverse-mgsm": ("reasoning", "gsm8k"),
    "agentverse-logicgrid": ("reasoning", "logicgrid"),
    "gpqa": ("reasoning", "gpqa"),
    "mbpp": ("code_generation", "mbpp"),
    "human_eval": ("code_generation", "human_eval"),
    "natural_qa": ("short_chat", "trivia"),
    "trivia_qa": ("short_chat", "trivia"),
    "commonsense_qa": ("short_chat", "commonsense"),
}
PROMPTS = {
    "gsm8k-train": ("reasoning", "gsm8k"),
    "clinc150-train": ("short_chat", "clinc150"),
    "llmrouter-qa": ("short_chat", "trivia"),
    "livecodebench": ("code_generation", "livecodebench"),
    "mbpp-train": ("code_generation", "mbpp"),
}
# A third of CLINC150 are requests about the caller's own account, card, journey or job: support by our definition.
# Its lines do not say which, so those with such a word are left out.
_OWN_ACCOUNT = re.compile(
    r"\b(accounts?|cards?|banks?|banking|credit|checks?|routing|pin|balances?|transfer|transactions?|charges?|charged"
    r"|reservations?|flights?|booking|bills?|apr|visa|insurance|luggage|bags?|points|credits|vacation|pto|401k|paycheck"
    r"|payday|w2|orders?|benefits|direct deposit)\b"
)
LABELLED = "self-instruct"  # sources with this prefix have calls of every kind: `labels.tsv` says which
LETTERS = {
    **{"e": "extraction", "c": "classification", "s": "summarization", "d": "document_qa"},
    **{"k": "code_generation", "u": "support", "r": "reasoning", "t": "short_chat", "g": "general"},
}
_HOUSE_STYLE = re.compile(
    r"\s*(After careful thought, put you final answer in \\boxed\{\.\.\.\}\."
    r"|Please reason step by step\.)\s*$"
)


@dataclass(frozen=True, slots=True)
class Case:
    """One call: its text, its shape, and where it is from. `family` is empty for our own."""

    shape: str
    text: str
    system: str = ""
    language: str = "en"
    family: str = ""
    weight: float = 1.0


def learnt(folder: Path = HERE) -> list[str]:
    """The names of the files of `cases/`, but for those held out."""
    return sorted(path.stem for path in (folder / "cases").glob("*.jsonl") if path.stem != HELD_OUT)


def ours(name: str, folder: Path = HERE) -> list[Case]:
    """A file of `cases/`."""
    with (folder / "cases" / f"{name}.jsonl").open(encoding="utf-8") as lines:
        rows = map(json.loads, lines)
        return [Case(row["shape"], row["text"], row["system"] or "", row["language"]) for row in rows]


def llmrouter(path: Path) -> list[Case]:
    """LLMRouter's training data: `task_name` and `query` on each line."""
    return _public(path, "task_name", "query", LLMROUTER)


def prompts(path: Path) -> list[Case]:
    """A collection of prompts: `source` and `prompt` on each line. What is or may be support is left out."""
    cases = _public(path, "source", "prompt", PROMPTS)
    return [it for it in cases if not (it.family == "clinc150" and _OWN_ACCOUNT.search(it.text))]


def labelled(path: Path) -> list[Case]:
    """The calls of such a collection that we labelled one by one, to judge with only: never learnt from.

    Raises `ValueError` where the collection does not have as many as there are labels.
    """
    cases = []
    with path.open(encoding="utf-8") as lines:
        rows = [row for row in map(json.loads, lines) if row["source"].startswith(LABELLED)]
    for line in (HERE / "labels.tsv").read_text(encoding="utf-8").splitlines():
        source, letters = line.split("\t")
        texts = [row["prompt"] for row in rows if row["source"] == source]
        for text, letter in zip(texts, letters, strict=True):
            if letter in LETTERS:
                cases.append(Case(LETTERS[letter], text.strip(), family=LABELLED))
    return cases


def _public(path: Path, kind: str, text: str, shapes: dict[str, tuple[str, str]]) -> list[Case]:
    cases = {}
    with path.open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            if row[kind] in shapes:
                shape, family = shapes[row[kind]]
                asked = _HOUSE_STYLE.sub("", row[text]).strip()
                cases[asked] = Case(shape, asked, family=family)
    return list(cases.values())


def sampled(cases: Sequence[Case], most: int, weight: float, rng: Random) -> list[Case]:
    """At most so many of each family: a large set must not outweigh the others."""
    by_family = defaultdict(list)
    for case in cases:
        by_family[case.family].append(case)
    return [
        Case(case.shape, case.text, case.system, case.language, case.family, weight)
        for _, found in sorted(by_family.items())
        for case in rng.sample(found, min(most, len(found)))
    ]


def composed(cases: Sequence[Case], weight: float, rng: Random, folder: Path = HERE) -> list[Case]:
    """Texts made of the phrases and cues of `folder`, and of material taken from `cases`."""
    phrases = _phrases(folder)
    library = _Library(cases, phrases, weight, rng)
    made: list[Case] = []
    for language, sections in phrases.items():
        for section, lines in sections.items():
            for line in lines:
                made += library.with_phrase(language, section, line)
    for line in (folder / "cues.tsv").read_text(encoding="utf-8").splitlines():
        language, shape, cues = line.split("\t")
        made += library.with_cues(language, shape, cues.split("|"))
    return made


def _phrases(folder: Path) -> dict[str, dict[str, list[str]]]:
    """By language and section, which is a shape, or `system:` and a shape or `any`."""
    found: dict[str, dict[str, list[str]]] = {}
    for path in sorted((folder / "phrases").glob("*.txt")):
        sections = found[path.stem] = defaultdict(list)
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("["):
                section = line[1:-1]
            elif line:
                sections[section].append(line)
    return found


class _Library:
    """Material by language, long and short, and the ways to put it together with an instruction."""

    def __init__(
        self, cases: Sequence[Case], phrases: dict[str, dict[str, list[str]]], weight: float, rng: Random
    ) -> None:
        self.weight, self.rng, self.phrases = weight, rng, phrases
        self.long: dict[str, list[str]] = defaultdict(list)
        self.short: dict[str, list[str]] = defaultdict(list)
        for case in cases:
            least = 60 if case.language in _DENSE else 150
            if case.shape in ("summarization", "document_qa", "extraction"):
                self.long[case.language] += [it for it in case.text.split("\n") if len(it) > least]
            elif case.shape in ("support", "general", "short_chat") and len(case.text) < 400:
                self.short[case.language].append(case.text)

    def with_phrase(self, language: str, section: str, phrase: str) -> Iterator[Case]:
        rng, (kind, _, of) = self.rng, section.partition(":")
        if of in WITH_MATERIAL and of != "document_qa":
            for _ in range(8):
                is_short = of != "summarization" and rng.random() < 0.5
                yield self._case(of, language, self._material(language, is_short), phrase)
        elif kind in WITH_MATERIAL:
            for _ in range(4):
                yield self._about_material(kind, language, self._as_typed(phrase))
        elif not of:
            for _ in range(2):
                yield self._case(kind, language, self._as_typed(phrase), self._system(language, kind))

    def with_cues(self, language: str, shape: str, cues: list[str]) -> Iterator[Case]:
        rng = self.rng
        for _ in range(3 * len(cues) // 2):
            count = min(rng.choice((1, 2, 2, 3)), len(cues))
            text, system = rng.choice((" ", ", ", " ")).join(rng.sample(cues, count)), ""
            if shape in WITH_MATERIAL and rng.random() < 0.8:
                material = self._material(language)
                text = f"{text}\n\n{material}" if rng.random() < 0.75 else f"{material}\n\n{text}"
            elif rng.random() < 0.3:
                system = self._system(language, "any")
            yield self._case(shape, language, text, system)

    def _about_material(self, shape: str, language: str, phrase: str) -> Case:
        rng = self.rng
        material = self._material(language, shape == "classification" and rng.random() < 0.6)
        at, separator = rng.random(), rng.choice(_SEPARATORS)
        if at < 0.07 and shape != "document_qa":
            return self._case(shape, language, material, phrase)
        text = material + separator + phrase if at > 0.72 else phrase + separator + material
        return self._case(shape, language, text, self._system(language, "any") if rng.random() < 0.25 else "")

    def _material(self, language: str, is_short: bool = False) -> str:
        found = self.short[language] if is_short else self.long[language]
        return self.rng.choice(found or self.long[language] or self.long["en"])

    def _system(self, language: str, shape: str) -> str:
        """One that fits the shape, one that fits any, or mostly none."""
        draw = self.rng.random()
        fitting = self.phrases[language].get(f"system:{shape}", []) if draw < 0.2 else []
        if not fitting and draw < 0.4:
            fitting = self.phrases[language]["system:any"] + self.phrases["en"]["system:any"]
        return self.rng.choice(fitting) if fitting else ""

    def _as_typed(self, phrase: str) -> str:
        return phrase.lower().rstrip(".?!。") if self.rng.random() < 0.25 else phrase

    def _case(self, shape: str, language: str, text: str, system: str) -> Case:
        return Case(shape, text, system, language, weight=self.weight)
