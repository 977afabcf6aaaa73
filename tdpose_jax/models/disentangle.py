r"""Representation disentanglement module (Feng et al., CVPR 2023, figure 2).

$$ M_u = \sigma(\mathrm{MLP}_u(\mathrm{GAP}(M))) \odot M, \qquad
M_n = \sigma(\mathrm{MLP}_n(\mathrm{GAP}(M))) \odot M $$
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from tdpose_jax.models import initializers as init


class ChannelGate(nn.Module):
    """sigmoid(MLP(GAP(x))): one weight per channel, C -> C / reduction -> C [ours]."""

    reduction: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B 1 1 C"]:
        """Feature -> one weight per channel, 0..1."""
        channels = x.shape[-1]
        pooled = x.astype(jnp.float32).mean((1, 2)).astype(self.dtype)
        common = dict(dtype=self.dtype, kernel_init=init.lecun_normal)
        squeezed = max(channels // self.reduction, 1)
        hidden = nn.relu(nn.Dense(squeezed, **common, name="squeeze")(pooled))
        gate = nn.sigmoid(nn.Dense(channels, **common, name="expand")(hidden))
        return gate[:, None, None, :]


class Disentangle(nn.Module):
    """Splits motion M into useful M_u = a_u * M and noisy M_n = a_n * M."""

    gate_reduction: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, motion: Float[Array, "B h w C"]) -> dict:
        """Returns both gates and both constituents, by the names of `out`."""
        useful = ChannelGate(self.gate_reduction, self.dtype, name="useful")(motion)
        noisy = ChannelGate(self.gate_reduction, self.dtype, name="noisy")(motion)
        return {
            "useful_gate": useful,
            "noisy_gate": noisy,
            "motion_useful": useful * motion,
            "motion_noisy": noisy * motion,
        }
