"""BatchNorm's sums on CPU are XLA's, forwards and backwards, and as accurate."""

import jax
import jax.numpy as jnp
import numpy as np

from tdpose_jax.models import channel_sums as cs
from tdpose_jax.models.blocks import BatchNorm


def test_sums_are_accurate():
    """Against float64, over as many values as a batch of paper-size features has."""
    x = 1 + np.random.default_rng(0).standard_normal((4, 96, 72, 8), np.float32)
    exact = x.astype(np.float64).sum((0, 1, 2))
    np.testing.assert_allclose(jax.jit(cs.channel_sums)(x), exact, rtol=2e-6)


def test_batch_norm_and_its_gradients_are_the_plain_ones():
    rng = np.random.default_rng(0)
    x = jnp.asarray(1 + 2 * rng.standard_normal((3, 6, 5, 4)), jnp.float32)
    ours = BatchNorm()
    variables = ours.init(jax.random.key(0), x, True)
    params = jax.tree.map(lambda p: p + 0.3, variables["params"])

    def plain(params, x):
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        y = (x - mean) / jnp.sqrt(var + 1e-5) * params["scale"] + params["bias"]
        return jnp.sin(y).sum()

    def with_sums(params, x):
        y, _ = ours.apply(
            {**variables, "params": params}, x, True, mutable=["batch_stats"]
        )
        return jnp.sin(y).sum()

    expected = jax.value_and_grad(plain, (0, 1))(params, x)
    found = jax.jit(jax.value_and_grad(with_sums, (0, 1)))(params, x)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=3e-6 * float(jnp.abs(b).max()))


def test_bfloat16_is_summed_in_float32():
    """Gradients of gain and shift do not lose what bfloat16 cannot count."""
    x = jnp.full((2, 32, 32, 3), 1.0, jnp.bfloat16)

    def loss(gain, shift):
        return cs.scale_and_shift(x, gain, shift).astype(jnp.float32).sum()

    gain, shift = jax.grad(loss, (0, 1))(jnp.ones(3), jnp.zeros(3))
    assert gain.dtype == jnp.float32
    np.testing.assert_allclose([gain, shift], 2048.0)


def test_accelerators_keep_their_own(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    x = jnp.ones((2, 4, 4, 3))
    text = str(jax.make_jaxpr(cs.channel_sums)(x))
    text += str(jax.make_jaxpr(cs.scale_and_shift)(x, x[0, 0, 0], x[0, 0, 0]))
    assert "reduce_sum" in text and "custom_vjp" not in text
