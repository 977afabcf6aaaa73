"""Convolution, normalisation and residual blocks shared by every network.

All feature maps are NHWC. Parameters and BatchNorm statistics are float32; `dtype` is
the type that is computed in.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tdpose_jax.models import initializers as init
from tdpose_jax.models.channel_sums import channel_sums, scale_and_shift
from tdpose_jax.models.convolution import conv2d, keep

# PyTorch's momentum 0.1 is Flax's 0.9; epsilon is the same in both.
BATCH_NORM_MOMENTUM = 0.9
BATCH_NORM_EPSILON = 1e-5


class Conv(nn.Module):
    """k x k convolution, padded so that stride 1 keeps the size.

    Padding is `dilation * (k - 1) / 2` on every side, PyTorch's convention; XLA's
    "SAME" pads a strided convolution on one side only and would not match.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    dilation: int = 1
    use_bias: bool = False
    dtype: Any = jnp.float32
    kernel_init: Callable = init.he_normal

    @nn.compact
    def __call__(self, x):
        """[N, H, W, C] -> [N, H / stride, W / stride, features]."""
        k = self.kernel_size
        shape = (k, k, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        y = conv2d(
            x.astype(self.dtype), kernel.astype(self.dtype), self.stride, self.dilation
        )
        if self.use_bias:
            bias = self.param("bias", init.zeros, (self.features,))
            y = y + bias.astype(self.dtype)
        return y


class BatchNorm(nn.Module):
    """Batch normalisation; in training, statistics are those of all devices together.

    Attributes:
      axis_name: the mapped axis over which statistics are averaged, or None.
    """

    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train: bool):
        """Normalises all axes but the last; `train`: by the batch's own moments."""
        channels = x.shape[-1]
        scale = self.param("scale", init.ones, (channels,), jnp.float32)
        bias = self.param("bias", init.zeros, (channels,), jnp.float32)
        mean = self.variable("batch_stats", "mean", np.zeros, (channels,), np.float32)
        var = self.variable("batch_stats", "var", np.ones, (channels,), np.float32)
        if not train:
            use_mean, use_var = mean.value, var.value
        else:
            x32 = x.astype(jnp.float32)
            sums = jnp.stack([channel_sums(x32), channel_sums(jnp.square(x32))])
            moments = sums / (x.size // channels)
            if self.axis_name is not None and not self.is_initializing():
                moments = jax.lax.pmean(moments, self.axis_name)
            use_mean = moments[0]
            use_var = jnp.maximum(moments[1] - jnp.square(use_mean), 0.0)
            if not self.is_initializing():
                m = BATCH_NORM_MOMENTUM
                mean.value = m * mean.value + (1 - m) * use_mean
                var.value = m * var.value + (1 - m) * use_var
        gain = scale * jax.lax.rsqrt(use_var + BATCH_NORM_EPSILON)
        # One multiply-add per value, in the compute type.
        shift = bias - use_mean * gain
        return scale_and_shift(x.astype(self.dtype), gain, shift)


class ConvNormRelu(nn.Module):
    """3x3 convolution, BatchNorm, ReLU: the paper's `Conv`."""

    features: int
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train: bool):
        """[N, H, W, C] -> [N, H, W, features]."""
        x = Conv(self.features, dtype=self.dtype, name="conv")(x)
        return nn.relu(BatchNorm(self.dtype, self.axis_name, name="bn")(x, train))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut (ResNet's basic block).

    The shortcut is a 1x1 convolution with BatchNorm where the channels change.

    Attributes:
      silent_inputs: so many of the first input channels start with zero weights; where
        the others are as many as `features`, the shortcut starts as their identity,
        which is what it would be without the silent ones.
    """

    features: int
    dtype: Any = jnp.float32
    axis_name: str | None = None
    silent_inputs: int = 0

    @nn.compact
    def __call__(self, x, train: bool):
        """[N, H, W, C] -> [N, H, W, features]."""
        kernel_init = init.silent(init.he_normal, self.silent_inputs)
        first = dict(dtype=self.dtype, kernel_init=kernel_init)
        y = Conv(self.features, **first, name="conv1")(x)
        y = nn.relu(BatchNorm(self.dtype, self.axis_name, name="bn1")(y, train))
        y = Conv(self.features, dtype=self.dtype, name="conv2")(y)
        y = BatchNorm(self.dtype, self.axis_name, name="bn2")(y, train)
        if self.silent_inputs and x.shape[-1] - self.silent_inputs == self.features:
            kernel_init = init.keep_last
        x = _shortcut(self, x, self.features, train, kernel_init)
        return keep(nn.relu(y + x))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions with a shortcut; four times `features` come out."""

    features: int
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train: bool):
        """[N, H, W, C] -> [N, H, W, 4 * features]."""
        y = x
        for i, (features, k) in enumerate(
            [(self.features, 1), (self.features, 3), (4 * self.features, 1)], start=1
        ):
            y = Conv(features, k, dtype=self.dtype, name=f"conv{i}")(y)
            y = BatchNorm(self.dtype, self.axis_name, name=f"bn{i}")(y, train)
            y = nn.relu(y) if i < 3 else y
        return keep(nn.relu(y + _shortcut(self, x, 4 * self.features, train)))


def _shortcut(
    block: nn.Module, x, features: int, train: bool, kernel_init=init.he_normal
):
    if x.shape[-1] == features:
        return x
    conv = dict(dtype=block.dtype, kernel_init=kernel_init, name="downsample.0")
    x = Conv(features, 1, **conv)(x)
    return BatchNorm(block.dtype, block.axis_name, name="downsample.1")(x, train)


def residual_blocks(
    block: nn.Module, features: int, count: int, prefix: str, silent_inputs: int = 0
):
    """`count` basic blocks named `<prefix>.<i>`, sharing dtype and axis of `block`.

    Args:
      silent_inputs: of the first block.
    """
    common = (features, block.dtype, block.axis_name)
    return [
        BasicBlock(*common, 0 if i else silent_inputs, name=f"{prefix}.{i}")
        for i in range(count)
    ]
