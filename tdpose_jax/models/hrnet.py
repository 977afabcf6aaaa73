"""HRNet for pose (Sun et al., CVPR 2019), any width, returning its stage features.

Module names are the official PyTorch ones: joining a parameter's path with dots and
renaming the leaf (kernel -> weight, scale -> weight, mean -> running_mean, var ->
running_var) gives the name of the tensor in the official checkpoints.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from tdpose_jax.models import initializers as init
from tdpose_jax.models.blocks import BasicBlock, BatchNorm, Bottleneck, Conv
from tdpose_jax.models.convolution import keep


class HRNet(nn.Module):
    """Four stages, each adding a branch of half the resolution and twice the width.

    W48 and W32 of the papers are `HRNet(width=48)` and `HRNet(width=32)`; the other
    fields exist for laptops and tests. Input sides must be multiples of 32.

    Attributes:
      width: channels of the highest-resolution branch; branch i has `width * 2**i`.
      stem_width: channels of the stem; stage 1 puts out four times as many.
      stage1_blocks: bottlenecks of stage 1.
      stage_modules: fusion modules in stages 2, 3, 4.
      branch_blocks: basic blocks per branch and module.
      num_keypoints: maps of the backbone's own 1x1 `final_layer`; 0 leaves it out.
      remat: recompute block activations in the backward pass instead of keeping them.
    """

    width: int = 48
    stem_width: int = 64
    stage1_blocks: int = 4
    stage_modules: tuple[int, int, int] = (1, 4, 3)
    branch_blocks: int = 4
    num_keypoints: int = 17
    dtype: Any = jnp.float32
    axis_name: str | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, x, train: bool = False):
        """Runs the backbone.

        Args:
          x: [N, H, W, 3] normalised RGB crops.

        Returns:
          (stage_features, heatmaps): the highest-resolution feature after each of the
          four stages, [N, H/4, W/4, C_s] with C_1 = 4 * stem_width and C_2..4 = width;
          heatmaps [N, H/4, W/4, num_keypoints] or None.

        Raises:
          ValueError: if H or W is not a multiple of 32.
        """
        if x.shape[1] % 32 or x.shape[2] % 32:
            raise ValueError(
                f"HRNet needs crop sides that are multiples of 32, got height "
                f"{x.shape[1]}, width {x.shape[2]} (config.data.crop_size_hw)"
            )
        common = dict(dtype=self.dtype, axis_name=self.axis_name)
        wrap = nn.remat if self.remat else lambda module, **_: module
        bottleneck = wrap(Bottleneck, static_argnums=(2,))
        hr_module = wrap(HRModule, static_argnums=(2,))

        x = x.astype(self.dtype)
        for i in (1, 2):
            x = Conv(self.stem_width, 3, 2, dtype=self.dtype, name=f"conv{i}")(x)
            x = nn.relu(BatchNorm(**common, name=f"bn{i}")(x, train))
        for i in range(self.stage1_blocks):
            x = bottleneck(self.stem_width, **common, name=f"layer1.{i}")(x, train)
        stage_features = [x]
        branches = [x]
        for stage, num_modules in enumerate(self.stage_modules, start=2):
            widths = [self.width * 2**i for i in range(stage)]
            branches = self._transition(branches, widths, stage - 1, train)
            for m in range(num_modules):
                # The pose network keeps only the highest resolution at the very end.
                is_last = stage == 4 and m == num_modules - 1
                branches = hr_module(
                    num_branches=stage,
                    num_blocks=self.branch_blocks,
                    outputs=1 if is_last else stage,
                    **common,
                    name=f"stage{stage}.{m}",
                )(branches, train)
            stage_features.append(branches[0])
        heatmaps = None
        if self.num_keypoints:
            final = Conv(
                self.num_keypoints,
                1,
                use_bias=True,
                dtype=self.dtype,
                kernel_init=init.normal(0.001),
                name="final_layer",
            )
            heatmaps = final(branches[0]).astype(jnp.float32)
        return tuple(stage_features), heatmaps

    def _transition(self, branches, widths, index, train):
        """Adapts the widths of the branches that exist and adds the new one."""
        prefix = f"transition{index}"
        out = []
        for i, width in enumerate(widths):
            if i < len(branches):
                x = branches[i]
                if x.shape[-1] != width:
                    x = self._conv_norm_relu(x, width, 1, f"{prefix}.{i}", train)
            else:
                name = f"{prefix}.{i}.0"
                x = self._conv_norm_relu(branches[-1], width, 2, name, train)
            out.append(x)
        return out

    def _conv_norm_relu(self, x, width, stride, name, train):
        x = Conv(width, 3, stride, dtype=self.dtype, name=f"{name}.0")(x)
        norm = BatchNorm(self.dtype, self.axis_name, name=f"{name}.1")
        return nn.relu(norm(x, train))


class HRModule(nn.Module):
    """Parallel branches of basic blocks, then every branch receives every other."""

    num_branches: int
    num_blocks: int
    outputs: int
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, branches, train: bool):
        """Branches [N, h/2^i, w/2^i, width * 2^i] -> the first `outputs` of them."""
        common = dict(dtype=self.dtype, axis_name=self.axis_name)
        widths = [x.shape[-1] for x in branches]
        mixed = []
        for b, x in enumerate(branches):
            for i in range(self.num_blocks):
                name = f"branches.{b}.{i}"
                x = BasicBlock(widths[b], **common, name=name)(x, train)
            mixed.append(x)
        return [
            keep(
                nn.relu(
                    sum(
                        self._resample(x, source, target, widths, train)
                        for source, x in enumerate(mixed)
                    )
                )
            )
            for target in range(self.outputs)
        ]

    def _resample(self, x, source, target, widths, train):
        """Brings branch `source` to the resolution and width of branch `target`."""
        name = f"fuse_layers.{target}.{source}"
        norm = dict(dtype=self.dtype, axis_name=self.axis_name)
        if source > target:
            x = Conv(widths[target], 1, dtype=self.dtype, name=f"{name}.0")(x)
            x = BatchNorm(**norm, name=f"{name}.1")(x, train)
            factor = 2 ** (source - target)
            return upsample_nearest(x, factor)
        for step in range(target - source):
            is_last = step == target - source - 1
            width = widths[target] if is_last else widths[source]
            x = Conv(width, 3, 2, dtype=self.dtype, name=f"{name}.{step}.0")(x)
            x = BatchNorm(**norm, name=f"{name}.{step}.1")(x, train)
            x = x if is_last else nn.relu(x)
        return x


def upsample_nearest(x, factor: int):
    """[N, h, w, C] -> [N, h * factor, w * factor, C], repeating pixels."""
    n, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (n, h, factor, w, factor, c))
    return x.reshape(n, h * factor, w * factor, c)
