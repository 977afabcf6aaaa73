"""The exported network as ONNX graphs from uint8 pictures, for inference runtimes.

Three parts: `whole` maps clips [B, T, H, W, 3] to heatmaps [B, h, w, K]; `encode` maps
frames [N, H, W, 3] to four stage features [N, C, h, w]; `decode` maps
`stage1` to `stage4` [B, T, C, h, w], those that it reads, to heatmaps. Pictures are uint8 RGB, normalised inside.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tdpose_jax.interop.export_torch import write_onnx
from tdpose_jax.interop.tdmi_names import to_torch
from tdpose_jax.shapes import HEATMAP_STRIDE


def save_graph(
    part: str,
    path: Path,
    variables: Mapping[str, Any],
    fields: Mapping[str, Any],
    crop_size_hw: tuple[int, int],
) -> None:
    """Writes one part as an ONNX file for any batch.

    Args:
      variables: of the Flax model.
      fields: the arguments of `tdmi_torch.TDMI`.
    """
    import torch

    from tdpose_jax.interop.torch_template import tdmi_torch

    net = tdmi_torch.TDMI(**fields)
    tensors = {k: torch.from_numpy(v) for k, v in to_torch(variables).items()}
    net.load_state_dict({**net.state_dict(), **tensors}, strict=True)
    net.eval()

    class Part(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, *inputs):
            if part == "decode":
                maps = self.net.decode_window(inputs)
                return maps.permute(0, 2, 3, 1)
            axes = (0, 3, 1, 2) if part == "encode" else (0, 1, 4, 2, 3)
            pictures = tdmi_torch.normalize(inputs[0].permute(axes).float() / 255)
            if part == "encode":
                return tuple(self.net.backbone(pictures)[0])
            return self.net(pictures).permute(0, 2, 3, 1)

    t, (h, w) = 2 * fields["window_delta"] + 1, crop_size_hw
    # Two examples, so that nothing takes the batch for an axis of size 1.
    if part == "decode":
        size = (h // HEATMAP_STRIDE, w // HEATMAP_STRIDE)
        inputs = {
            f"stage{s}": torch.zeros(2, t, channels, *size)
            for s, channels in enumerate(net.backbone.feature_channels, start=1)
        }
    else:
        shape = (2, h, w, 3) if part == "encode" else (2, t, h, w, 3)
        inputs = {"pictures": torch.zeros(shape, dtype=torch.uint8)}
    outputs = ["heatmaps"]
    if part == "encode":
        outputs = [f"features{s}" for s in (1, 2, 3, 4)]
    write_onnx(Part(), path, inputs, outputs)
