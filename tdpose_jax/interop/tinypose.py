"""PP-TinyPose's published weights -> parameters of `models.lite_hrnet.LiteHRNet`.

The file is the ncnn conversion of PaddleDetection's network as numpy arrays: layers
`Conv_0` ... `Conv_268` in the order in which they run, `.weight` in OIHW and `.bias`,
BatchNorm folded. A sibling `<name>.graph.json` lists the layers with their attributes.
The names carry no structure, so the structure is stated here once (`tinypose_layers`)
and compared with the file layer by layer.
"""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tdpose_jax.interop.weights_file import WeightsError

BRANCH_WIDTHS = (40, 80, 160, 320)
STEM_WIDTH = 32
STAGE_MODULES = (2, 4, 2)
UNITS_PER_MODULE = 2
NUM_KEYPOINTS = 17


@dataclasses.dataclass(frozen=True)
class ConvLayer:
    """One convolution of the network.

    Attributes:
      path: of its parameters in the Flax tree.
      inputs, outputs: channels.
      kind: `"full"` 3x3, `"depthwise"` 3x3 or `"pointwise"` 1x1.
      relu: a ReLU is part of the layer.
    """

    path: tuple[str, ...]
    inputs: int
    outputs: int
    kind: str = "pointwise"
    stride: int = 1
    relu: bool = True

    @property
    def oihw(self) -> tuple[int, int, int, int]:
        """The weight's shape in PyTorch and ncnn: outputs, inputs, height, width."""
        size = 1 if self.kind == "pointwise" else 3
        inputs = 1 if self.kind == "depthwise" else self.inputs
        return (self.outputs, inputs, size, size)

    def to_flax(self, weight: np.ndarray) -> np.ndarray:
        """OIHW -> [inputs, outputs] for a 1x1 convolution, HWIO for the others."""
        hwio = np.ascontiguousarray(weight.transpose(2, 3, 1, 0), np.float32)
        return hwio[0, 0] if self.kind == "pointwise" else hwio

    @property
    def graph_attributes(self) -> dict[str, int]:
        """What `graph.json` should say, in ncnn's numbering; defaults are left out."""
        attributes = {"0": self.outputs, "1": self.oihw[2], "5": 1}
        attributes["6"] = int(np.prod(self.oihw))
        if self.stride != 1:
            attributes["3"] = self.stride
        if self.kind != "pointwise":
            attributes["4"] = 1
        if self.kind == "depthwise":
            attributes["7"] = self.outputs
        if self.relu:
            attributes["9"] = 1
        return attributes


def _separable(path, inputs, outputs, stride=1, relu=True) -> Iterator[ConvLayer]:
    yield ConvLayer(
        (*path, "depthwise"), inputs, inputs, "depthwise", stride, relu=False
    )
    yield ConvLayer((*path, "pointwise"), inputs, outputs, relu=relu)


def _fuse_module(path, branches: int) -> Iterator[ConvLayer]:
    widths = BRANCH_WIDTHS[:branches]
    for j, width in enumerate(widths):
        for unit in range(UNITS_PER_MODULE):
            unit_path = (*path, f"branch{j}_unit{unit}")
            yield ConvLayer((*unit_path, "expand"), width // 2, width // 2)
            yield from _separable((*unit_path, "separable"), width // 2, width // 2)
    for i, target in enumerate(widths):
        for j, source in enumerate(widths):
            if j > i:
                name = f"up{j}to{i}"
                yield ConvLayer((*path, name), source, target, relu=False)
            for step in range(i - j):
                last = step == i - j - 1
                yield from _separable(
                    (*path, f"down{j}to{i}_{step}"),
                    source,
                    target if last else source,
                    stride=2,
                    relu=not last,
                )


def tinypose_layers() -> Iterator[ConvLayer]:
    """All convolutions in the order of the file, `Conv_0` first."""
    half = STEM_WIDTH // 2
    stem = ("stem",)
    yield ConvLayer((*stem, "conv"), 3, STEM_WIDTH, "full", stride=2)
    yield from _separable((*stem, "first"), half, half, stride=2)
    yield ConvLayer((*stem, "expand"), half, STEM_WIDTH)
    yield from _separable((*stem, "second"), STEM_WIDTH, half, stride=2)
    yield from _separable(("transition_branch0",), STEM_WIDTH, BRANCH_WIDTHS[0])
    for stage, num_modules in enumerate(STAGE_MODULES, start=2):
        source = STEM_WIDTH if stage == 2 else BRANCH_WIDTHS[stage - 2]
        path = (f"transition_branch{stage - 1}",)
        yield from _separable(path, source, BRANCH_WIDTHS[stage - 1], stride=2)
        for m in range(num_modules):
            yield from _fuse_module((f"stage{stage}_module{m}",), stage)
    for b in (3, 2, 1, 0):
        target = BRANCH_WIDTHS[max(b - 1, 0)]
        yield from _separable((f"head_branch{b}",), BRANCH_WIDTHS[b], target)
    yield ConvLayer(("final_layer",), BRANCH_WIDTHS[0], NUM_KEYPOINTS, relu=False)


def load_tinypose(path: str | Path) -> dict:
    """Reads `tinypose_256x192.npz` into `{"params": ...}` for `LiteHRNet()`, float32.

    If `<name>.graph.json` lies beside the file, every convolution's size, stride,
    grouping and activation is checked against it as well.

    Raises:
      WeightsError: naming file and layer, if the file cannot be read, or if a tensor is
        missing, left over, of the wrong shape, or not what the graph says.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            source = {name: file[name] for name in file.files}
    # zipfile raises its own types, numpy ValueError, a missing file OSError.
    except Exception as error:
        raise WeightsError(f"{path}: not a readable .npz file ({error})") from error
    layers = list(tinypose_layers())
    graph_path = path.with_name(path.stem + ".graph.json")
    if graph_path.is_file():
        _check_graph(graph_path, layers)

    params: dict = {}
    for i, layer in enumerate(layers):
        leaf = params
        for part in layer.path:
            leaf = leaf.setdefault(part, {})
        leaf["kernel"] = layer.to_flax(
            _take(source, path, f"Conv_{i}.weight", layer, layer.oihw)
        )
        bias = _take(source, path, f"Conv_{i}.bias", layer, (layer.outputs,))
        leaf["bias"] = bias.astype(np.float32)
    if source:
        raise WeightsError(
            f"{path}: {len(source)} tensors have no place in TinyPose, the first is "
            f"{min(source)!r}"
        )
    return {"params": params}


def _take(source: dict, path: Path, name: str, layer: ConvLayer, shape) -> np.ndarray:
    target = "/".join(layer.path)
    if name not in source:
        raise WeightsError(f"{path}: tensor {name!r} for {target} is missing")
    value = source.pop(name)
    if value.shape != shape:
        raise WeightsError(
            f"{path}: tensor {name!r} has shape {value.shape}, but {target} needs {shape}"
        )
    return value


def _check_graph(graph_path: Path, layers: list[ConvLayer]) -> None:
    graph = json.loads(graph_path.read_text())
    found = [layer for layer in graph if layer["type"].startswith("Convolution")]
    if len(found) != len(layers):
        raise WeightsError(
            f"{graph_path}: {len(found)} convolutions, TinyPose has {len(layers)}"
        )
    for i, (node, layer) in enumerate(zip(found, layers, strict=True)):
        depthwise = node["type"] == "ConvolutionDepthWise"
        expected = layer.graph_attributes
        if (
            node["name"] != f"Conv_{i}"
            or depthwise != (layer.kind == "depthwise")
            or node["attrs"] != expected
        ):
            raise WeightsError(
                f"{graph_path}: layer {node['name']} ({node['type']} {node['attrs']}) is "
                f"not Conv_{i} of TinyPose, {'/'.join(layer.path)} with {expected}"
            )
