"""The CPU convolution gives what XLA's gives, forwards and backwards."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tdpose_jax.models import convolution
from tdpose_jax.models.blocks import BasicBlock


@pytest.mark.parametrize(
    "k,stride,dilation,shape",
    [
        (3, 1, 1, (3, 9, 7, 4)),
        (3, 2, 1, (3, 9, 8, 4)),
        (3, 1, 3, (2, 8, 8, 4)),
        (1, 1, 1, (2, 5, 6, 4)),
        (3, 1, 1, (6, 96, 72, 48)),  # several chunks
    ],
)
def test_equals_xla(k, stride, dilation, shape):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal(shape), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((k, k, shape[-1], 5)), jnp.float32)

    def value_and_gradients(conv):
        def loss(x, kernel):
            y = conv(x, kernel, stride, dilation)
            return jnp.sin(y).mean(), y

        (_, y), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(x, kernel)
        return y, *grads

    ours = value_and_gradients(convolution.conv2d)
    xla = value_and_gradients(convolution._xla_conv)
    for a, b in zip(ours, xla, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * float(jnp.abs(b).max()))


def test_residual_chains_are_summed_once():
    """Each block's sum is computed once, forwards and backwards."""

    class Chain(nn.Module):
        @nn.compact
        def __call__(self, x):
            for i in range(8):
                x = BasicBlock(4, name=f"block{i}")(x, False)
            return x

    x = jnp.ones((1, 8, 8, 4))
    variables = Chain().init(jax.random.key(0), x)

    def loss(variables, x):
        return jnp.square(Chain().apply(variables, x)).sum()

    hlo = jax.jit(jax.grad(loss)).lower(variables, x).compile().as_text()
    signatures = re.findall(r"^%fused_computation.*\((.*)\) ->", hlo, re.MULTILINE)
    # Two outputs of convolutions, the block's input, gains, and gradients of these.
    assert signatures and max(s.count(":") for s in signatures) <= 12


def test_accelerators_keep_their_own(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    x, kernel = jnp.zeros((1, 8, 8, 3)), jnp.zeros((3, 3, 3, 4))
    jaxpr = str(jax.make_jaxpr(convolution.conv2d)(x, kernel))
    assert "conv_general_dilated" in jaxpr and "custom_vjp" not in jaxpr
    assert convolution.keep(x) is x
