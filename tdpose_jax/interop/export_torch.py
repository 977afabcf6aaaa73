"""A trained model for PyTorch, and for those who deploy without either framework.

  python -m tdpose_jax.interop.export_torch --workdir=runs/a --output=out/model.safetensors

Three files are written, or none: `model.safetensors`, `model.onnx` and `tdmi_torch.py`.
Use them anywhere, without this project:

    import torch, tdmi_torch
    model = tdmi_torch.load("model.safetensors")
    crops = torch.rand(1, 5, 3, 384, 288)  # RGB in 0..1, time order, keyframe in the middle
    with torch.inference_mode():
        heatmaps = model(tdmi_torch.normalize(crops))  # [1, K, 96, 72]

The HRNet part carries the official names under `backbone.`. Into the original class:

    tensors, _ = tdmi_torch.read_safetensors("model.safetensors")
    tensors = {k[9:]: v for k, v in tensors.items() if k.startswith("backbone.")}
    pose_hrnet.load_state_dict(tensors, strict=True)

The ONNX file (opset 18) maps `frames` [batch, T, 3, H, W], normalised, any batch, to
`heatmaps` [batch, K, H/4, W/4]. What only training needs (the mutual information's
networks, the optimiser) is not exported.

Before anything is kept, the written files are run beside the Flax model on random crops
and on crops of the run's own data set if it is there; see `parity` for what is allowed.
"""

import argparse
import importlib.util
import json
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import ml_collections
import numpy as np
from jaxtyping import UInt8

from tdpose_jax.checkpoint import load_variables
from tdpose_jax.interop import parity
from tdpose_jax.interop.tdmi_names import (
    export_tdmi,
    flax_model,
    flax_shapes,
    torch_fields,
)
from tdpose_jax.interop.weights_file import WeightsError, flatten
from tdpose_jax.run_folder import unflatten_config
from tdpose_jax.skeleton import get_skeleton
from tdpose_jax.steps import normalize_frames

ONNX_OPSET = 18
TEMPLATE = Path(__file__).parent / "torch_template" / "tdmi_torch.py"
# Without LLVM's costly passes, for networks that run a few times: CPU seconds to compile
# and run a small one are 2.1 against 3.7, and 9.9 layer by layer.
QUICK_COMPILE = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
NUM_RANDOM_CLIPS = 2
NUM_REAL_CLIPS = 4


def read_config(workdir: str | Path) -> ml_collections.ConfigDict:
    """The config a run folder was made with.

    Raises:
      WeightsError: if there is none.
    """
    path = Path(workdir) / "config.json"
    try:
        config = unflatten_config(json.loads(path.read_text()))
        for section in ("data", "model", "eval"):
            config[section]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise WeightsError(
            f"{workdir}: not a run folder, config.json cannot be read ({error})"
        ) from error
    return config


def export(
    workdir: str | Path,
    output: str | Path,
    real_clips: UInt8[np.ndarray, "N T H W 3"] | None = None,
    which: str = "best",
) -> list[parity.Difference]:
    """Writes `output`, the `.onnx` of the same name and `tdmi_torch.py` beside it.

    Args:
      workdir: run folder of `main.py`.
      output: `<name>.safetensors`.
      real_clips: crops to compare the models on, besides random ones.
      which: checkpoint, "best" or "latest".

    Returns:
      what `parity.compare` measured.

    Raises:
      WeightsError: if the folder, the output or the exported model is not right.
      CheckpointError: if the run has no checkpoint.
    """
    output = Path(output).absolute()
    targets = [output, output.with_suffix(".onnx"), output.with_name(TEMPLATE.name)]
    _check_targets(targets)
    config = read_config(workdir)
    variables, step = load_variables(Path(workdir), which)
    fields = torch_fields(config)
    _check_variables(workdir, variables, fields)
    h, w = config.data.crop_size_hw
    shape = (2 * config.data.window_delta + 1, h, w, 3)

    # On the same file system if possible, so that moving is renaming.
    parent = next(folder for folder in output.parents if folder.exists())
    with tempfile.TemporaryDirectory(prefix=".export.", dir=parent) as partial:
        files = [Path(partial) / target.name for target in targets]
        metadata = {
            "crop_size_hw": json.dumps([h, w]),
            "keypoint_names": json.dumps(get_skeleton(config.data.skeleton).joints),
            "step": str(step),
        }
        export_tdmi(files[0], variables, fields, metadata)
        shutil.copyfile(TEMPLATE, files[2])
        module = _import_file(files[2])
        net = module.load(files[0])
        save_onnx(net, files[1], shape)

        rng = np.random.default_rng(0)
        noise = rng.integers(0, 256, (NUM_RANDOM_CLIPS, *shape), np.uint8)
        clips = {"random crops": noise}
        if real_clips is not None:
            clips["real crops"] = real_clips
        others = {"PyTorch": torch_model(module, net), "ONNX": onnx_model(files[1])}
        differences = parity.compare(
            jax_model(fields, variables), others, clips, config.eval.decoder
        )
        output.parent.mkdir(parents=True, exist_ok=True)
        for file, target in zip(files, targets, strict=True):
            os.chmod(file, 0o644)
            os.replace(file, target)
    return differences


def _check_targets(targets: Sequence[Path]) -> None:
    weights, onnx_file, template = targets
    if weights.suffix != ".safetensors":
        raise WeightsError(f"--output={weights}: must end in .safetensors")
    for path in (weights, onnx_file):
        if path.exists():
            raise WeightsError(f"{path}: already exists; remove it or name another")
    # The folder of an earlier export has it already; somebody's edits are kept.
    if template.exists() and template.read_bytes() != TEMPLATE.read_bytes():
        raise WeightsError(
            f"{template}: exists and is not this version's; choose another folder"
        )


def _check_variables(workdir, variables: dict, fields: dict[str, Any]) -> None:
    """The checkpoint holds this config's model, all of it and nothing else."""
    found = {name: value.shape for name, value in flatten(variables).items()}
    needed = flax_shapes(fields)
    for name in sorted(found.keys() | needed.keys()):
        if name not in found or name not in needed or found[name] != needed[name]:
            raise WeightsError(
                f"{workdir}: the checkpoint is not of the model in config.json, "
                f"{name!r} is {found[name] if name in found else 'absent'} there and "
                f"{needed[name] if name in needed else 'absent'} in the model"
            )


def save_onnx(net, path: Path, clip_shape: tuple[int, int, int, int]) -> None:
    """A `tdmi_torch.TDMI` as one ONNX file for any batch of clips [T, H, W, 3]."""
    import torch

    t, h, w, _ = clip_shape
    # Two examples, so that nothing takes the batch for an axis of size 1.
    write_onnx(net, path, {"frames": torch.zeros(2, t, 3, h, w)}, ["heatmaps"])


def write_onnx(net, path: Path, inputs: dict, outputs: Sequence[str]) -> None:
    """A PyTorch module as an ONNX file; the first axis of everything stays free.

    Args:
      inputs: name -> example tensor, in the order of the module's arguments.
      outputs: names of what it returns.
    """
    import torch

    with warnings.catch_warnings(), torch.inference_mode():
        # It is deprecated in favour of dynamo=True, which takes 25 s of CPU time for a
        # tiny model against 1.1 s (torch 2.13), for the same results.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            tuple(inputs.values()),
            path,
            dynamo=False,
            opset_version=ONNX_OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: {0: "batch"} for name in (*inputs, *outputs)},
        )


def onnx_model(path: Path):
    """uint8 RGB clips [N, T, H, W, 3] -> heatmaps [N, h, w, K], by onnxruntime on CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # warnings about unused initialisers help nobody
    session = onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"]
    )

    def model(clips):
        frames = np.moveaxis(np.asarray(normalize_frames(clips)), -1, -3)
        (maps,) = session.run(None, {"frames": np.ascontiguousarray(frames)})
        return np.moveaxis(maps, 1, -1)

    return model


def torch_model(module: ModuleType, net):
    """uint8 RGB clips [N, T, H, W, 3] -> heatmaps [N, h, w, K], by PyTorch on CPU."""
    import torch

    def model(clips):
        frames = torch.from_numpy(np.moveaxis(clips, -1, -3).copy()).float() / 255
        with torch.inference_mode():
            maps = net(module.normalize(frames))
        return np.moveaxis(maps.numpy(), 1, -1)

    return model


def jax_model(fields: dict[str, Any], variables: dict):
    """uint8 RGB clips [N, T, H, W, 3] -> heatmaps [N, h, w, K], by Flax on CPU."""
    flax = flax_model(fields)
    run = jax.jit(
        lambda variables, clips: flax.apply(variables, normalize_frames(clips))[0],
        compiler_options=QUICK_COMPILE,
    )
    cpu = jax.local_devices(backend="cpu")[0]  # accelerators round float32 products

    def model(clips):
        with jax.default_device(cpu):
            return run(variables, clips)

    return model


def _import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("exported_tdmi_torch", path)
    assert spec is not None and spec.loader is not None  # it is a .py file
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(arguments: Sequence[str] | None = None) -> None:
    """The command `python -m tdpose_jax.interop.export_torch`."""
    parser = argparse.ArgumentParser(
        prog="python -m tdpose_jax.interop.export_torch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", required=True, help="run folder of main.py")
    parser.add_argument("--output", required=True, help="<name>.safetensors to write")
    parser.add_argument("--checkpoint", default="best", help="best or latest")
    flags = parser.parse_args(arguments)
    try:
        for package in ("torch", "onnx", "onnxruntime"):
            if importlib.util.find_spec(package) is None:
                raise WeightsError(
                    f"{package} is not installed: pip install -r requirements-export.txt"
                )
        clips = _real_clips(read_config(flags.workdir))
        differences = export(flags.workdir, flags.output, clips, flags.checkpoint)
    except ValueError as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    print(
        f"wrote {flags.output}; largest difference: "
        f"heatmaps {max(d.heatmap for d in differences):.3g}, "
        f"joints {max(d.joint_px for d in differences):.3g} px"
    )


def _real_clips(config: ml_collections.ConfigDict) -> np.ndarray | None:
    """The first people of the run's evaluation split, or None without the data set."""
    # A main program may read data, a module of the package may not.
    from data_pipelines.input_pipeline import make_eval_iterator

    try:
        batches = make_eval_iterator(
            config.data, config.data.eval_split, NUM_REAL_CLIPS, 0, 1
        )
        batch = next(iter(batches))
    except (FileNotFoundError, ValueError) as error:
        print(f"not compared on real crops: {error}")
        return None
    return batch.frames[batch.example_is_real]


if __name__ == "__main__":
    main()
