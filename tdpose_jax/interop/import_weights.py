"""Pretrained backbones into this project's format.

  python -m tdpose_jax.interop.import_weights --source=hrnet_w48_coco.pth \\
      --arch=hrnet_w48 --output=weights/hrnet_w48 [--compare=io.npz]

Reads the official pose HRNet's files, mmpose's and timm's (`.pth` or `.safetensors`),
and TinyPose's `.npz`. Needs neither TensorFlow nor a GPU; PyTorch for `.pth` only. On
any failure it prints one line and writes nothing. Give the folder to training as
`--config.model.backbone_weights=weights/hrnet_w48`.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tdpose_jax.interop.hrnet_names import import_hrnet
from tdpose_jax.interop.tinypose import BRANCH_WIDTHS, NUM_KEYPOINTS, load_tinypose
from tdpose_jax.interop.weights_file import (
    WeightsError,
    check_is_new,
    read_tensors,
    save_backbone,
    sha256,
)
from tdpose_jax.models.hrnet import HRNet
from tdpose_jax.models.lite_hrnet import LiteHRNet


def import_weights(
    source: str | Path,
    arch: str,
    output: str | Path,
    compare: str | Path | None = None,
) -> float | None:
    """Converts `source` into the folder `output`.

    Args:
      arch: `hrnet_w<N>` with any width N, or `tinypose`.
      compare: `.npz` with `x` [B, 3, H, W] and `y` [B, K, H/4, W/4], a network's input
        and the heatmaps it gave.

    Returns:
      the largest absolute difference to `y`, or None without `compare`.

    Raises:
      WeightsError: for anything wrong with the files or the arguments.
    """
    source, output = Path(source), Path(output)
    check_is_new(output)
    if arch == "tinypose":
        variables = load_tinypose(source)
        module, width, num_keypoints = LiteHRNet(), BRANCH_WIDTHS[0], NUM_KEYPOINTS
    elif match := re.fullmatch(r"hrnet_w([1-9]\d*)", arch):
        width = int(match[1])
        variables, num_keypoints, unused = import_hrnet(
            read_tensors(source), width, str(source)
        )
        module = HRNet(width=width, num_keypoints=num_keypoints)
        for reason, count in unused.items():
            print(f"not used: {count} tensors, {reason}")
    else:
        raise WeightsError(f"--arch={arch}: choose hrnet_w<width> or tinypose")
    maps = f"{num_keypoints} heatmaps" if num_keypoints else "features only"
    count = sum(x.size for x in jax.tree.leaves(variables["params"]))
    print(f"{arch}, {maps}, {count:,} parameters")

    difference = None
    if compare is not None:
        difference = _largest_difference(module, variables, Path(compare))
    save_backbone(
        output,
        variables,
        {
            "arch": arch,
            "width": width,
            "num_keypoints": num_keypoints,
            "source": source.name,
            "source_sha256": sha256(source),
        },
    )
    print(f"wrote {output}")
    return difference


def _largest_difference(module, variables: dict[str, Any], path: Path) -> float:
    if not module.num_keypoints:
        raise WeightsError("--compare: the source has no heatmap layer to compare")
    try:
        with np.load(path, allow_pickle=False) as file:
            x, y = (np.asarray(file[key], np.float32) for key in ("x", "y"))
        # Layer by layer: for one run, compiling the whole net takes far longer (CPU
        # seconds at width 4: 7 against 42).
        _, heatmaps = module.apply(variables, x.transpose(0, 2, 3, 1))
    # A missing array, no file, no .npz, not four axes, sides the network refuses.
    except (OSError, KeyError, ValueError) as error:
        raise WeightsError(f"--compare={path}: {error}") from error
    ours = np.asarray(heatmaps).transpose(0, 3, 1, 2)
    if ours.shape != y.shape:
        raise WeightsError(
            f"--compare={path}: y is {y.shape}, the network's {ours.shape}"
        )
    return float(np.abs(ours - y).max())


def main(arguments: Sequence[str] | None = None) -> None:
    """The command `python -m tdpose_jax.interop.import_weights`."""
    parser = argparse.ArgumentParser(
        prog="python -m tdpose_jax.interop.import_weights",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--source", required=True, help="file with the weights")
    parser.add_argument("--arch", required=True, help="hrnet_w<width> or tinypose")
    parser.add_argument("--output", required=True, help="folder to make")
    parser.add_argument("--compare", help=".npz with input x and expected heatmaps y")
    flags = parser.parse_args(arguments)
    try:
        difference = import_weights(**vars(flags))
    except WeightsError as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    if difference is not None:
        print(f"largest difference {difference:.3g}")


if __name__ == "__main__":
    main()
