"""The whole model's tensors between Flax's tree and `tdmi_torch.py`'s names and layouts.

A model file is a `.safetensors` with PyTorch's tensors. Its metadata `model` holds the
arguments of `tdmi_torch.TDMI` as JSON: the `model` section of a config without what only
training reads, and `window_delta`.
"""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from tdpose_jax.interop.hrnet_names import to_flax_layout, to_torch_layout, torch_name
from tdpose_jax.interop.weights_file import (
    WeightsError,
    flatten,
    read_tensors,
    unflatten,
)
from tdpose_jax.models.factory import make_model
from tdpose_jax.models.tdmi import TDMI

# Fields of the `model` section that say how to train, not what the model is.
TRAINING_FIELDS = {
    "backbone_weights": "",
    "freeze_backbone": True,
    "silent_motion": True,
    "dtype": "float32",
}


def torch_fields(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The arguments of `tdmi_torch.TDMI` for a config; JSON can hold them."""
    fields = {k: v for k, v in config.model.items() if k not in TRAINING_FIELDS}
    fields["hrnet"] = (
        dict(config.model.hrnet) if config.model.backbone == "hrnet" else None
    )
    fields["window_delta"] = config.data.window_delta
    return json.loads(json.dumps(fields))  # tuples become lists, as a file has them


def flax_model(fields: Mapping[str, Any]) -> TDMI:
    """The Flax module of `torch_fields`, computing in float32.

    Raises:
      KeyError, TypeError, ValueError: for fields that describe no model.
    """
    section = {k: v for k, v in fields.items() if k != "window_delta"}
    return make_model({**section, "hrnet": fields["hrnet"] or {}, **TRAINING_FIELDS})


def flax_shapes(fields: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Flat name -> shape of every variable of `flax_model`; computes nothing."""
    return _flax_shapes(json.dumps(fields))


@functools.cache
def _flax_shapes(fields_json: str) -> dict[str, tuple[int, ...]]:
    fields = json.loads(fields_json)
    num_frames = 2 * fields["window_delta"] + 1
    variables = jax.eval_shape(
        flax_model(fields).init,
        jax.random.key(0),
        jnp.zeros((1, num_frames, 64, 64, 3)),
    )
    flat = flax.traverse_util.flatten_dict(variables, sep=".")
    return {name: leaf.shape for name, leaf in flat.items()}


def to_torch(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Flax variables -> the tensors of `tdmi_torch.TDMI.state_dict()`.

    BatchNorm's `num_batches_tracked`, which nothing reads, is left out: PyTorch's strict
    loading fills it in.
    """
    return {
        torch_name(name): _torch_value(name, value)
        for name, value in flatten(variables).items()
    }


def _torch_value(name: str, value: np.ndarray) -> np.ndarray:
    if value.ndim != 2:
        return to_torch_layout(value)
    value = np.ascontiguousarray(value.T)
    # Lite-HRNet's matrices act on every pixel: 1x1 convolutions there.
    return value[:, :, None, None] if name.startswith("params.backbone.") else value


def export_tdmi(
    path: str | Path,
    variables: Mapping[str, Any],
    fields: Mapping[str, Any],
    metadata: Mapping[str, str],
) -> None:
    """Writes a model file; `metadata` comes beside `model`."""
    metadata = {"format": "pt", "model": json.dumps(fields), **metadata}
    save_file(to_torch(variables), path, metadata)


def import_tdmi(path: str | Path) -> dict[str, Any]:
    """The Flax variables of a model file, bit for bit what was exported.

    Raises:
      WeightsError: if the file is damaged, holds no model, or its tensors are not those
        of the model it describes.
    """
    tensors = read_tensors(path)
    try:
        shapes = flax_shapes(read_fields(path))
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{path}: describes no model ({error})") from error
    filled = {}
    for name, shape in shapes.items():
        source = torch_name(name)
        if source not in tensors:
            raise WeightsError(f"{path}: tensor {source!r} for {name!r} is missing")
        value = tensors.pop(source)
        expected = _torch_value(name, np.empty(shape, np.float32)).shape
        if value.shape != expected:
            raise WeightsError(
                f"{path}: {source!r} {value.shape} does not fit {name!r}, which needs "
                f"{expected}"
            )
        filled[name] = (
            np.ascontiguousarray(value.reshape(value.shape[:2]).T)
            if len(shape) == 2
            else to_flax_layout(value)
        )
    if tensors:
        raise WeightsError(
            f"{path}: {len(tensors)} tensors have no place in the model, the first is "
            f"{min(tensors)!r}"
        )
    return {"batch_stats": {}, **unflatten(filled)}


def read_fields(path: str | Path) -> dict[str, Any]:
    """The arguments of `tdmi_torch.TDMI` that a model file carries.

    Raises:
      WeightsError: if it carries none.
    """
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
    if "model" not in metadata:
        raise WeightsError(
            f"{path}: no model is described in its metadata; expected a file of "
            "python -m tdpose_jax.interop.export_torch"
        )
    return json.loads(metadata["model"])
