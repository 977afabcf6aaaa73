"""What was trained on top of a frozen backbone, as one small safetensors file.

    python -m tdpose_jax.interop.head_file RUN --output=tdmi.safetensors

The file holds every parameter and statistic of the model but the backbone's, under the
names of `weights_file.flatten`, and in its metadata the step, the seed and the run's
config, so that a user of `config.eval.head` needs only the backbone's own weights.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from tdpose_jax.checkpoint import load_variables
from tdpose_jax.interop.weights_file import (
    WeightsError,
    flatten,
    read_tensors,
    unflatten,
)
from tdpose_jax.train_state import fit_tree


def save_head(path: str | Path, workdir: str | Path, which: str = "latest") -> int:
    """Writes a run's head; returns the file's size in bytes.

    Args:
      which: "latest" or "best", as `checkpoint.load_variables` has it.

    Raises:
      CheckpointError: if the run has no checkpoint.
      WeightsError: if the run's backbone was trained too, so that a head is not enough.
    """
    variables, step = load_variables(Path(workdir), which)
    config = json.loads((Path(workdir) / "config.json").read_text())
    if not config["model.freeze_backbone"]:
        raise WeightsError(
            f"{workdir} trained its backbone too (model.freeze_backbone=False): a head "
            "alone does not hold what it learned"
        )
    trained = {
        kind: {name: value for name, value in tree.items() if name != "backbone"}
        for kind, tree in variables.items()
    }
    flat = {k: np.ascontiguousarray(v) for k, v in flatten(trained).items()}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"step": str(step), "config": json.dumps(config)}
    save_file(flat, path, metadata=metadata)
    return path.stat().st_size


def load_head(
    path: str | Path, variables: dict[str, Any]
) -> tuple[dict[str, Any], int]:
    """`variables` with everything but the backbone replaced by the file's; its step.

    Raises:
      FileNotFoundError: if there is no such file.
      WeightsError: if it is no head, or another model's; names the first tensor.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"eval.head: {path} does not exist")
    tree = unflatten(read_tensors(path))
    with safe_open(str(path), "np") as file:
        metadata = file.metadata() or {}
    if "step" not in metadata or "params" not in tree:
        raise WeightsError(
            f"eval.head: {path} is not a head that "
            "`python -m tdpose_jax.interop.head_file` wrote"
        )
    result = {}
    for kind, target in variables.items():
        trained = {k: v for k, v in target.items() if k != "backbone"}
        try:
            fitted = fit_tree(trained, tree[kind] if kind in tree else {}, kind)
        except ValueError as error:
            raise WeightsError(
                f"eval.head: {path} does not fit this config's model: {error}"
            ) from error
        result[kind] = {**target, **fitted}
    return result, int(metadata["step"])


def main(argv: list[str] | None = None) -> None:
    """The command of the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir", help="a run folder of a frozen-backbone config")
    parser.add_argument("--output", required=True, help=".safetensors file to write")
    parser.add_argument("--which", default="latest", choices=["latest", "best"])
    arguments = parser.parse_args(argv)
    try:
        size = save_head(arguments.output, arguments.workdir, arguments.which)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"wrote {arguments.output}, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
