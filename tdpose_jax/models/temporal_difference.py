r"""Multi-stage temporal difference encoder (Feng et al., CVPR 2023, figure 2).

With the feature $F^j_k$ of frame $k$ after stage $j$ of the backbone:

$$ S^j = \left[ F^j_{k+1} - F^j_k \right]_k, \quad
G^j = \mathrm{DCN}(\mathrm{Blocks}^j(S^j)), \quad
M^1 = \mathrm{Conv}(G^1), \quad M^j = \mathrm{Conv}(G^j + M^{j-1}) $$
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from tdpose_jax.models.blocks import Conv, ConvNormRelu, residual_blocks
from tdpose_jax.models.convolution import keep
from tdpose_jax.models.deform_conv import ModulatedDeformConv


def adjacent_differences(
    features: Float[Array, "B T h w C"],
) -> Float[Array, "B h w D"]:
    """S^j: F_{k+1} - F_k for neighbouring frames, concatenated in time order.

    [B, T, h, w, C] -> [B, h, w, (T - 1) * C]. Identical frames give exactly zero.
    """
    b, t, h, w, c = features.shape
    differences = features[:, 1:] - features[:, :-1]
    # Two convolutions read this; neither shall join the channels again.
    return keep(differences.transpose(0, 2, 3, 1, 4).reshape(b, h, w, (t - 1) * c))


class TemporalDifferenceEncoder(nn.Module):
    """Stage-wise differences -> residual blocks -> deformable convolution -> cascade.

    Attributes:
      stages: backbone stages whose differences enter, of 1..4, in order.
      blocks: residual blocks N_j for each of the four backbone stages.
      cascade: M^j = Conv(G^j + M^(j-1)); without it M = Conv(sum of the G^j) [ours].
      deformable: False replaces DCNv2 by a plain 3x3 of the same dilation (ablation).
    """

    channels: int
    stages: Sequence[int]
    blocks: Sequence[int]
    cascade: bool
    deformable: bool
    offset_groups: int
    deform_dilation: int
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, stage_features: Sequence[Float[Array, "B T h w _"]], train: bool
    ) -> tuple[Float[Array, "B h w C"], dict]:
        """Returns the raw motion feature M and the named intermediates."""
        out, motion, uncascaded = {}, None, []
        for stage in self.stages:
            x = adjacent_differences(stage_features[stage - 1])
            out[f"difference_{stage}"] = x
            count = self.blocks[stage - 1]
            for block in residual_blocks(self, self.channels, count, f"stage{stage}"):
                x = block(x, train)
            out[f"encoded_difference_{stage}"] = x
            if self.deformable:
                x, out[f"sampling_offsets_{stage}"], out[f"modulation_{stage}"] = (
                    ModulatedDeformConv(
                        self.channels,
                        self.offset_groups,
                        self.deform_dilation,
                        self.dtype,
                        name=f"deform{stage}",
                    )(x)
                )
            else:
                x = Conv(
                    self.channels,
                    dilation=self.deform_dilation,
                    dtype=self.dtype,
                    name=f"deform{stage}",
                )(x)
            if self.cascade:
                x = x if motion is None else x + motion
                motion = self._fuse(x, f"fuse{stage}", train)
                out[f"motion_{stage}"] = motion
            else:
                uncascaded.append(x)
        if not self.cascade:
            motion = self._fuse(sum(uncascaded), "fuse", train)
        return motion, out

    def _fuse(self, x, name, train):
        conv = ConvNormRelu(self.channels, self.dtype, self.axis_name, name=name)
        return conv(x, train)
