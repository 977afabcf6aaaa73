"""Sums over all axes but the channels, forwards and backwards, for BatchNorm.

TPU and GPU take XLA's reductions. XLA's CPU backend reduces an array of this shape in
three passes over windows; there we sum by matrix products with ones, row by row of the
picture and then over rows, which keeps the rounding of a tree.
"""

import functools

import jax
import jax.numpy as jnp


def channel_sums(x):
    """[..., C] float32 -> [C]."""
    if jax.default_backend() != "cpu" or x.ndim < 3:
        return x.sum(tuple(range(x.ndim - 1)))
    return _cpu_sums(x, x.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _cpu_sums(x, shape):
    del shape
    rows = x.reshape(-1, *x.shape[-2:])
    ones = jnp.ones(rows.shape[:2], x.dtype)
    by_row = jax.lax.dot_general(ones, rows, (((1,), (1,)), ((0,), (0,))))
    return ones[:, 0] @ by_row


def _cpu_sums_forward(x, shape):
    return _cpu_sums(x, shape), None


def _cpu_sums_backward(shape, _, gradient):
    return (jnp.broadcast_to(gradient, shape),)


_cpu_sums.defvjp(_cpu_sums_forward, _cpu_sums_backward)


def scale_and_shift(x, gain, shift):
    """x * gain + shift for [..., C] and [C] each, in the type of `x`."""
    if jax.default_backend() != "cpu":
        return x * gain.astype(x.dtype) + shift.astype(x.dtype)
    return _cpu_scale_and_shift(x, gain, shift)


@jax.custom_vjp
def _cpu_scale_and_shift(x, gain, shift):
    return x * gain.astype(x.dtype) + shift.astype(x.dtype)


def _cpu_scale_forward(x, gain, shift):
    return _cpu_scale_and_shift(x, gain, shift), (x, gain)


def _cpu_scale_backward(saved, gradient):
    x, gain = saved
    gradient32 = gradient.astype(jnp.float32)
    return (
        gradient * gain.astype(gradient.dtype),
        channel_sums(gradient32 * x.astype(jnp.float32)),
        channel_sums(gradient32),
    )


_cpu_scale_and_shift.defvjp(_cpu_scale_forward, _cpu_scale_backward)
