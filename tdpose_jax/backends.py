"""Runtimes for a trained network: uint8 clips in, heatmaps out.

`jax` is the Flax model on JAX's default device. `onnxruntime`, `openvino` and
`openvino_bf16` run the exported network on the CPU; they need the packages of
requirements-export.txt and return heatmaps only. `openvino_bf16` multiplies in bfloat16,
which is fast on CPUs with AMX.
"""

import dataclasses
import importlib.util
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from tdpose_jax.models.tdmi import TDMI
from tdpose_jax.steps import normalize_frames

BACKENDS = ("jax", "onnxruntime", "openvino", "openvino_bf16")
STAGES = ("stage1", "stage2", "stage3", "stage4")
MOTION = ("motion_useful", "motion_noisy")
# A stage's features of one frame; what they are is the backend's business.
Features = Any


class BackendError(ValueError):
    """A backend cannot run here. One line with the remedy."""


class Backend(Protocol):
    """A network ready to run. Numpy on both sides but for `Features`."""

    def __call__(self, clips: np.ndarray) -> dict[str, np.ndarray]:
        """[B, T, H, W, 3] uint8 RGB -> {"heatmaps": [B, h, w, K], ...}, B fixed."""
        ...

    def encode_frames(self, frames: np.ndarray) -> Sequence[Features]:
        """[N, H, W, 3] uint8 RGB -> the N frames' features, N fixed."""
        ...

    def decode_windows(
        self, windows: Sequence[Sequence[Features]]
    ) -> dict[str, np.ndarray]:
        """B windows of T frames' features -> as `__call__`, B fixed."""
        ...


def make_backend(
    name: str, model: TDMI, variables: Mapping[str, Any], fields: Mapping[str, Any],
    crop_size_hw: tuple[int, int],
) -> Backend:  # fmt: skip
    """The backend of a name.

    Args:
      model, variables: the Flax network; `jax` runs it.
      fields: the arguments of the exported module (`interop.tdmi_names.torch_fields`).

    Raises:
      BackendError: for an unknown name, a missing package, or a CPU without bfloat16.
    """
    if name == "jax":
        return JaxBackend(model, variables)
    if name not in BACKENDS:
        raise BackendError(f"eval.backend={name!r}; choose one of {BACKENDS}")
    runtime = name.removesuffix("_bf16")
    for package in ("torch", "onnx", runtime):
        if importlib.util.find_spec(package) is None:
            raise BackendError(
                f"eval.backend={name!r} needs the package {package}, which is not "
                "installed: pip install -r requirements-export.txt"
            )
    open_graph = _onnxruntime if name == "onnxruntime" else _openvino(name)
    return ExportedBackend(open_graph, variables, fields, crop_size_hw)


class JaxBackend:
    """The Flax model on the default device, compiled at the first call of each shape.

    Beside `heatmaps`, returns `motion_useful` and `motion_noisy` [B, h, w], the mean
    absolute features, if the model has them.
    """

    def __init__(self, model: TDMI, variables: Mapping[str, Any]):
        self._variables = jax.device_put(variables)

        def results(maps, out):
            motion = {name: out[name] for name in MOTION if name in out}
            small = {n: abs(x.astype("float32")).mean(-1) for n, x in motion.items()}
            return {"heatmaps": maps, **small}

        @jax.jit
        def run(variables, clips):
            return results(*model.apply(variables, normalize_frames(clips)))

        @jax.jit
        def encode(variables, frames):
            features, _ = model.apply(
                variables, normalize_frames(frames), method="encode_frames"
            )
            # One tuple per frame: taking an array apart outside costs a call for each.
            return [tuple(f[i] for f in features) for i in range(len(frames))]

        @jax.jit
        def decode(variables, windows):
            stages = zip(
                *[zip(*window, strict=True) for window in windows], strict=True
            )
            features = [jnp.stack([jnp.stack(w) for w in stage]) for stage in stages]
            return results(
                *model.apply(variables, features, None, method="decode_window")
            )

        self._run, self._encode, self._decode = run, encode, decode

    def __call__(self, clips: np.ndarray) -> dict[str, np.ndarray]:
        """See `Backend`."""
        return jax.device_get(self._run(self._variables, clips))

    def encode_frames(self, frames: np.ndarray) -> Sequence[Features]:
        """See `Backend`; features stay on the device."""
        return self._encode(self._variables, frames)

    def decode_windows(
        self, windows: Sequence[Sequence[Features]]
    ) -> dict[str, np.ndarray]:
        """See `Backend`."""
        return jax.device_get(self._decode(self._variables, windows))


@dataclasses.dataclass(frozen=True)
class Graph:
    """A part of the network in a runtime: {input name: array} -> its outputs."""

    inputs: tuple[str, ...]
    run: Callable[[dict[str, np.ndarray]], list[np.ndarray]]


class ExportedBackend:
    """The exported network in a CPU runtime; each graph is made when first needed."""

    def __init__(
        self,
        open_graph: Callable[[Path], Graph],
        variables: Mapping[str, Any],
        fields: Mapping[str, Any],
        crop_size_hw: tuple[int, int],
    ):
        self._open_graph = open_graph
        self._variables, self._fields = variables, fields
        self._size_hw = crop_size_hw
        self._graphs: dict[str, Graph] = {}

    def _graph(self, part: str) -> Graph:
        if part not in self._graphs:
            from tdpose_jax.interop.onnx_graphs import save_graph

            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"{part}.onnx"
                save_graph(part, path, self._variables, self._fields, self._size_hw)
                self._graphs[part] = self._open_graph(path)
        return self._graphs[part]

    def __call__(self, clips: np.ndarray) -> dict[str, np.ndarray]:
        """See `Backend`."""
        (maps,) = self._graph("whole").run({"pictures": clips})
        return {"heatmaps": maps}

    def encode_frames(self, frames: np.ndarray) -> Sequence[Features]:
        """See `Backend`."""
        stages = self._graph("encode").run({"pictures": frames})
        return list(zip(*stages, strict=True))

    def decode_windows(
        self, windows: Sequence[Sequence[Features]]
    ) -> dict[str, np.ndarray]:
        """See `Backend`."""
        graph = self._graph("decode")
        features = {
            name: np.stack([[frame[stage] for frame in w] for w in windows])
            for stage, name in enumerate(STAGES)
            if name in graph.inputs  # a stage may be left out of the differences
        }
        (maps,) = graph.run(features)
        return {"heatmaps": maps}


def _onnxruntime(path: Path) -> Graph:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # warnings about unused initialisers help nobody
    session = onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"]
    )
    names = tuple(node.name for node in session.get_inputs())
    return Graph(names, lambda arrays: session.run(None, arrays))


def _openvino(name: str) -> Callable[[Path], Graph]:
    # Importing OpenVINO reports its use over the network, from a forked process that
    # JAX's threads may stop dead. Without this package a stub stands in for it.
    sys.modules.setdefault("openvino_telemetry", None)
    import openvino

    core = openvino.Core()
    precision = openvino.Type.f32
    if name == "openvino_bf16":
        if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise BackendError(
                f"eval.backend={name!r}: this CPU has no bfloat16; use 'openvino'"
            )
        precision = openvino.Type.bf16
    hints = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}

    def open_graph(path: Path) -> Graph:
        compiled = core.compile_model(core.read_model(path), "CPU", hints)
        names = tuple(node.any_name for node in compiled.inputs)
        return Graph(names, lambda arrays: list(compiled(arrays).values()))

    return open_graph
