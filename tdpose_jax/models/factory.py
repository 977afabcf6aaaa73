"""From the `model` section of a config to a module."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from tdpose_jax.models.hrnet import HRNet
from tdpose_jax.models.lite_hrnet import LiteHRNet
from tdpose_jax.models.tdmi import TDMI

BACKBONES = ("hrnet", "tinypose")
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def resolve_dtype(name: str) -> Any:
    """`auto` is bfloat16 on accelerators, float32 on CPU.

    Raises:
      ValueError: naming the valid choices.
    """
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    if name not in DTYPES:
        raise ValueError(f"model.dtype={name!r}; choose auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def make_model(
    model_config: Mapping[str, Any],
    axis_name: str | None = None,
    remat_backbone: bool = False,
) -> TDMI:
    """Builds the model; every field is passed on, so an unknown one is a TypeError.

    Args:
      model_config: the `model` section; `backbone_weights` is the trainer's business.
      axis_name: mapped axis for BatchNorm statistics in training.

    Raises:
      ValueError: for an unknown backbone or dtype.
      TypeError: for a field that TDMI or its backbone does not have.
    """
    fields = {k: v for k, v in dict(model_config).items() if k != "backbone_weights"}
    kind, hrnet = fields.pop("backbone"), dict(fields.pop("hrnet"))
    common = dict(dtype=resolve_dtype(fields.pop("dtype")))
    if kind == "hrnet":
        hrnet["stage_modules"] = tuple(hrnet["stage_modules"])
        backbone = HRNet(**hrnet, **common, axis_name=axis_name, remat=remat_backbone)
    elif kind == "tinypose":
        if not fields["freeze_backbone"]:
            raise ValueError(
                "model.backbone='tinypose' has its BatchNorm folded away and can only "
                "be used with model.freeze_backbone=True"
            )
        backbone = LiteHRNet(**common)
    else:
        raise ValueError(f"model.backbone={kind!r}; choose one of {BACKBONES}")
    for name in ("difference_stages", "difference_blocks"):
        fields[name] = tuple(fields[name])
    return TDMI(backbone=backbone, axis_name=axis_name, **common, **fields)
