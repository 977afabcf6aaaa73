"""Pictures of the clips that an experiment's first row does worst on.

    python -m tdpose_jax.worst_clips --ground_truth=data/jhmdb/ground_truth/val \\
        --videos=JHMDB/ReCompress_Videos --runs=runs/jhmdb_tinypose \\
        --rows=single_frame,tdmi --output=runs/jhmdb_tinypose/worst_clips.png

draws one frame of each of the worst clips, that with the most wrong joints: the label
and the rows' answers of the first seed, their joints beyond 0.05 of the box circled.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from tdpose_jax.annotations import PersonLabel, SequenceLabel
from tdpose_jax.metrics.by_clip import clip_errors, worst_first
from tdpose_jax.metrics.pck import JHMDB_THRESHOLDS
from tdpose_jax.predictions import load_ground_truth
from tdpose_jax.skeleton import Skeleton, get_skeleton
from tdpose_jax.video.decode import open_source
from tdpose_jax.visualize import draw_skeleton


def find_video(videos: Path, clip: str) -> Path:
    """The clip's file, or folder of frames, anywhere below.

    Raises:
      FileNotFoundError: if there is none.
    """
    for path in videos.rglob("*"):
        if clip in (path.name, path.stem):
            return path
    raise FileNotFoundError(f"{videos}: no video of clip {clip!r} in it or below")


def worst_clips_figure(
    ground_truth: Sequence[SequenceLabel],
    predictions: Mapping[str, Sequence[SequenceLabel]],
    videos: Path,
    clips: int,
    skeleton: Skeleton,
) -> Figure:
    """One line per clip: the label, then every row's answer.

    Args:
      predictions: row -> its predictions for all clips; the first row chooses.
      clips: how many, at most.

    Raises:
      FileNotFoundError: if a clip has no video.
    """
    threshold = min(JHMDB_THRESHOLDS)
    errors = {row: clip_errors(ground_truth, p) for row, p in predictions.items()}
    first = next(iter(errors.values()))
    names = worst_first([first], threshold)[:clips]
    lines = [
        _worst_frame(name, ground_truth, predictions, errors, videos) for name in names
    ]
    width = 2.6
    heights = [width * h / w + 0.25 for *_, (_, _, w, h) in lines]
    figure = Figure(figsize=(width * (1 + len(errors)), sum(heights)), dpi=100)
    cells = figure.subplots(
        len(lines), 1 + len(errors), squeeze=False, height_ratios=heights
    )
    room = 0.2 / sum(heights)
    figure.subplots_adjust(0, 0, 1, 1 - room, 0.02, len(heights) * room)
    for row, (image, answers, (left, top, w, h)) in zip(cells, lines, strict=True):
        for axes, (text, keypoints_xyv, circled) in zip(row, answers, strict=True):
            axes.imshow(image)
            labeled = answers[0][1][:, 2] > 0
            draw_skeleton(axes, keypoints_xyv[:, :2], labeled, skeleton)
            x, y = keypoints_xyv[circled, :2].T
            axes.plot(x, y, "o", mfc="none", mec="red", ms=9)
            axes.set_title(text, fontsize=7)
            axes.set_xlim(left, left + w)
            axes.set_ylim(top + h, top)
            axes.set_axis_off()
    return figure


def _worst_frame(name, ground_truth, predictions, errors, videos):
    """(image, [(title, keypoints_xyv_image, joints to circle)], window xywh)."""
    wrong = {}
    for row, clips in errors.items():
        clip = next(clip for clip in clips if clip.name == name)
        wrong[row] = clip.labeled & (clip.distance > min(JHMDB_THRESHOLDS))
    index = int(next(iter(wrong.values())).sum(1).argmax())
    label = _person(ground_truth, name, index)
    count = int((label.keypoints_xyv[:, 2] > 0).sum())
    nothing = np.zeros(len(label.keypoints_xyv), bool)
    answers = [(f"{name[:34]}, frame {index}", label.keypoints_xyv, nothing)]
    for row, sequences in predictions.items():
        circled = wrong[row][index]
        text = f"{row}: {circled.sum()} of {count} wrong"
        answers.append((text, _person(sequences, name, index).keypoints_xyv, circled))
    source = open_source(find_video(videos, name))
    image = next(islice(source.frames(), index, None)).image_rgb
    assert label.person_box_xywh is not None  # clip_errors has used it
    x, y, w, h = label.person_box_xywh
    margin = 0.2 * max(w, h)
    left, top = max(x - margin, -0.5), max(y - margin, -0.5)
    right = min(x + w + margin, image.shape[1] - 0.5)
    bottom = min(y + h + margin, image.shape[0] - 0.5)
    return image, answers, (left, top, right - left, bottom - top)


def _person(sequences: Sequence[SequenceLabel], name: str, index: int) -> PersonLabel:
    sequence = next(sequence for sequence in sequences if sequence.name == name)
    return sequence.frames[index].persons[0]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command of the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m tdpose_jax.worst_clips",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--ground_truth", required=True, type=Path)
    parser.add_argument("--videos", required=True, type=Path)
    parser.add_argument("--runs", required=True, type=Path)
    parser.add_argument("--rows", required=True, help="the one that chooses first")
    parser.add_argument("--output", required=True, type=Path, help="picture to write")
    parser.add_argument("--clips", default=4, type=int)
    parser.add_argument("--seed", default=0, type=int)
    parser.add_argument("--skeleton", default="jhmdb")
    options = parser.parse_args(arguments)
    try:
        predictions = {
            row: load_ground_truth(
                options.runs / row / f"seed{options.seed}" / "predictions"
            )
            for row in options.rows.split(",")
        }
        figure = worst_clips_figure(
            load_ground_truth(options.ground_truth),
            predictions,
            options.videos,
            options.clips,
            get_skeleton(options.skeleton),
        )
        options.output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(options.output)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{options.output}: the worst clips of {options.rows}")


if __name__ == "__main__":
    main()
