"""Networks from disk, with everything needed to feed them."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from tdpose_jax.checkpoint import FOLDERS, load_variables
from tdpose_jax.interop.tdmi_names import torch_fields
from tdpose_jax.interop.weights_file import ARCH_FILE, WeightsError, load_backbone
from tdpose_jax.models.factory import make_model, resolve_dtype
from tdpose_jax.models.hrnet import HRNet
from tdpose_jax.models.lite_hrnet import LiteHRNet
from tdpose_jax.models.tdmi import TDMI
from tdpose_jax.run_folder import unflatten_config
from tdpose_jax.skeleton import SKELETONS, Skeleton, get_skeleton

# What the networks that can be imported were trained on: COCO at HRNet's small size.
BACKBONE_CROP_HW = (256, 192)


class CheckpointFolderError(ValueError):
    """A checkpoint cannot be used for prediction. One line with the reason."""


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A network and everything needed to feed it.

    Attributes:
      variables: `{"params", "batch_stats"}`.
      fields: what the exported module is built from, for other runtimes than JAX.
      window_delta: supporting frames on each side; 0 for a single-frame network.
      flip_test: average with the mirror image, as the run was evaluated.
      description: for the report, e.g. "tdmi, runs/demo/tdmi, step 300".
    """

    model: TDMI
    variables: dict[str, Any]
    fields: dict[str, Any]
    skeleton: Skeleton
    crop_size_hw: tuple[int, int]
    window_delta: int
    box_enlarge: float
    decoder: str
    flip_test: bool
    description: str


def load_model(path: str | Path, which: str = "best") -> LoadedModel:
    """A run folder, a folder that `import_weights` wrote, or TinyPose's .npz.

    Raises:
      CheckpointFolderError: if it is none of them, or has no heatmaps of its own.
      WeightsError, CheckpointError: if it is damaged or unfinished.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointFolderError(f"--checkpoint={path}: no such file or folder")
    if path.suffix == ".npz" or (path / ARCH_FILE).is_file():
        return _load_imported(path)
    if (path / "config.json").is_file():
        return _load_run(path, which)
    raise CheckpointFolderError(
        f"--checkpoint={path}: neither a run folder (config.json, "
        f"{FOLDERS['latest']}/), nor a folder of tdpose_jax.interop.import_weights "
        f"({ARCH_FILE}), nor TinyPose's .npz"
    )


def _load_run(path: Path, which: str) -> LoadedModel:
    config = unflatten_config(json.loads((path / "config.json").read_text()))
    try:
        model = make_model(config.model)
        skeleton = get_skeleton(config.data.skeleton)
        variables, step = load_variables(path, which)
        # A single-frame row may also be the full head over a window of one frame.
        window_delta = config.data.window_delta
        if model.backbone_only or not model.uses_supporting_frames:
            window_delta = 0
        row = "TDMI" if window_delta else "single frame"
        if model.backbone_only:
            row = "backbone"
        return LoadedModel(
            model=model,
            variables=variables,
            fields=torch_fields(config),
            skeleton=skeleton,
            crop_size_hw=tuple(config.data.crop_size_hw),
            window_delta=window_delta,
            box_enlarge=config.data.box_enlarge,
            decoder=config.eval.decoder,
            flip_test=config.eval.flip_test,
            description=f"{row}, {path.resolve().name}, step {step}",
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise CheckpointFolderError(
            f"--checkpoint={path}: config.json is of another version ({error})"
        ) from error


def _load_imported(path: Path) -> LoadedModel:
    dtype = resolve_dtype("auto")
    arch = {"arch": "tinypose", "num_keypoints": 17}
    if path.suffix != ".npz":
        arch = json.loads((path / ARCH_FILE).read_text())
    num_keypoints = arch["num_keypoints"]
    coco = SKELETONS["coco"]
    if num_keypoints != coco.num_keypoints:
        raise CheckpointFolderError(
            f"--checkpoint={path}: an imported backbone needs COCO's "
            f"{coco.num_keypoints} heatmaps to be used alone, this one has "
            f"{num_keypoints or 'none'}; train on it and give the run folder"
        )
    if arch["arch"] == "tinypose":
        backbone = LiteHRNet(dtype=dtype)
    elif str(arch["arch"]).startswith("hrnet"):
        backbone = HRNet(width=arch["width"], num_keypoints=num_keypoints, dtype=dtype)
    else:
        raise WeightsError(f"{path}: {ARCH_FILE} names arch {arch['arch']!r}")
    variables = load_backbone(path)
    is_hrnet = isinstance(backbone, HRNet)
    return LoadedModel(
        model=TDMI(backbone=backbone, backbone_only=True, dtype=dtype),
        variables={
            "params": {"backbone": variables["params"]},
            "batch_stats": {"backbone": variables["batch_stats"]},
        },
        fields={
            "backbone": "hrnet" if is_hrnet else "tinypose",
            "hrnet": {"width": arch["width"]} if is_hrnet else None,
            "backbone_only": True,
            "window_delta": 0,
        },
        skeleton=coco,
        crop_size_hw=BACKBONE_CROP_HW,
        window_delta=0,
        box_enlarge=1.25,
        decoder="subpixel",
        flip_test=False,
        description=f"{arch['arch']} (single frame), {path.name}",
    )
