"""TDMI: temporal differences, disentangled, added to the keyframe's features.

Feng, Gao, Ma, Tse, Chang, "Mutual Information-Based Temporal Difference Learning for
Human Pose Estimation in Video", CVPR 2023.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from tdpose_jax.models import initializers as init
from tdpose_jax.models.blocks import Conv, residual_blocks
from tdpose_jax.models.disentangle import Disentangle
from tdpose_jax.models.temporal_difference import TemporalDifferenceEncoder
from tdpose_jax.shapes import AnyArray


class TDMI(nn.Module):
    """The whole model. Every ablation row is a choice of these fields.

    Attributes:
      backbone: a module `(x [N, H, W, 3], train) -> (four stage features, heatmaps)`.
      freeze_backbone: run it with its stored statistics and stop its gradient.
      backbone_only: return the backbone's own heatmaps of the keyframe; nothing else is
        built. This is how a backbone is pretrained.
      difference_stages: stages that feed the encoder; () is the single-frame row.
      disentangle: without it all motion counts as useful.
      silent_motion: training starts from the single-frame row: the aggregation's weights
        of everything but the keyframe's feature start at zero.
      spatio_temporal: TDMI-ST, the head also sees the features of all frames.
      axis_name: mapped axis over which BatchNorm statistics are averaged, or None.
    The rest is documented in `configs/default.py` and in the modules it is passed to.
    """

    backbone: nn.Module
    num_keypoints: int = 17
    channels: int = 48
    freeze_backbone: bool = True
    backbone_only: bool = False
    difference_stages: Sequence[int] = (1, 2, 3, 4)
    difference_blocks: Sequence[int] = (3, 3, 2, 2)
    cascade: bool = True
    deformable: bool = True
    offset_groups: int = 12
    deform_dilation: int = 3
    disentangle: bool = True
    gate_reduction: int = 4
    aggregate_blocks: int = 3
    silent_motion: bool = True
    spatio_temporal: bool = False
    spatio_temporal_blocks: int = 2
    dtype: Any = jnp.float32
    axis_name: str | None = None

    def __call__(
        self, frames: Float[AnyArray, "B T H W 3"], train: bool = False
    ) -> tuple[Float[Array, "B h w K"], dict]:
        """Normalised RGB clips -> the keyframe's heatmaps and named intermediates."""
        if self.backbone_only or not self.uses_supporting_frames:
            # The single-frame row does not pay for the others.
            key = frames.shape[1] // 2
            frames = frames[:, key : key + 1]
        features, maps = self.encode_clips(frames, train)
        return self.decode_window(features, maps, train)

    def encode_clips(
        self, frames: Float[AnyArray, "B T H W 3"], train: bool = False
    ) -> tuple[tuple, Float[Array, "B T h w _"] | None]:
        """Clips -> four stage features [B, T, h, w, C_s] and backbone heatmaps."""
        b, t = frames.shape[:2]
        features, maps = self.encode_frames(
            frames.reshape(-1, *frames.shape[2:]), train
        )

        def unmerge(x):
            return None if x is None else x.reshape(b, t, *x.shape[1:])

        features = tuple(share_repeated(frames, unmerge(f)) for f in features)
        return features, unmerge(maps)

    @property
    def uses_supporting_frames(self) -> bool:
        """Whether any part looks at frames other than the keyframe."""
        return bool(self.difference_stages) or self.spatio_temporal

    @nn.nowrap
    def _run_backbone(self, x, train):
        features, maps = self.backbone(x, train and not self.freeze_backbone)
        if self.freeze_backbone:
            features, maps = jax.lax.stop_gradient((features, maps))
        return features, maps

    def encode_frames(
        self, x: Float[AnyArray, "N H W 3"], train: bool = False
    ) -> tuple[tuple, Float[Array, "N h w _"] | None]:
        """Single frames -> four stage features [N, h, w, C_s] and backbone heatmaps.

        Split from `decode_window` so that overlapping windows can share it.
        """
        return self._run_backbone(x, train)

    @nn.compact
    def decode_window(
        self,
        stage_features: Sequence[Float[AnyArray, "B T h w _"]],
        backbone_heatmaps: Float[AnyArray, "B T h w _"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "B h w K"], dict]:
        """Stage features of a window's frames -> heatmaps of its middle frame."""
        common = dict(dtype=self.dtype, axis_name=self.axis_name)
        key = stage_features[0].shape[1] // 2
        out = {f"stage{s}": f for s, f in enumerate(stage_features, start=1)}
        if backbone_heatmaps is not None:
            out["backbone_heatmaps"] = backbone_heatmaps[:, key]
        if self.backbone_only:
            return out["backbone_heatmaps"], out
        keyframe_feature = stage_features[3][:, key]
        out["keyframe_feature"] = keyframe_feature
        inputs = []
        if self.difference_stages:
            motion, intermediates = TemporalDifferenceEncoder(
                channels=self.channels,
                stages=tuple(self.difference_stages),
                blocks=tuple(self.difference_blocks),
                cascade=self.cascade,
                deformable=self.deformable,
                offset_groups=self.offset_groups,
                deform_dilation=self.deform_dilation,
                **common,
                name="temporal_difference",
            )(stage_features, train)
            out.update(intermediates, motion=motion, motion_useful=motion)
            if self.disentangle:
                module = Disentangle(
                    self.gate_reduction, self.dtype, name="disentangle"
                )
                out.update(module(motion))
            inputs.append(out["motion_useful"])
        if self.spatio_temporal:
            b, t, h, w, c = stage_features[3].shape
            context = stage_features[3].transpose(0, 2, 3, 1, 4)
            context = context.reshape(b, h, w, t * c)
            count = self.spatio_temporal_blocks
            for block in residual_blocks(self, self.channels, count, "context"):
                context = block(context, train)
            out["context"] = context
            inputs.append(context)
        x = jnp.concatenate([*inputs, keyframe_feature], axis=-1)
        silent = self.silent_motion * (x.shape[-1] - keyframe_feature.shape[-1])
        for block in residual_blocks(
            self, self.channels, self.aggregate_blocks, "aggregate", silent
        ):
            x = block(x, train)
        out["aggregated"] = x
        pose_head = Conv(
            self.num_keypoints,
            use_bias=True,
            dtype=self.dtype,
            kernel_init=init.normal(0.001),
            name="pose_head",
        )
        return pose_head(x).astype(jnp.float32), out


def share_repeated(
    frames: Float[AnyArray, "B T H W 3"], features: Float[Array, "B T h w C"]
) -> Float[Array, "B T h w C"]:
    """Gives a frame that repeats the one before it that frame's very features.

    A convolution over a batch may round equal images differently (XLA's CPU backend cuts
    the work across image borders). Sequence edges are filled by repetition; their
    differences must be zero, not rounding noise.
    """
    repeats = jnp.all(frames[:, 1:] == frames[:, :-1], axis=(2, 3, 4))
    shared = [features[:, 0]]
    for k in range(1, features.shape[1]):
        is_repeat = repeats[:, k - 1, None, None, None]
        shared.append(jnp.where(is_repeat, shared[-1], features[:, k]))
    return jnp.stack(shared, axis=1)
