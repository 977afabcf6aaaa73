"""Tensors in and out of files, without ever running code from a file.

`read_tensors` takes PyTorch's formats; `save_backbone` and `load_backbone` are this
project's own: a folder with `backbone.safetensors` (Flax layout, HWIO kernels, names
`params.<path>` and `batch_stats.<path>`) and `arch.json`.
"""

import contextlib
import hashlib
import json
import os
import pickle
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

TENSORS_FILE = "backbone.safetensors"
ARCH_FILE = "arch.json"
# Where the tensors of a training checkpoint are, in order of preference.
STATE_DICT_KEYS = ("state_dict", "model", "module")


class WeightsError(ValueError):
    """A weights file is not what it should be. One line, naming file and tensor."""


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """Tensors of a `.safetensors` or PyTorch (`.pth`, `.pt`, `.bin`) file by name.

    Floating tensors become float32. A training checkpoint's `state_dict` is found;
    whatever else such a file holds (optimiser, counters) is not looked at.

    Raises:
      WeightsError: if the file is absent, damaged, holds no tensors, or is a pickle that
        would have to run code to be read.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise WeightsError(f"{path}: damaged .safetensors ({error})") from error
    else:
        tensors = _read_torch(path)
    return {
        name: value.astype(np.float32) if value.dtype.kind == "f" else value
        for name, value in tensors.items()
    }


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    import torch

    try:
        # torch warns about pickles of unusual versions before it refuses them.
        with torch.serialization.safe_globals(_numpy_types()), _no_warnings():
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # The rest of torch's message advises to run the code; keep the cause alone.
        cause = re.search(
            r"GLOBAL (\S+)|WeightsUnpickler error:\s*([^\n]+)", str(error)
        )
        cause = "unknown" if cause is None else cause[1] or cause[2].strip()
        raise WeightsError(
            f"{path}: refused, it cannot be read without running code from it ({cause}); "
            "save its state_dict alone with torch.save or as .safetensors"
        ) from error
    # torch raises RuntimeError, EOFError, KeyError, struct.error, ... on damaged files.
    except Exception as error:
        raise WeightsError(
            f"{path}: damaged, or not a PyTorch file ({type(error).__name__})"
        ) from error
    for key in STATE_DICT_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, no state_dict")
    tensors = {
        name: (value.float() if value.is_floating_point() else value).numpy()
        for name, value in content.items()
        if isinstance(value, torch.Tensor)
    }
    if not tensors:
        raise WeightsError(f"{path}: holds no tensors")
    return tensors


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _numpy_types() -> list:
    """What numpy arrays and scalars are pickled with; inert, and mmpose's files and
    HRNet's training checkpoints have some beside their tensors."""
    from numpy._core import multiarray

    functions = [
        (getattr(multiarray, name), f"numpy.{core}.multiarray.{name}")
        for name in ("_reconstruct", "scalar")
        for core in ("core", "_core")
    ]
    dtypes = {type(np.dtype(t)) for t in "?bhilqBHILQefd"} | {np.dtypes.StrDType}
    return [*functions, np.ndarray, np.dtype, *dtypes]


def flatten(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """{"params": tree, ...} -> {"params.layer1.0.conv1.kernel": array, ...}."""
    flat = traverse_util.flatten_dict(dict(variables), sep=".")
    return {name: np.asarray(value) for name, value in flat.items()}


def unflatten(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Inverse of `flatten`.

    Our module names contain dots only before numbers (`layer1.0`), so a number belongs
    to the name before it.
    """
    tree: dict = {}
    for name, value in flat.items():
        path: list[str] = []
        for part in name.split("."):
            if part.isdigit():
                path[-1] += f".{part}"
            else:
                path.append(part)
        node = tree
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = value
    return tree


def save_backbone(
    directory: str | Path, variables: Mapping[str, Any], arch: Mapping[str, Any]
) -> None:
    """Writes the folder that `load_backbone` reads, complete or not at all.

    Args:
      variables: `{"params", "batch_stats"}` of a backbone module.
      arch: what `arch.json` shall say; at least `arch`, `width`, `num_keypoints`.

    Raises:
      WeightsError: if the folder exists and is not empty.
    """
    # safetensors writes a transposed view's bytes without a word: make it contiguous.
    flat = {
        name: np.ascontiguousarray(value) for name, value in flatten(variables).items()
    }
    with _new_directory(Path(directory)) as partial:
        save_file(flat, partial / TENSORS_FILE)
        (partial / ARCH_FILE).write_text(json.dumps(dict(arch), indent=2) + "\n")


def load_backbone(path: str | Path) -> dict[str, Any]:
    """Backbone variables from an imported folder, or from TinyPose's `.npz`.

    Returns:
      `{"params": tree, "batch_stats": tree}`, float32; `batch_stats` is empty for
      TinyPose, whose BatchNorm is folded.

    Raises:
      WeightsError: if it is neither, or damaged.
    """
    path = Path(path)
    if path.suffix == ".npz":
        from tdpose_jax.interop.tinypose import load_tinypose

        return {"batch_stats": {}, **load_tinypose(path)}
    for name in (TENSORS_FILE, ARCH_FILE):
        if not (path / name).is_file():
            raise WeightsError(
                f"{path}: not a backbone folder, {name} is missing (make one with "
                "python -m tdpose_jax.interop.import_weights)"
            )
    tree = unflatten(read_tensors(path / TENSORS_FILE))
    if not {"params"} <= set(tree) <= {"params", "batch_stats"}:
        raise WeightsError(
            f"{path}: {TENSORS_FILE} holds {sorted(tree)}, not params and batch_stats"
        )
    return {"batch_stats": {}, **tree}


def sha256(path: str | Path) -> str:
    """The file's SHA-256, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _new_directory(directory: Path) -> Iterator[Path]:
    """A temporary sibling that becomes `directory` when the block ends well."""
    check_is_new(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        yield partial
        os.chmod(partial, 0o755)  # mkdtemp's folders are private
        os.replace(partial, directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_is_new(directory: Path) -> None:
    """Raises WeightsError unless `directory` is absent or an empty folder."""
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise WeightsError(f"{directory}: already exists; remove it or name another")
