"""Runs a network straight from its list of layers: the yardstick of our own modules.

Attributes are in ncnn's numbering: 0 outputs, 1 kernel, 3 stride, 4 padding, 7 groups,
9 = 1 ReLU. It knows nothing of Lite-HRNet and shares no code with the package.
"""

import numpy as np


def run_graph(layers: list[dict], weights: dict, x_nchw: np.ndarray) -> dict:
    """Every blob by name, as numpy arrays in NCHW."""
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(1)

    def tensor(name):
        return torch.from_numpy(weights[name].astype(np.float32))

    blobs = {"image": torch.from_numpy(x_nchw)}
    for layer in layers:
        kind, name, attrs = layer["type"], layer["name"], layer["attrs"]
        x = [blobs[i] for i in layer["inputs"]]
        if kind == "Input":
            continue
        elif kind in ("Convolution", "ConvolutionDepthWise"):
            y = F.conv2d(
                x[0],
                tensor(f"{name}.weight"),
                tensor(f"{name}.bias"),
                stride=attrs.get("3", 1),
                padding=attrs.get("4", 0),
                groups=attrs.get("7", 1),
            )
            out = [y.relu() if attrs.get("9") else y]
        elif kind == "Slice":
            out = x[0].chunk(len(layer["outputs"]), dim=1)
        elif kind == "Split":
            out = x * len(layer["outputs"])
        elif kind == "Concat":
            out = [torch.cat(x, dim=1)]
        elif kind == "Reshape":  # ncnn lists sizes from the fastest axis on
            sizes = [attrs[k] for k in "210" if k in attrs]
            out = [x[0].reshape(len(x_nchw), *sizes)]
        elif kind == "Permute":
            assert attrs == {"0": 2}
            out = [x[0].transpose(1, 2)]
        elif kind == "BinaryOp":
            assert not attrs  # addition
            out = [x[0] + x[1]]
        elif kind == "ReLU":
            out = [x[0].relu()]
        elif kind == "Interp" and attrs["0"] == 1:
            out = [F.interpolate(x[0], scale_factor=attrs["1"], mode="nearest")]
        elif kind == "Interp":
            size = (attrs["3"], attrs["4"])
            out = [F.interpolate(x[0], size=size, mode="bilinear", align_corners=True)]
        else:
            raise ValueError(f"unknown layer type {kind!r}")
        blobs.update(zip(layer["outputs"], out, strict=True))
    return {name: blob.numpy() for name, blob in blobs.items()}
