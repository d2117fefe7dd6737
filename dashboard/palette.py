"""One colour per target, the same in every chart, table and chip.

In: target names. Out: CSS colours. The hues differ in lightness as well as in hue, so that they stay apart
under the common colour-vision deficiencies, and each has contrast on the light and on the dark background.
"""

from __future__ import annotations

from collections.abc import Iterable

# After Okabe and Ito's set, its yellow and black left out (unreadable on white, on black), the blue lifted.
_COLOURS = ("#3584d6", "#e08e0b", "#00a37a", "#c76aa0", "#d5541c", "#4fb3e8", "#8a74d1", "#97a032")
NOBODY = "#8b949e"

BAD = "#d93a3a"  # the limits drawn in charts; they have a label too, as nothing is told by colour alone


def colours(configured: Iterable[str], seen: Iterable[str]) -> dict[str, str]:
    """Colours by name: configured targets first in order of name, then others that the ledger still holds.

    The order does not depend on traffic, so a target keeps its colour while the configuration stands. Names
    in parentheses are not targets and are grey.
    """
    known = sorted(set(configured))
    names = [*known, *sorted({name for name in seen if not name.startswith("(")} - set(known))]
    table = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(names)}
    return table | {name: NOBODY for name in seen if name.startswith("(")}
