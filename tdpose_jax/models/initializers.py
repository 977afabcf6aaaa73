"""Initial values, drawn on the host.

The distributions are the usual ones. They are drawn by numpy where the key is concrete
(`model.lazy_init`), because compiling one random operation per shape of kernel costs a
small HRNet 20 s of its start; under tracing they fall back to jax.random.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def zeros(key, shape, dtype=jnp.float32):
    """Zeros, as a host constant."""
    del key
    return np.zeros(shape, dtype)


def ones(key, shape, dtype=jnp.float32):
    """Ones, as a host constant."""
    del key
    return np.ones(shape, dtype)


def _host_normal(key, shape):
    words = np.asarray(jax.random.key_data(key), np.uint64)
    seed = int(words[0]) << 32 | int(words[-1])
    return np.random.Generator(np.random.Philox(key=seed)).standard_normal(
        shape, np.float32
    )


def normal(stddev: float):
    """Gaussian of a given standard deviation."""

    def init(key, shape, dtype=jnp.float32):
        if isinstance(key, jax.core.Tracer):
            return nn.initializers.normal(stddev)(key, shape, dtype)
        return (stddev * _host_normal(key, shape)).astype(dtype)

    return init


def variance_scaling(scale: float, mode: str):
    """Gaussian of variance scale / fan; fan is that of an HWIO or IO kernel."""

    def init(key, shape, dtype=jnp.float32):
        receptive = int(np.prod(shape[:-2]))
        fan = receptive * (shape[-2] if mode == "fan_in" else shape[-1])
        return normal(float(np.sqrt(scale / fan)))(key, shape, dtype)

    return init


def silent(init, count: int):
    """`init`, but the first `count` input channels start without effect."""

    def silenced(key, shape, dtype=jnp.float32):
        keep = (np.arange(shape[-2]) >= count).astype(np.float32)[:, None]
        return (init(key, shape, dtype) * keep).astype(dtype)

    return silenced


def keep_last(key, shape, dtype=jnp.float32):
    """A 1x1 kernel that hands on its last input channels and is deaf to the others."""
    del key
    kernel = np.zeros(shape, dtype)
    kernel[..., -shape[-1] :, :] = np.eye(shape[-1])
    return kernel


# ReLU networks (He et al., 2015) with fan-out scaling, as ResNets use it.
he_normal = variance_scaling(2.0, "fan_out")
lecun_normal = variance_scaling(1.0, "fan_in")
