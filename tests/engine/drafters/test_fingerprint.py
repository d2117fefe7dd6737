"""A target's fingerprint: the same in every format, another for another model."""

from __future__ import annotations

import torch

from engine.drafters.fingerprint import fingerprint


def test_the_number_format_does_not_matter_but_the_values_do() -> None:
    embedding = torch.randn(300, 16, generator=torch.Generator().manual_seed(4))
    known = fingerprint(embedding)
    assert fingerprint(embedding.bfloat16()) == known
    assert fingerprint(embedding.T.contiguous().T) == known
    assert fingerprint(embedding.flip(0)) != known
    assert fingerprint(1.01 * embedding) != known
