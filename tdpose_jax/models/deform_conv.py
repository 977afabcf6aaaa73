"""Modulated deformable convolution (DCNv2, Zhu et al., CVPR 2019) in plain JAX.

Exact with respect to the reference operator, including its gradients at integer
offsets, which is where zero-initialised offsets start.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tdpose_jax.models import initializers as init
from tdpose_jax.models.blocks import Conv
from tdpose_jax.shapes import AnyArray


def modulated_deform_conv(
    x: Float[Array, "B h w C"],
    sampling_offsets: Float[Array, "B h w G taps 2"],
    modulation: Float[Array, "B h w G taps"],
    kernel: Float[AnyArray, "k k C D"],
    dilation: int = 1,
) -> Float[Array, "B h w D"]:
    r"""Samples `x` bilinearly at displaced taps, weighs the samples, convolves.

    $$ y(p) = \sum_n w_n^\top \left[ m_n(p) \, x(p + d \, p_n + \Delta_n(p)) \right] $$

    with taps $p_n$, dilation $d$, offsets $\Delta_n$, modulation $m_n$ and kernel $w_n$.

    Args:
      sampling_offsets: (y, x) displacement in pixels per group of C / G channels.
      modulation: weight of each sample.
      dilation: spacing of the undisplaced taps; the size is kept.

    Samples outside the map are zero, and fade in linearly within one pixel of it.

    One gather from a table of 2x2 neighbourhoods instead of four gathers: 371 against
    569 ms forward and backward at [4, 96, 72, 48] on two CPU cores. There, an image at
    a time whose samples stay in the cache, and are gathered again in the backward pass
    rather than stored, takes 0.67 of that (361 -> 241 ms at [16, 64, 48, 16]).
    """
    if jax.default_backend() != "cpu" or x.shape[0] == 1:
        return _sample_and_convolve(x, sampling_offsets, modulation, kernel, dilation)

    @jax.checkpoint
    def one_image(arrays):
        arrays = (a[None] for a in arrays)
        return _sample_and_convolve(*arrays, kernel, dilation)[0]

    return jax.lax.map(one_image, (x, sampling_offsets, modulation))


def _sample_and_convolve(x, sampling_offsets, modulation, kernel, dilation):
    b, h, w, c = x.shape
    k = kernel.shape[0]
    groups = sampling_offsets.shape[3]
    per_group = c // groups
    taps = k * k

    # table[i] holds the 2x2 neighbourhood whose upper left corner is pixel i - 2.
    padded = jnp.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
    th, tw = h + 3, w + 3
    corners = [padded[:, dy : dy + th, dx : dx + tw] for dy in (0, 1) for dx in (0, 1)]
    table = jnp.stack(corners, axis=3).reshape(b, th * tw, 4, groups, per_group)
    table = table.transpose(0, 3, 1, 2, 4).reshape(b, groups, th * tw, 4 * per_group)

    # Coordinates in float32 whatever x is: bfloat16 has 8 bits, too few for a pixel.
    steps = dilation * (np.arange(k) - (k - 1) // 2)
    tap_yx = np.stack(np.meshgrid(steps, steps, indexing="ij"), -1).reshape(taps, 2)
    grid_yx = np.stack(np.meshgrid(np.arange(h), np.arange(w), indexing="ij"), -1)
    base = grid_yx[:, :, None, None] + tap_yx[None, None, None]
    position = jnp.asarray(base, jnp.float32) + sampling_offsets.astype(jnp.float32)
    corner = jnp.floor(position)
    fraction = position - corner
    # Clip the index, not the coordinate: far outside, both columns are padding.
    limits = jnp.array([h, w], jnp.float32)
    row_col = jnp.clip(corner, -2.0, limits).astype(jnp.int32) + 2
    index = row_col[..., 0] * tw + row_col[..., 1]
    index = index.transpose(0, 3, 1, 2, 4).reshape(b, groups, h * w * taps, 1)

    gathered = jnp.take_along_axis(table, index, axis=2, mode="promise_in_bounds")
    gathered = gathered.reshape(b, groups, h, w, taps, 4, per_group)
    fy, fx = fraction[..., 0], fraction[..., 1]
    weights = jnp.stack(
        [(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx], -1
    )
    weights = (weights * modulation.astype(jnp.float32)[..., None]).astype(x.dtype)
    weights = weights.transpose(0, 3, 1, 2, 4, 5)
    samples = (gathered * weights[..., None]).sum(axis=5)
    grouped_kernel = kernel.reshape(taps, groups, per_group, -1).astype(x.dtype)
    return jnp.einsum("bghwnc,ngcd->bhwd", samples, grouped_kernel)


class ModulatedDeformConv(nn.Module):
    """3x3 DCNv2 layer that predicts its own offsets and modulation from its input.

    Both predictions start at zero (offset 0, modulation 1/2), so that training starts
    from a plain dilated convolution. The modulation passes through a sigmoid as in
    DCNv2's paper; FAMI-Pose leaves it out.
    """

    features: int
    offset_groups: int
    dilation: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """[B, h, w, C] -> ([B, h, w, features], sampling_offsets, modulation).

        Raises:
          ValueError: if C is not a multiple of `offset_groups`.
        """
        b, h, w, c = x.shape
        g = self.offset_groups
        if c % g:
            raise ValueError(
                f"model.channels={c} is not a multiple of model.offset_groups={g}"
            )
        predict = dict(
            dilation=self.dilation,
            use_bias=True,
            dtype=self.dtype,
            kernel_init=init.zeros,
        )
        offsets = Conv(2 * 9 * g, **predict, name="sampling_offsets")(x)
        modulation = nn.sigmoid(Conv(9 * g, **predict, name="modulation")(x))
        offsets = offsets.reshape(b, h, w, g, 9, 2)
        modulation = modulation.reshape(b, h, w, g, 9)
        shape = (3, 3, c, self.features)
        kernel = self.param("kernel", init.he_normal, shape, jnp.float32)
        y = modulated_deform_conv(
            x.astype(self.dtype), offsets, modulation, kernel, self.dilation
        )
        return y, offsets, modulation
