"""The shape of a call from its text: a linear model over words, their beginnings and pairs of them.

What a caller wants stands in the first line, the last line and the system prompt; what lies between is material.
So these are told apart, and of any text only a bounded piece is read.
In: the system prompt and the user's last message. Out: a shape and how likely it is right, or `general` where that
is too little or no word is known. Pure; the weights are a file beside this one, made by `router/training/train.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import pairwise
from math import exp, sqrt
from zlib import decompress

WEIGHTS = "shape_weights.tsv.zlib"
ABSTAINED = "general"
FORMAT = "sparkgate-shapes-1"

_SHORT = 200  # a text up to here is all instruction
_FIRST, _LAST, _BODY, _SYSTEM = 240, 200, 240, 300  # characters read of each zone
_STEM = 5
_MARKS = "\"'`.,;:!?()[]{}<>«»„“”‚‘’¿¡…、。「」『』*_#–—/\\|=+~-،؟।\uff0c\uff01\uff1f\uff1a\uff1b\uff08\uff09"
_QUOTED = re.compile('["“„«「][^"”“»」]{12,}(?:["”“»」]|$)')
_UNSPACED = re.compile("[\u0e00-\u0eff\u2e80-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff]")
_ASKING = ("?", "\uff1f", "\u061f")
_SIGNS = '?{}[];=<>|$\\@"`:%#*&'

_LANE_BITS = 20
_LANE = (1 << _LANE_BITS) - 1
_COUNT_BITS = 10  # the lowest lane holds two counts: of all features found, and of those that are words
_COUNT = (1 << _COUNT_BITS) - 1
_LEVELS = 45  # a weight is one of -45 … 45, written as one printable ASCII character
_ZERO = 78  # the character that stands for no weight: "N"
# A weight's character as its lane in hex, moved up so that it is never negative.
_LANES = {_ZERO + level: f"{_LEVELS + level:05x}" for level in range(-_LEVELS, _LEVELS + 1)}


@dataclass(frozen=True, slots=True)
class Inferred:
    """A shape and the probability that it is right; `general` below the model's threshold."""

    shape: str
    confidence: float


@dataclass(frozen=True, slots=True)
class ShapeModel:
    """Weights by feature. All shapes' weights of a feature are lanes of one integer, so one sum adds them all."""

    shapes: tuple[str, ...]
    bias: tuple[float, ...]
    step: float  # what one level of a weight is worth
    threshold: float
    table: dict[str, int]

    def infer(self, text: str, system: str = "") -> Inferred:
        """The work is bounded whatever the length. Nothing but spaces, or words never met, has no shape."""
        if not text or text.isspace():
            return Inferred(ABSTAINED, 0.0)
        found, total = self._sum(text, system)
        if not (total >> _COUNT_BITS) & _COUNT:
            return Inferred(ABSTAINED, 0.0)
        scores = self._scores(found, total)
        most = max(scores)
        confidence = 1.0 / sum([exp(score - most) for score in scores])
        shape = self.shapes[scores.index(most)]
        return Inferred(shape if confidence >= self.threshold else ABSTAINED, confidence)

    def scores(self, text: str, system: str = "") -> list[float]:
        """By shape, such that their softmax are the probabilities."""
        return self._scores(*self._sum(text, system))

    def _sum(self, text: str, system: str) -> tuple[int, int]:
        """How many features the text has, and what the table holds for them."""
        found = features(text, system)
        return len(found), sum(filter(None, map(self.table.get, found)))

    def _scores(self, found: int, total: int) -> list[float]:
        scale = self.step / sqrt(found)
        known = total & _COUNT
        scores = []
        for bias in self.bias:
            total >>= _LANE_BITS
            scores.append(bias + scale * ((total & _LANE) - _LEVELS * known))
        return scores


@cache
def shipped() -> ShapeModel:
    """The model that comes with this package."""
    return parsed(decompress(files("router").joinpath(WEIGHTS).read_bytes()).decode())


def parsed(written: str) -> ShapeModel:
    """From what `written` gives. Raises `ValueError` for anything else."""
    head, *lines = written.rstrip("\n").split("\n")
    name, shapes, bias, step, threshold = (head.split("\t") + [""] * 5)[:5]
    if name != FORMAT:
        raise ValueError(f"the weights of shapes begin with '{name[:40]}', not '{FORMAT}'")
    table = {}
    for line in lines:
        feature, _, levels = line.rpartition("\t")
        counts = "00001" if feature[0] == "<" else "00401"
        table[feature] = int(levels[::-1].translate(_LANES) + counts, 16)
    return ShapeModel(
        tuple(shapes.split()),
        tuple(map(float, bias.split())),
        float(step),
        float(threshold),
        table,
    )


def written(
    model_shapes: tuple[str, ...], bias: list[float], threshold: float, weights: dict[str, list[float]]
) -> str:
    """As the file holds it: a line of settings, then a feature and a character a shape on each line."""
    step = max((abs(weight) for row in weights.values() for weight in row), default=1.0) / _LEVELS
    head = (
        FORMAT,
        " ".join(model_shapes),
        " ".join(f"{it:.5f}" for it in bias),
        f"{step:.8f}",
        f"{threshold:.3f}",
    )
    lines = ["\t".join(head)]
    for feature, row in sorted(weights.items()):
        levels = [round(weight / step) for weight in row]
        if any(levels):
            lines.append(feature + "\t" + "".join(chr(_ZERO + level) for level in levels))
    return "\n".join(lines) + "\n"


def features(text: str, system: str = "") -> set[str]:
    """What the model looks at; at most a few hundred, of bounded pieces of the text."""
    first, last, body = _zones(text)
    wanted = _words(first)
    stems = [word[:_STEM] for word in wanted]
    end = _words(last)
    ends = [word[:_STEM] for word in end]
    found = {*wanted, *stems, *end, *ends}
    found.update([f"{one} {two}" for one, two in pairwise(stems)])
    found.update([f"{one} {two}" for one, two in pairwise(ends)])
    if stems:
        found.update(["^" + stem for stem in stems[:3]])
        found.add("^" + " ".join(stems[:2]))
    if ends:
        found.update(["$" + stem for stem in ends[-3:]])
    if body:
        found.update(["b:" + word[:_STEM] for word in _words(body)])
    if system:
        told = [word[:_STEM] for word in _words(system[:_SYSTEM].lower())]
        found.update(["s:" + stem for stem in told])
        found.update([f"s:{one} {two}" for one, two in pairwise(told)])
    dense = not (first.isascii() and last.isascii()) and (_UNSPACED.findall(first), _UNSPACED.findall(last))
    if dense:
        for letters in dense:
            found.update(map("{}{}".format, letters, letters[1:]))
            found.update(map("{}{}{}".format, letters, letters[1:], letters[2:]))
    if system and not system.isascii():
        letters = _UNSPACED.findall(system[:_SYSTEM])
        found.update(map("s:{}{}".format, letters, letters[1:]))
    found.update(_form(text, first, body, system))
    return found


def _zones(text: str) -> tuple[str, str, str]:
    """The first line, the last line, and some of what lies between; quotations are between too. In lower case."""
    if len(text) <= _SHORT and "\n" not in text:
        bare = _QUOTED.sub(" ", text) if len(text) > 40 else text
        return bare.lower(), "", "" if len(bare) == len(text) else text.lower()
    head, tail = text[: _FIRST + _BODY].lstrip(), text[-_LAST - _BODY :].rstrip()
    first, _, rest = head.partition("\n")
    last = tail.rpartition("\n")[2] if rest else text[max(_FIRST, len(text) - _LAST) :]
    if len(first) > _FIRST:
        first, rest = first[:_FIRST], first[_FIRST:] + rest
    last = last[-_LAST:]
    return (
        _QUOTED.sub(" ", first).lower(),
        _QUOTED.sub(" ", last).lower(),
        rest[:_BODY].lower(),
    )


def _words(text: str) -> list[str]:
    """Without the marks around them; what an apostrophe joins is two words."""
    pieces = text.replace("'", "' ").replace("’", "’ ").split()
    return [word for piece in pieces if (word := piece if piece.isalnum() else piece.strip(_MARKS))]


def _form(text: str, first: str, body: str, system: str) -> list[str]:
    """How it is built: length, lines, signs. Buckets double, so that no exact length is learnt."""
    piece = text if len(text) <= 1_200 else text[:800] + text[-400:]
    raw = piece.encode("utf-8", "surrogatepass")
    width = len(text) if text.isascii() else len(text) + 2 * len(_UNSPACED.findall(piece))
    found = [
        f"<length {(width * width).bit_length()}",
        f"<lines {piece.count(chr(10)).bit_length()}",
        f"<digits {(len(raw) - len(raw.translate(None, b'0123456789'))).bit_length()}",
        f"<code {(len(raw) - len(raw.translate(None, b'{}();=<>_'))).bit_length()}",
        "<system" if system else "<no system",
    ]
    found += ["<" + sign for sign in _SIGNS if sign in piece]
    if "\n\n" in piece:
        found.append("<paragraphs")
    if piece.rstrip()[-1:] in _ASKING:
        found.append("<question at the end")
    if "?" in first or "\uff1f" in first or "\u061f" in first:
        found.append("<question first" if body else "<question")
    return found
