"""HRNet's tensors between PyTorch's names and layouts and Flax's.

The official pose HRNet (leoxiaobin/deep-high-resolution-net.pytorch), mmpose and timm
share the names inside the network; they differ in prefixes and in what surrounds it.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from tdpose_jax.interop.weights_file import WeightsError, unflatten
from tdpose_jax.models.hrnet import HRNet

# Wrappers: torch's DataParallel, Lightning and others, pose estimators, mmpose.
PREFIXES = ("module.", "state_dict.", "model.", "hrnet.", "backbone.")
HEAD_PREFIXES = ("keypoint_head.", "head.")  # mmpose < 1.0, mmpose >= 1.0
# Source tensors that no target needs, each with the reason.
UNUSED = {
    r".*\.num_batches_tracked": "counters of BatchNorm",
    r"(incre_modules|downsamp_modules|classifier|final_layer\.[01])\..*": (
        "ImageNet classifier"
    ),
    r"stage4\.\d+\.fuse_layers\.[123]\..*": (
        "stage 4's low-resolution outputs, which the pose network does not have"
    ),
}
_LEAF_TO_TORCH = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def torch_name(flat_name: str) -> str:
    """`params.layer1.0.conv1.kernel` -> `layer1.0.conv1.weight`."""
    _, *path, leaf = flat_name.split(".")
    return ".".join([*path, _LEAF_TO_TORCH[leaf]])


def to_torch_layout(value: np.ndarray) -> np.ndarray:
    """HWIO -> OIHW; vectors stay. Contiguous, as the writers of files need it."""
    value = np.asarray(value)
    return np.ascontiguousarray(
        value.transpose(3, 2, 0, 1) if value.ndim == 4 else value
    )


def to_flax_layout(value: np.ndarray) -> np.ndarray:
    """OIHW -> HWIO; vectors stay."""
    return np.ascontiguousarray(
        value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
    )


def official_name(name: str) -> str:
    """A source file's name without the prefixes of wrappers and of mmpose's parts."""
    while name.startswith(PREFIXES):
        name = name.partition(".")[2]
    for prefix in HEAD_PREFIXES:
        if name.startswith(f"{prefix}final_layer."):
            name = name.removeprefix(prefix)
    return name


def import_hrnet(
    tensors: Mapping[str, np.ndarray], width: int, where: str
) -> tuple[dict[str, Any], int, dict[str, int]]:
    """Tensors of a PyTorch HRNet, in any of the known layouts, -> Flax variables.

    Strict: every target is filled once, every source tensor is used once or is explained
    by `UNUSED`.

    Args:
      where: what messages call the file.

    Returns:
      `{"params", "batch_stats"}`; the number of keypoints of the heatmap layer, 0 if the
      file has none; how many tensors each reason of `UNUSED` explains.

    Raises:
      WeightsError: naming tensors that are missing, left over, double or of another shape.
    """
    source: dict[str, str] = {}
    for name in tensors:
        short = official_name(name)
        if short in source:
            raise WeightsError(
                f"{where}: {source[short]!r} and {name!r} are both {short!r}"
            )
        source[short] = name
    heatmap_layer = source.get("final_layer.weight")
    num_keypoints = tensors[heatmap_layer].shape[0] if heatmap_layer else 0
    targets = hrnet_shapes(width, num_keypoints)

    missing = [name for name in targets if torch_name(name) not in source]
    if missing:
        raise WeightsError(
            f"{where}: {len(missing)} of the {len(targets)} tensors of hrnet_w{width} are "
            f"not in the file, the first is {torch_name(missing[0])!r} for {missing[0]!r}"
        )
    filled = {}
    for target, shape in targets.items():
        name = source.pop(torch_name(target))
        value = to_flax_layout(tensors[name])
        if value.shape != shape:
            raise WeightsError(
                f"{where}: {name!r} {tensors[name].shape} does not fit {target!r} of "
                f"hrnet_w{width}, which needs {to_torch_layout(np.empty(shape)).shape}"
            )
        filled[target] = value
    unused: dict[str, int] = {}
    for short in list(source):
        for pattern, reason in UNUSED.items():
            if re.fullmatch(pattern, short):
                unused[reason] = unused.get(reason, 0) + 1
                del source[short]
                break
    if source:
        raise WeightsError(
            f"{where}: {len(source)} tensors have no place in hrnet_w{width}, the first is "
            f"{min(source.values())!r}"
        )
    return unflatten(filled), num_keypoints, unused


@functools.cache
def hrnet_shapes(width: int, num_keypoints: int) -> dict[str, tuple[int, ...]]:
    """Flat name -> shape of every variable of an HRNet; computes nothing."""
    module = HRNet(width=width, num_keypoints=num_keypoints)
    variables = jax.eval_shape(
        module.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3))
    )
    flat = traverse_util.flatten_dict(variables, sep=".")
    return {name: leaf.shape for name, leaf in flat.items()}
