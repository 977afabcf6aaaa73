"""Pictures of what the motion branch learned. numpy and matplotlib only."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from tdpose_jax.shapes import HEATMAP_STRIDE
from tdpose_jax.skeleton import Skeleton
from tdpose_jax.visualize import draw_skeleton

USEFUL, NOISY = "#2ca02c", "#d62728"
# Where sampling is drawn: what moves most.
SAMPLED_JOINTS = ("left_wrist", "right_wrist", "left_ankle", "right_ankle")


def save_gate_picture(
    path: Path,
    useful_gate: Float[np.ndarray, "N C"],
    noisy_gate: Float[np.ndarray, "N C"],
    title: str,
) -> None:
    """Bars of both gates over channels, mean and standard deviation over N examples.

    Channels are sorted by how much more useful than noisy they are. A split of the
    motion shows as one gate open where the other is shut.
    """
    from matplotlib.figure import Figure

    means = [gate.mean(0) for gate in (useful_gate, noisy_gate)]
    order = np.argsort(means[1] - means[0], kind="stable")
    at = np.arange(len(order))
    figure = Figure(figsize=(max(5.0, 0.22 * len(order) + 1.5), 2.8), dpi=120)
    axes = figure.add_subplot()
    for side, gate, mean, name, color in (
        (-0.2, useful_gate, means[0], "useful", USEFUL),
        (0.2, noisy_gate, means[1], "noisy", NOISY),
    ):
        spread = gate.std(0)[order]
        axes.bar(at + side, mean[order], 0.4, yerr=spread, color=color, label=name,
                 error_kw={"linewidth": 0.7})  # fmt: skip
    axes.set_xticks(at, [str(c) for c in order], fontsize=6)
    axes.set_xlabel("channel of the motion feature", fontsize=8)
    axes.set_ylabel("gate", fontsize=8)
    axes.set_ylim(0, 1)
    axes.set_title(title, fontsize=8)
    axes.legend(fontsize=7, ncols=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight")


def save_motion_page(
    path: Path,
    *,
    frames: UInt8[np.ndarray, "T H W 3"],
    predicted_xy_crop: Float[np.ndarray, "K 2"],
    maps: Mapping[str, Float[np.ndarray, "h w"]],
    sampling: Mapping[int, tuple[np.ndarray, np.ndarray]],
    deform_dilation: int,
    skeleton: Skeleton,
    title: str,
) -> None:
    """One clip on one page: its frames; motion over the crop; where stages look.

    Args:
      maps: name -> mean absolute feature, drawn over the keyframe, each on a scale of
        its own; its largest value is in its title.
      sampling: stage -> (sampling_offsets [h, w, G, 9, 2] in heatmap pixels (y, x),
        modulation [h, w, G, 9]) of its deformable convolution; may be empty.
      deform_dilation: spacing of the undisplaced taps, heatmap pixels.
    """
    from matplotlib.figure import Figure

    t, crop_h, crop_w = frames.shape[:3]
    columns = max(t + 1, len(maps))
    # Taps are small: their row has few and large panels.
    tall = 1.8 * crop_h / crop_w
    taps_tall = 1.8 * columns / max(len(sampling), 1) * crop_h / crop_w
    heights = [tall, tall, taps_tall][: 3 if sampling else 2]
    figure = Figure(figsize=(1.8 * columns, sum(heights) + 1.0), dpi=110)
    grid = figure.add_gridspec(
        len(heights), 1, height_ratios=heights, hspace=0.1, top=0.95, bottom=0.01
    )
    figure.suptitle(title, fontsize=8, y=0.985)
    counts = (columns, columns, max(len(sampling), 1))
    cells = [
        grid[row].subgridspec(1, count, wspace=0.04)
        for row, count in enumerate(counts[: len(heights)])
    ]
    key = frames[t // 2]
    # Colours of the frame would be taken for values of the map over it.
    gray = np.repeat(key.mean(-1, keepdims=True), 3, -1).astype(np.uint8)

    def panel(row, column, image, name):
        axes = figure.add_subplot(cells[row][column])
        axes.imshow(image)
        axes.set_title(name, fontsize=7)
        axes.set_axis_off()
        axes.set_xlim(-0.5, crop_w - 0.5)
        axes.set_ylim(crop_h - 0.5, -0.5)
        return axes

    for i, frame in enumerate(frames):
        offset = i - t // 2
        panel(0, i, frame, f"frame {offset:+d}" if offset else "keyframe")
    evaluated = np.isin(np.arange(skeleton.num_keypoints), skeleton.evaluated)
    draw_skeleton(panel(0, t, key, "predicted"), predicted_xy_crop, evaluated, skeleton)
    for column, (name, value) in enumerate(maps.items()):
        h, w = value.shape
        s = HEATMAP_STRIDE  # heatmap pixel i has its centre at crop pixel s * i
        extent = (-s / 2, s * w - s / 2, s * h - s / 2, -s / 2)
        axes = panel(1, column, gray, f"{name}\nup to {value.max():.3g}")
        axes.imshow(value, extent=extent, cmap="inferno", alpha=0.65, vmin=0)
    for column, (stage, (offsets, modulation)) in enumerate(sampling.items()):
        size = np.linalg.norm(offsets, axis=-1).mean()
        axes = panel(2, column, gray, f"taps of stage {stage}\nmoved {size:.2g} px")
        for name in SAMPLED_JOINTS:
            center_xy = predicted_xy_crop[skeleton.index(name)] / HEATMAP_STRIDE
            draw_taps(axes, center_xy, offsets, modulation, deform_dilation)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight")


def sampling_points(
    center_xy_heatmap: Float[np.ndarray, "2"],
    sampling_offsets: Float[np.ndarray, "h w G n 2"],
    deform_dilation: int,
) -> tuple[tuple[int, int], np.ndarray, np.ndarray]:
    """Where a 3x3 deformable convolution looks from the pixel nearest to a point.

    Returns:
      (row, column) of that pixel, undisplaced taps [9, 2] and displaced ones
      [G, 9, 2], both as (x, y) in heatmap pixels.
    """
    h, w = sampling_offsets.shape[:2]
    column, row = np.clip(np.rint(center_xy_heatmap), 0, (w - 1, h - 1)).astype(int)
    steps = deform_dilation * np.array([-1, 0, 1])
    tap_yx = np.stack(np.meshgrid(steps, steps, indexing="ij"), -1).reshape(9, 2)
    taps = (tap_yx + (row, column))[:, ::-1]
    return (row, column), taps, taps + sampling_offsets[row, column][..., ::-1]


def draw_taps(
    axes,
    center_xy_heatmap: Float[np.ndarray, "2"],
    sampling_offsets: Float[np.ndarray, "h w G 9 2"],
    modulation: Float[np.ndarray, "h w G 9"],
    deform_dilation: int,
    colors: Sequence[str] = ("#1f9bd6", "#ff7f0e", "#b5e61d", "#ff4fa3"),
) -> None:
    """Crosses at the plain taps, dots where each group looks, sized by modulation."""
    pixel, taps, moved = sampling_points(
        center_xy_heatmap, sampling_offsets, deform_dilation
    )
    taps, moved = taps * HEATMAP_STRIDE, moved * HEATMAP_STRIDE
    axes.plot(*taps.T, "+", color="white", markersize=5, markeredgewidth=0.7)
    for group, points in enumerate(moved):
        axes.scatter(*points.T, s=16 * modulation[pixel][group], linewidths=0,
                     color=colors[group % len(colors)], alpha=0.8)  # fmt: skip
