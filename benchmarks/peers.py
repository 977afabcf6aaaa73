"""The same network in Flax and in PyTorch, from the same weights, for the benchmarks."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from configs.default import get_config
from tdpose_jax.interop.tdmi_names import flax_model, to_torch, torch_fields
from tdpose_jax.models.tdmi import TDMI

# Two frameworks agree this far, relative to the largest value, or the row is not of the
# same work.
MAX_DIFFERENCE = 1e-4


@dataclasses.dataclass
class Pair:
    """One model twice.

    Attributes:
      model, variables: Flax, variables in numpy.
      net: `tdmi_torch.TDMI`, channels_last, in eval mode.
      fields: what both were built from.
    """

    model: TDMI
    variables: dict[str, Any]
    net: Any
    fields: dict[str, Any]


def w48_config(**model) -> ml_collections.ConfigDict:
    """The paper's model: HRNet-W48, 384x288, window_delta 2; random weights."""
    config = get_config()
    config.model.backbone_weights = "random"
    for name, value in model.items():
        config.model[name] = value
    return config


def make_pair(config: ml_collections.ConfigDict, threads: int) -> Pair:
    """Both models of a config with the same random weights."""
    import torch

    from tdpose_jax.interop.torch_template import tdmi_torch

    torch.set_num_threads(threads)
    fields = torch_fields(config)
    model = flax_model(fields)
    variables = random_variables(model, 2 * config.data.window_delta + 1)
    net = tdmi_torch.TDMI(**fields)
    state = net.state_dict()
    state.update({k: torch.from_numpy(v) for k, v in to_torch(variables).items()})
    net.load_state_dict(state, strict=True)
    net = net.eval().to(memory_format=torch.channels_last)
    return Pair(model, variables, net, fields)


def random_variables(model: TDMI, num_frames: int, seed: int = 0) -> dict[str, Any]:
    """Weights as large as after training, so that no value over- or underflows.

    Sampling offsets are of one to two pixels: zero offsets would all hit pixel centres
    and be kinder to caches than trained ones. Initialising a W48 would take 28 s.
    """
    clip = jnp.zeros((1, num_frames, 64, 64, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(seed), clip)
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        name = path[-1].key
        if name in ("scale", "var"):
            # Gains below one: a hundred residual additions must not overflow.
            return rng.uniform(0.4, 0.8, leaf.shape).astype(np.float32)
        fan_in = max(np.prod(leaf.shape[:-1]), 8)
        size = np.sqrt(1 / fan_in) if name == "kernel" else 0.1
        return (size * rng.standard_normal(leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def random_clips(batch: int, num_frames: int, size_hw: tuple[int, int], seed=0):
    """[B, T, H, W, 3] float32 as after normalisation."""
    rng = np.random.default_rng(seed)
    shape = (batch, num_frames, *size_hw, 3)
    return rng.standard_normal(shape, np.float32)


def to_channels_last(clips: np.ndarray):
    """[B, T, H, W, 3] -> torch [B, T, 3, H, W] whose frames are channels_last."""
    import torch

    # The same memory seen otherwise: the network's flatten of B and T keeps it.
    return torch.from_numpy(np.ascontiguousarray(clips)).movedim(-1, -3)


def check_equal(ours, theirs, what: str) -> float:
    """The largest difference, relative to the largest value.

    Raises:
      AssertionError: if the two did not compute the same.
    """
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    difference = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    assert difference < MAX_DIFFERENCE, f"{what}: outputs differ by {difference:.2g}"
    return difference


def random_batch(config: ml_collections.ConfigDict, size: int, seed: int = 0):
    """A `PoseBatch` of noise with joints anywhere in the crop."""
    from tdpose_jax.shapes import PoseBatch, encode_sample_ids

    rng = np.random.default_rng(seed)
    height, width = config.data.crop_size_hw
    t, k = 2 * config.data.window_delta + 1, config.model.num_keypoints
    xy = rng.uniform(0, 1, (size, k, 2)) * np.array([width, height])
    return PoseBatch(
        frames=rng.integers(0, 256, (size, t, height, width, 3), np.uint8),
        keypoints_xy_crop=xy.astype(np.float32),
        keypoint_weight=(rng.random((size, k)) < 0.8).astype(np.float32),
        crop_to_image=np.tile(np.eye(2, 3, dtype=np.float32), (size, 1, 1)),
        frame_is_real=np.ones((size, t), bool),
        box_score=np.ones(size, np.float32),
        example_is_real=np.ones(size, bool),
        sample_id=encode_sample_ids([f"bench/{i}/0" for i in range(size)]),
    )


def torch_batch(config: ml_collections.ConfigDict, batch):
    """(frames, targets [B, K, h, w], weight) of a `PoseBatch`, for PyTorch."""
    import torch

    from tdpose_jax.heatmaps import encode_heatmaps
    from tdpose_jax.shapes import HEATMAP_STRIDE

    size_hw = tuple(s // HEATMAP_STRIDE for s in config.data.crop_size_hw)
    targets, weight = encode_heatmaps(
        batch.keypoints_xy_crop,
        batch.keypoint_weight,
        size_hw,
        config.loss.heatmap_sigma,
        config.loss.heatmap_encoder,
    )
    return (
        to_channels_last(batch.frames),
        torch.from_numpy(np.array(targets)).movedim(-1, 1),
        torch.from_numpy(np.array(weight)),
    )
