"""The wider naive Lite-HRNet of PP-TinyPose, as a backbone with HRNet's contract.

Source: Yu et al., *Lite-HRNet*, CVPR 2021 (the "naive" variant: shuffle blocks, no
conditional channel weighting), widened to 40/80/160/320 channels by PaddleDetection's
PP-TinyPose. BatchNorm is folded into the convolutions, as in the released network, so
there are no statistics and the backbone is meant to be used frozen.

Every spatial convolution is depthwise, so the whole network is built of two pieces:
1x1 convolutions (`nn.Dense` over channels) and `Separable` (depthwise 3x3, then 1x1).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float

from tdpose_jax.models import initializers as init
from tdpose_jax.models.hrnet import upsample_nearest
from tdpose_jax.shapes import AnyArray


class Depthwise(nn.Module):
    """Depthwise 3x3 convolution with bias, padding 1, as nine shifted products.

    XLA fuses them into one loop. Its grouped convolution computes the same thing many
    times slower on a CPU: 144 ms per 256x192 crop for the whole network on two cores
    against 18 ms (batch of five, jax 0.10.2).
    """

    stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[AnyArray, "B h w C"]) -> Float[jax.Array, "B _h _w C"]:
        """Filters each channel by itself; the sides become h / stride, w / stride."""
        channels = x.shape[-1]
        kernel = self.param(
            "kernel", nn.initializers.lecun_normal(), (3, 3, 1, channels)
        )
        bias = self.param("bias", init.zeros, (channels,))
        x, kernel, bias = (jnp.asarray(v, self.dtype) for v in (x, kernel, bias))
        h_out, w_out = ((n - 1) // self.stride + 1 for n in x.shape[1:3])
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        out = bias
        for dy in range(3):
            for dx in range(3):
                rows = slice(dy, dy + self.stride * (h_out - 1) + 1, self.stride)
                columns = slice(dx, dx + self.stride * (w_out - 1) + 1, self.stride)
                out = out + padded[:, rows, columns] * kernel[dy, dx, 0]
        return out


class Separable(nn.Module):
    """Depthwise 3x3 without activation, then 1x1, then ReLU unless it is switched off."""

    features: int
    stride: int = 1
    relu: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """[N, h, w, C] -> [N, h / stride, w / stride, features]."""
        x = Depthwise(self.stride, dtype=self.dtype, name="depthwise")(x)
        x = nn.Dense(self.features, dtype=self.dtype, name="pointwise")(x)
        return nn.relu(x) if self.relu else x


class ShuffleUnit(nn.Module):
    """Half of the channels pass unchanged, half go through 1x1, depthwise, 1x1."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """[N, h, w, C] -> the same shape."""
        kept, changed = jnp.split(x, 2, axis=-1)
        half = kept.shape[-1]
        changed = nn.relu(nn.Dense(half, dtype=self.dtype, name="expand")(changed))
        changed = Separable(half, dtype=self.dtype, name="separable")(changed)
        return _shuffle(kept, changed)


class Stem(nn.Module):
    """[B, H, W, 3] -> [B, H/4, W/4, features]: a strided 3x3, a strided shuffle unit."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """[N, H, W, 3] -> [N, H / 4, W / 4, features]."""
        x = nn.Conv(self.features, (3, 3), 2, padding=1, dtype=self.dtype, name="conv")(
            x
        )
        first, second = jnp.split(nn.relu(x), 2, axis=-1)
        half = first.shape[-1]
        first = Separable(half, stride=2, dtype=self.dtype, name="first")(first)
        second = nn.Dense(2 * half, dtype=self.dtype, name="expand")(second)
        second = nn.relu(second)
        second = Separable(half, stride=2, dtype=self.dtype, name="second")(second)
        return _shuffle(first, second)


class FuseModule(nn.Module):
    """Two shuffle units on every branch, then every branch receives all the others.

    The released network was trained with an in-place addition in its fusion loop
    (`y = x[0]; y += ...`, as in the first Lite-HRNet code). Its effect is part of the
    function that the weights belong to, and is written out here: branch 0 counts itself
    twice, what branch 0 sends down counts twice, and branch 0 sends its *fused* value.
    """

    units: int = 2
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, branches: Sequence[AnyArray]) -> list[jax.Array]:
        """Features of each resolution -> the same resolutions, each having seen all."""
        branches = list(branches)
        for j, x in enumerate(branches):
            for unit in range(self.units):
                name = f"branch{j}_unit{unit}"
                x = ShuffleUnit(dtype=self.dtype, name=name)(x)
            branches[j] = x
        fused = []
        for i, target in enumerate(branches):
            total = target
            for j, source in enumerate(branches):
                if j == 0:
                    total = total + (
                        source if i == 0 else 2 * self._down(fused[0], 0, i)
                    )
                elif j < i:
                    total = total + self._down(source, j, i)
                elif j > i:
                    total = total + self._up(source, j, i, target.shape[-1])
            fused.append(total)
        return [nn.relu(x) for x in fused]

    @nn.nowrap
    def _down(self, x, source: int, target: int):
        """A chain of strided separable convolutions; only the last changes the width."""
        for step in range(source, target):
            last = step == target - 1
            x = Separable(
                x.shape[-1] * 2 ** (target - source) if last else x.shape[-1],
                stride=2,
                relu=not last,
                dtype=self.dtype,
                name=f"down{source}to{target}_{step - source}",
            )(x)
        return x

    @nn.nowrap
    def _up(self, x, source: int, target: int, features: int):
        name = f"up{source}to{target}"
        x = nn.Dense(features, dtype=self.dtype, name=name)(x)
        return upsample_nearest(x, 2 ** (source - target))


class LiteHRNet(nn.Module):
    """Lite-HRNet with the iterative head of PP-TinyPose.

    Attributes:
      width: channels of the highest-resolution branch; branch b has `width * 2**b`.
      stem_width: channels of the stem.
      stage_modules: fuse modules in stages 2, 3, 4, which have 2, 3 and 4 branches.
      num_keypoints: maps of the backbone's own 1x1 `final_layer`; 0 leaves it out.
    """

    width: int = 40
    stem_width: int = 32
    stage_modules: tuple[int, int, int] = (2, 4, 2)
    num_keypoints: int = 17
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool = False):
        """Runs the backbone.

        Args:
          x: [N, H, W, 3] normalised RGB crops.
          train: without effect, there are no statistics; `HRNet` has it too.

        Returns:
          (stage_features, heatmaps), all at H/4, W/4: F^1 is the stem (`stem_width`
          channels), F^2 and F^3 the highest-resolution branch after stages 2 and 3, F^4
          what the head makes of stage 4 (`width` channels each); heatmaps
          [N, H/4, W/4, num_keypoints] float32, or None.

        Raises:
          ValueError: if H or W is not a multiple of 32.
        """
        if x.shape[1] % 32 or x.shape[2] % 32:
            raise ValueError(
                f"LiteHRNet needs crop sides that are multiples of 32, got height "
                f"{x.shape[1]}, width {x.shape[2]} (config.data.crop_size_hw)"
            )
        widths = [self.width * 2**b for b in range(4)]
        x = Stem(self.stem_width, self.dtype, name="stem")(x.astype(self.dtype))
        stage_features = [x]
        branches = [
            Separable(widths[0], dtype=self.dtype, name="transition_branch0")(x)
        ]
        for stage, num_modules in enumerate(self.stage_modules, start=2):
            name = f"transition_branch{stage - 1}"
            new = Separable(widths[stage - 1], stride=2, dtype=self.dtype, name=name)
            # The second branch starts from the stem, later ones from the last branch.
            branches.append(new(x if stage == 2 else branches[-1]))
            for m in range(num_modules):
                module = FuseModule(dtype=self.dtype, name=f"stage{stage}_module{m}")
                branches = module(branches)
            stage_features.append(branches[0])

        # The head walks up from the lowest resolution, adding a branch at a time.
        x = Separable(widths[2], dtype=self.dtype, name="head_branch3")(branches[3])
        for b in (2, 1, 0):
            x = branches[b] + _upsample_bilinear(x, branches[b].shape[1:3])
            width = widths[max(b - 1, 0)]
            x = Separable(width, dtype=self.dtype, name=f"head_branch{b}")(x)
        stage_features[3] = x
        heatmaps = None
        if self.num_keypoints:
            final = nn.Dense(self.num_keypoints, dtype=self.dtype, name="final_layer")
            heatmaps = final(x).astype(jnp.float32)
        return tuple(stage_features), heatmaps


def _shuffle(first: AnyArray, second: AnyArray) -> jax.Array:
    """Interleaves two halves: channel 2i is first[i], channel 2i + 1 is second[i]."""
    stacked = jnp.stack([first, second], axis=-1)
    return stacked.reshape(*first.shape[:-1], 2 * first.shape[-1])


def _upsample_bilinear(x: AnyArray, size_hw: Sequence[int]) -> jax.Array:
    """Bilinear, corners aligned: the first and last pixels of both grids coincide."""
    rows, columns = (
        jnp.asarray(_interpolation_matrix(n_in, n_out), x.dtype)
        for n_in, n_out in zip(x.shape[1:3], size_hw, strict=True)
    )
    x = jnp.einsum("Yy,byxc->bYxc", rows, x)
    return jnp.einsum("Xx,byxc->byXc", columns, x)


def _interpolation_matrix(n_in: int, n_out: int) -> np.ndarray:
    """[n_out, n_in] weights of linear interpolation with aligned corners."""
    position = np.arange(n_out) * (n_in - 1) / (n_out - 1)
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(n_in)))
