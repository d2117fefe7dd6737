"""Which target a drafter was trained for: a hash of the target's embedding, in the drafter's config.json.

It is the same in every number format. A model that was trained further with its embedding frozen counts as
the same one: the drafter fits it, if less well.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

KEY = "target_embedding"
_EVERY = 64  # rows; all would take a tenth of a second


def fingerprint(embedding: Tensor) -> str:
    """Of a target's embedding [V, D]."""
    rows = embedding.detach()[::_EVERY].to("cpu", torch.bfloat16).contiguous()
    return hashlib.sha256(rows.view(torch.int16).numpy().tobytes()).hexdigest()
