"""Figures for notebooks: what goes in, what happens inside, how a run went.

Each function returns a matplotlib Figure, which a notebook shows and `savefig` writes.
numpy and matplotlib only. Pages of finished runs are made by `visualize` and
`visualize_motion`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tdpose_jax.skeleton import Skeleton
from tdpose_jax.visualize import draw_skeleton


def _grid(
    images: Sequence[Sequence[np.ndarray]], width: float, title_lines: int
) -> tuple[Figure, list]:
    """A figure with one bare axes for each of the images, which have one size.

    Args:
      width: of an image, inches.
      title_lines: room over each image.
    """
    rows, columns = len(images), max(len(row) for row in images)
    h, w = images[0][0].shape[:2]
    height, gap = width * h / w, 0.16 * title_lines + 0.05
    figure = Figure(figsize=(width * columns, (height + gap) * rows), dpi=100)
    grid = figure.add_gridspec(
        rows, columns, wspace=0.03, hspace=gap / height,
        left=0, right=1, bottom=0, top=1 - gap / ((height + gap) * rows),
    )  # fmt: skip
    axes = []
    for i, row in enumerate(images):
        axes.append([figure.add_subplot(grid[i, j]) for j in range(len(row))])
        for cell in axes[-1]:
            cell.set_axis_off()
    return figure, axes


def people_figure(
    image: UInt8[np.ndarray, "H W 3"],
    keypoints_xy_image: Float[np.ndarray, "P K 2"],
    is_drawn: Bool[np.ndarray, "P K"],
    person_box_xywh: Float[np.ndarray, "P 4"],
    skeleton: Skeleton,
) -> Figure:
    """One video frame with the skeleton and the box of each of its people."""
    figure, [[axes]] = _grid([[image]], 6.0, 0)
    axes.imshow(image)
    for keypoints, drawn, (x, y, w, h) in zip(
        keypoints_xy_image, is_drawn, person_box_xywh, strict=True
    ):
        draw_skeleton(axes, keypoints, drawn, skeleton)
        axes.add_patch(Rectangle((x, y), w, h, fill=False, color="white", linewidth=1))
    axes.set_xlim(-0.5, image.shape[1] - 0.5)
    axes.set_ylim(image.shape[0] - 0.5, -0.5)
    return figure


def clips_figure(
    frames: UInt8[np.ndarray, "B T H W 3"],
    keypoints_xy_crop: Float[np.ndarray, "B K 2"],
    keypoint_weight: Float[np.ndarray, "B K"],
    skeleton: Skeleton,
    names: Sequence[str],
) -> Figure:
    """One clip a row, the keyframe's joints drawn on the keyframe.

    Args:
      names: of the rows.
    """
    figure, axes = _grid([list(clip) for clip in frames], 1.5, 1)
    middle = frames.shape[1] // 2
    for i, clip in enumerate(frames):
        for t, frame in enumerate(clip):
            axes[i][t].imshow(frame)
            shown = "keyframe" if t == middle else f"{t - middle:+d}"
            axes[i][t].set_title(
                f"{names[i]}, {shown}" if t == 0 else shown, fontsize=7
            )
        draw_skeleton(
            axes[i][middle], keypoints_xy_crop[i], keypoint_weight[i] > 0, skeleton
        )
    return figure


def maps_figure(
    maps: Mapping[str, Float[np.ndarray, "h w"]], columns: int = 6, width: float = 1.6
) -> Figure:
    """Maps side by side, each on a scale of its own; its largest value is in its title.

    Args:
      maps: title -> map; all of one size.
    """
    items = list(maps.items())
    rows = [items[i : i + columns] for i in range(0, len(items), columns)]
    figure, axes = _grid([[value for _, value in row] for row in rows], width, 2)
    for i, row in enumerate(rows):
        for j, (name, value) in enumerate(row):
            axes[i][j].imshow(value, cmap="magma")
            axes[i][j].set_title(f"{name}\nup to {value.max():.3g}", fontsize=7)
    return figure


def difference_maps(
    stage_features: Float[np.ndarray, "T h w C"],
) -> Float[np.ndarray, "U h w"]:
    """Mean absolute difference of neighbouring frames, one map for each of T - 1."""
    return np.abs(np.diff(np.asarray(stage_features, np.float32), axis=0)).mean(-1)


def curves_figure(
    metrics: Sequence[Mapping[str, float]], names: Sequence[str]
) -> Figure:
    """Curves over steps, one panel per name; names without values leave theirs empty.

    Args:
      metrics: lines of metrics.jsonl, as `run_folder.read_metrics` returns them.
    """
    figure = Figure(figsize=(2.6 * len(names), 2.1), dpi=100, layout="constrained")
    for axes, name in zip(
        figure.subplots(1, len(names), squeeze=False)[0], names, strict=True
    ):
        points = [(m["step"], m[name]) for m in metrics if name in m]
        if points:
            axes.plot(*zip(*points, strict=True), linewidth=1.2)
        axes.set_title(name, fontsize=8)
        axes.set_xlabel("step", fontsize=7)
        axes.tick_params(labelsize=6)
    return figure


def lines_figure(
    points: Sequence[Mapping[str, float]], x: str, names: Sequence[str], unit: str
) -> Figure:
    """Several quantities over one, in one panel.

    Args:
      points: each has a value for `x` and for every one of `names`.
      unit: of the quantities.
    """
    figure = Figure(figsize=(4.2, 2.8), dpi=100, layout="constrained")
    axes = figure.subplots()
    for name in names:
        axes.plot([p[x] for p in points], [p[name] for p in points], "o-", label=name)
    axes.set_xlabel(x)
    axes.set_ylabel(unit)
    axes.legend(fontsize=8)
    return figure


def bars_figure(rows: Mapping[str, Sequence[Mapping[str, float]]], unit: str) -> Figure:
    """Rows side by side: a group of bars per quantity, the mean of a row's runs each.

    Args:
      rows: a row's runs, which are dots on its bar; all have the same quantities.
      unit: of the quantities.
    """
    figure = Figure(figsize=(7.2, 2.6), dpi=100, layout="constrained")
    axes = figure.subplots()
    names = list(next(iter(rows.values()))[0])
    width = 0.8 / len(rows)
    for i, (row, runs) in enumerate(rows.items()):
        x = np.arange(len(names)) + (i - (len(rows) - 1) / 2) * width
        values = np.array([[run[name] for name in names] for run in runs])
        axes.bar(x, values.mean(0), width, label=row, alpha=0.7)
        for run in values:
            axes.plot(x, run, ".", color="black", markersize=3)
    axes.set_xticks(range(len(names)), names, fontsize=7)
    axes.set_ylabel(unit)
    axes.legend(fontsize=8)
    return figure
