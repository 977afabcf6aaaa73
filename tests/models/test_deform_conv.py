"""Modulated deformable convolution against a plain loop and against known limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tdpose_jax.models.convolution import conv2d
from tdpose_jax.models.deform_conv import ModulatedDeformConv, modulated_deform_conv


def loop(x, offsets, modulation, kernel, dilation):
    """The operator's definition, one output value at a time."""
    b, h, w, c = x.shape
    k, groups = kernel.shape[0], offsets.shape[3]
    out = np.zeros((b, h, w, kernel.shape[-1]))

    def at(n, y, x_, channel):
        return x[n, y, x_, channel] if 0 <= y < h and 0 <= x_ < w else 0.0

    for n, i, j, ch, tap in np.ndindex(b, h, w, c, k * k):
        g = ch * groups // c
        dy, dx = offsets[n, i, j, g, tap]
        y = i + dilation * (tap // k - k // 2) + dy
        x_ = j + dilation * (tap % k - k // 2) + dx
        y0, x0 = int(np.floor(y)), int(np.floor(x_))
        fy, fx = y - y0, x_ - x0
        value = (
            (1 - fy) * (1 - fx) * at(n, y0, x0, ch)
            + (1 - fy) * fx * at(n, y0, x0 + 1, ch)
            + fy * (1 - fx) * at(n, y0 + 1, x0, ch)
            + fy * fx * at(n, y0 + 1, x0 + 1, ch)
        )
        weight = modulation[n, i, j, g, tap] * kernel[tap // k, tap % k, ch]
        out[n, i, j] += value * weight
    return out


def inputs(scale, seed=0, b=1, h=5, w=6, c=4, groups=2, d=3):
    rng = np.random.default_rng(seed)
    return (
        rng.standard_normal((b, h, w, c)),
        rng.standard_normal((b, h, w, groups, 9, 2)) * scale,
        rng.uniform(0, 1, (b, h, w, groups, 9)),
        rng.standard_normal((3, 3, c, d)),
    )


@pytest.mark.parametrize("dilation,scale", [(1, 0.5), (3, 2.0), (1, 30.0)])
def test_equals_the_definition(dilation, scale):
    args = inputs(scale)
    ours = modulated_deform_conv(*(jnp.asarray(a, jnp.float32) for a in args), dilation)
    np.testing.assert_allclose(ours, loop(*args, dilation), atol=2e-5)


@pytest.mark.parametrize("dilation", [1, 3])
def test_zero_offsets_are_a_dilated_convolution(dilation):
    x, offsets, modulation, kernel = (jnp.asarray(a) for a in inputs(1.0))
    ours = modulated_deform_conv(
        x, 0 * offsets, jnp.ones_like(modulation), kernel, dilation
    )
    np.testing.assert_allclose(ours, conv2d(x, kernel, 1, dilation), atol=1e-5)


def test_layer_starts_as_half_a_dilated_convolution():
    """Zero-initialised predictions: no displacement, modulation sigmoid(0) = 1/2."""
    x = jnp.asarray(inputs(1.0)[0], jnp.float32)
    layer = ModulatedDeformConv(features=3, offset_groups=2, dilation=3)
    variables = layer.init(jax.random.key(0), x)
    y, offsets, modulation = layer.apply(variables, x)
    assert not np.asarray(offsets).any() and (np.asarray(modulation) == 0.5).all()
    expected = 0.5 * conv2d(x, variables["params"]["kernel"], 1, 3)
    np.testing.assert_allclose(y, expected, atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0])
def test_gradients_equal_finite_differences_of_the_definition(scale):
    """Right derivatives; at scale 0 offsets are integers, where training starts."""
    args = inputs(scale, h=3, w=3, c=2, groups=1, d=1)
    direction = np.random.default_rng(1).standard_normal((1, 3, 3, 1))

    def ours(*args):
        return (modulated_deform_conv(*args, 1) * direction).sum()

    grads = jax.grad(ours, argnums=(0, 1, 2, 3))(
        *(jnp.asarray(a, jnp.float32) for a in args)
    )
    step = 1e-6
    rng = np.random.default_rng(2)
    for which, grad in enumerate(grads):
        for _ in range(4):
            index = tuple(rng.integers(s) for s in args[which].shape)
            shifted = [a.copy() for a in args]
            shifted[which][index] += step
            expected = ((loop(*shifted, 1) - loop(*args, 1)) * direction).sum() / step
            assert float(grad[index]) == pytest.approx(expected, abs=2e-4)


def test_bfloat16_keeps_sub_pixel_positions():
    args = [jnp.asarray(a, jnp.float32) for a in inputs(0.5)]
    exact = modulated_deform_conv(*args, 1)
    x, offsets, modulation, kernel = args
    half = modulated_deform_conv(x.astype(jnp.bfloat16), offsets, modulation, kernel, 1)
    assert half.dtype == jnp.bfloat16
    scale = float(jnp.abs(exact).max())
    np.testing.assert_allclose(half.astype(jnp.float32), exact, atol=0.03 * scale)
