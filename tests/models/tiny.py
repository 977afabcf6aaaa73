"""The smallest TDMI with every part in it, for tests."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tdpose_jax.models.blocks import Conv
from tdpose_jax.models.hrnet import HRNet
from tdpose_jax.models.tdmi import TDMI

TINY_HRNET = dict(
    width=4, stem_width=4, stage1_blocks=1, stage_modules=(1, 1, 1), branch_blocks=1
)
TINY_TDMI = dict(
    channels=8,
    difference_blocks=(1, 1, 1, 1),
    offset_groups=2,
    deform_dilation=1,
    aggregate_blocks=1,
    silent_motion=False,
)


def tiny_tdmi(**fields) -> TDMI:
    axis_name = fields.get("axis_name")
    backbone = HRNet(**TINY_HRNET, axis_name=axis_name)
    return TDMI(backbone=backbone, **TINY_TDMI | fields)


def init(model, num_frames=5, seed=0):
    """Variables; what starts at zero is made non-zero, so that it matters."""
    shape = jax.ShapeDtypeStruct((1, num_frames, 64, 64, 3), jnp.float32)
    variables = model.lazy_init(jax.random.key(seed), shape)
    rng = np.random.default_rng(seed)

    def fill(x):
        x = np.asarray(x)
        return x if x.any() else 0.2 * rng.standard_normal(x.shape, np.float32)

    return jax.tree.map(fill, variables)


def clip(batch=2, num_frames=5, seed=0):
    rng = np.random.default_rng(seed)
    shape = (batch, num_frames, 64, 64, 3)
    return rng.standard_normal(shape, np.float32)


class PatchBackbone(nn.Module):
    """In HRNet's place where its shapes are enough: one convolution a stage."""

    channels: tuple[int, ...] = (16, 4, 4, 4)
    num_keypoints: int = 17
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train):
        fields = dict(stride=4, dtype=self.dtype)
        features = tuple(nn.relu(Conv(c, **fields)(x)) for c in self.channels)
        return features, Conv(self.num_keypoints, 1, dtype=self.dtype)(features[-1])
