from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from engine.linear import (
    TILE_ROWS,
    PackedHead,
    PackedLinear,
    PackedSwiGLU,
    PlainHead,
    PlainLinear,
    PlainSwiGLU,
    has_fast_bfloat16,
    make_head,
    make_linear,
    make_swiglu,
)

needs_bfloat16 = pytest.mark.skipif(not has_fast_bfloat16(), reason="no bfloat16 instructions")


def noise(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_plain_layers_compute_their_definitions() -> None:
    x, weight, residual = noise(3, 8, seed=1), noise(5, 8, seed=2), noise(3, 5, seed=3)
    gate, up = noise(6, 8, seed=4), noise(6, 8, seed=5)
    assert torch.allclose(PlainLinear(weight).add_to(residual.clone(), x), residual + x @ weight.T, atol=1e-5)
    assert torch.allclose(PlainSwiGLU(gate, up)(x), F.silu(x @ gate.T) * (x @ up.T), atol=1e-5)
    assert torch.equal(PlainHead(weight)(x), PlainLinear(weight)(x))


@needs_bfloat16
@torch.inference_mode()
@pytest.mark.parametrize("rows", [1, 2, 16, 65])
def test_packed_layers_agree_with_plain_ones(rows: int) -> None:
    x, weight, up = (noise(size, 64, seed=size).bfloat16() for size in (rows, 96, 97))
    up = up[:96]
    residual = noise(rows, 96, seed=7).bfloat16()
    close = {"atol": 0.15, "rtol": 0.02}
    assert torch.allclose(PackedLinear(weight)(x), PlainLinear(weight)(x), **close)
    assert torch.allclose(
        PackedLinear(weight).add_to(residual, x), residual + PlainLinear(weight)(x), **close
    )
    ours, theirs = PackedSwiGLU(weight, up)(x).float(), PlainSwiGLU(weight, up)(x).float()
    assert (ours - theirs).square().mean().sqrt() < 0.01 * theirs.square().mean().sqrt()


@needs_bfloat16
@torch.inference_mode()
def test_the_packed_head_is_exact_where_it_decides() -> None:
    x, weight = noise(6, 64, seed=1).bfloat16(), noise(500, 64, seed=2).bfloat16()
    exact = x.double() @ weight.double().T
    ours = PackedHead(weight)(x)
    assert ours.dtype == torch.float32
    leading = exact.topk(16).indices
    assert (ours.gather(1, leading) - exact.gather(1, leading)).abs().max() < 1e-4
    assert torch.equal(ours.argmax(-1), exact.argmax(-1))
    assert (ours - exact).abs().max() < 0.2


@torch.inference_mode()
@pytest.mark.parametrize("depth", [48, 576, 2048, 8193, 14336])
def test_no_bit_of_a_bfloat16_row_depends_on_how_many_there_are(depth: int) -> None:
    """The two halves of each sum cancel out: what is left shows in which order it was added up."""
    row, some = noise(1, depth // 2, seed=1) ** 3, noise(96, depth // 2, seed=2) ** 3
    weight = F.pad(torch.cat([some, some.flip(1)], dim=1), (0, depth % 2)).bfloat16()
    rows = F.pad(torch.cat([row, -row.flip(1)], dim=1), (0, depth % 2)).bfloat16().repeat(TILE_ROWS, 1)
    linear, nothing = make_linear(weight), torch.zeros(TILE_ROWS, 96, dtype=torch.bfloat16)
    products: list[Callable[[torch.Tensor], torch.Tensor]] = [
        linear,
        lambda x: linear.add_to(nothing[: len(x)].clone(), x),
        make_swiglu(weight, weight),
        make_head(weight),
    ]
    for product in products:
        expected = product(rows)[:1]
        assert expected.any()
        for count in range(1, TILE_ROWS + 1):
            assert torch.equal(product(rows[:count]), expected.expand(count, -1))
