"""Pictures of what the network sees, predicts and learns. numpy and matplotlib only."""

from pathlib import Path

import numpy as np

from tdpose_jax.skeleton import Skeleton

LEFT, RIGHT, MIDDLE = "#ff7f0e", "#1f9bd6", "#2ca02c"


def limb_color(skeleton: Skeleton, limb: tuple[int, int]) -> str:
    """Left limbs orange, right limbs blue, the trunk green."""
    names = [skeleton.joints[i] for i in limb]
    if all(name.startswith("left_") for name in names):
        return LEFT
    if all(name.startswith("right_") for name in names):
        return RIGHT
    return MIDDLE


def draw_skeleton(axes, keypoints_xy, is_drawn, skeleton: Skeleton, **style) -> None:
    """Draws limbs and joints of one person; [K, 2] in the axes' pixels, [K] bool."""
    for a, b in skeleton.limbs:
        if is_drawn[a] and is_drawn[b]:
            axes.plot(
                keypoints_xy[[a, b], 0],
                keypoints_xy[[a, b], 1],
                color=limb_color(skeleton, (a, b)),
                linewidth=1.6,
                **style,
            )
    shown = keypoints_xy[np.asarray(is_drawn, bool)]
    axes.plot(shown[:, 0], shown[:, 1], "o", color="white", markersize=1.5)


def save_prediction_picture(
    path: Path,
    *,
    frames: np.ndarray,
    target_xy_crop: np.ndarray,
    target_weight: np.ndarray,
    predicted_xy_crop: np.ndarray,
    target_heatmaps: np.ndarray,
    heatmaps: np.ndarray,
    motion: dict[str, np.ndarray],
    gates: dict[str, np.ndarray],
    skeleton: Skeleton,
    title: str,
) -> None:
    """One example on one page: the clip above, the answers and the motion below.

    Args:
      frames: [T, H, W, 3] uint8 RGB.
      target_xy_crop, predicted_xy_crop: [K, 2].
      target_heatmaps, heatmaps: [h, w, K].
      motion: name -> [h, w] mean absolute feature; may be empty.
      gates: name -> [C]; may be empty.
    """
    from matplotlib.figure import Figure

    t, crop_h, crop_w = frames.shape[:3]
    panels = 4 + len(motion) + bool(gates)
    columns = max(t, panels)
    figure = Figure(figsize=(1.7 * columns, 1.7 * 2 * crop_h / crop_w + 0.6), dpi=110)
    grid = figure.add_gridspec(2, columns, wspace=0.03, hspace=0.12)
    figure.suptitle(title, fontsize=8)

    def panel(row, column, image, name, **style):
        axes = figure.add_subplot(grid[row, column])
        extent = (-0.5, crop_w - 0.5, crop_h - 0.5, -0.5)
        axes.imshow(image, extent=extent, aspect="equal", **style)
        axes.set_title(name, fontsize=7)
        axes.set_axis_off()
        axes.set_xlim(extent[:2])
        axes.set_ylim(extent[2:])
        return axes

    for i, frame in enumerate(frames):
        offset = i - t // 2
        panel(0, i, frame, f"frame {offset:+d}" if offset else "keyframe")
    key = frames[t // 2]
    annotated = np.asarray(target_weight) > 0
    draw_skeleton(panel(1, 0, key, "annotated"), target_xy_crop, annotated, skeleton)
    evaluated = np.isin(np.arange(skeleton.num_keypoints), skeleton.evaluated)
    draw_skeleton(panel(1, 1, key, "predicted"), predicted_xy_crop, evaluated, skeleton)
    maps = {"target heatmaps": target_heatmaps, "predicted heatmaps": heatmaps}
    for column, (name, value) in enumerate(maps.items(), start=2):
        shown = value[..., list(skeleton.evaluated)].max(-1)
        panel(1, column, shown, name, cmap="magma", vmin=0, vmax=1)
    top = max((float(value.max()) for value in motion.values()), default=1.0)
    for column, (name, value) in enumerate(motion.items(), start=4):
        shown = name.replace("motion_", "") + (" motion" if "_" in name else "")
        panel(1, column, value, shown, cmap="viridis", vmin=0, vmax=top)
    if gates:
        axes = figure.add_subplot(grid[1, 4 + len(motion)])
        for name, value in gates.items():
            axes.plot(np.sort(value)[::-1], label=name.replace("_", " "), linewidth=1)
        axes.set_ylim(0, 1)
        axes.set_title("gates, sorted", fontsize=7)
        axes.tick_params(labelsize=5)
        axes.legend(fontsize=5)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight")


def save_batch_pictures(
    folder: Path, batch, prediction: dict, targets: np.ndarray, skeleton, names
) -> None:
    """Pictures of the first `len(names)` examples of a batch of host arrays.

    Args:
      prediction: what `steps.make_predict_step` returns, as host arrays.
      targets: [B, h, w, K] target heatmaps.
      names: file stems, one per picture.
    """
    for i, name in enumerate(names):
        image_to_crop = np.linalg.inv(
            np.vstack([batch.crop_to_image[i], [0.0, 0.0, 1.0]])
        )[:2]
        xy_image = prediction["keypoints_xy_image"][i]
        xy_crop = xy_image @ image_to_crop[:, :2].T + image_to_crop[:, 2]
        arrays = {k: np.asarray(v[i]) for k, v in prediction.items()}
        save_prediction_picture(
            folder / f"{name}.png",
            frames=batch.frames[i],
            target_xy_crop=batch.keypoints_xy_crop[i],
            target_weight=batch.keypoint_weight[i],
            predicted_xy_crop=xy_crop,
            target_heatmaps=targets[i],
            heatmaps=arrays["heatmaps"],
            motion={k: v for k, v in arrays.items() if k.startswith("motion")},
            gates={k: v for k, v in arrays.items() if k.endswith("_gate")},
            skeleton=skeleton,
            title=name,
        )
