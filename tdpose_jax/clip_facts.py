"""What labelled clips hold for a method that looks at several frames.

    python -m tdpose_jax.clip_facts --ground_truth=data/jhmdb/ground_truth/val \\
        --videos=JHMDB/ReCompress_Videos --table=results/jhmdb_tinypose_facts.csv

Two things take away from a window of neighbouring frames. A *repeated picture* shows
nothing new: a film of fewer frames a second was stretched. A *held label* did not move
although the picture changed: what is measured then is the annotator's last click, not
where the joint is. Clips of one person, as JHMDB's.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tdpose_jax.ablation_table import write_csv
from tdpose_jax.annotations import SequenceLabel
from tdpose_jax.predictions import load_ground_truth
from tdpose_jax.video.decode import open_source
from tdpose_jax.worst_clips import find_video

# Mean absolute difference of grey levels inside the person's box. JHMDB's recompressed
# repetitions have 0.2 to 0.6, its slowest real motion 2 and more [ours].
REPEATED_BELOW = 1.0


def clip_facts(label: SequenceLabel, video: Path, window_delta: int) -> dict:
    """One clip's numbers.

    Keys: clip; steps between neighbouring frames; repeated_percent of them;
    label_steps, of joints labelled on both sides, where the picture changed;
    held_percent of those; distinct_per_window, pictures among 2 * window_delta + 1.

    Raises:
      ValueError: if the video has fewer frames than labels.
      VideoError: if it cannot be read.
    """
    people = [frame.persons[0] for frame in label.frames]
    changes, before = [], None
    for person, frame in zip(people, open_source(video).frames(), strict=False):
        image = frame.image_rgb.astype(np.float32)
        if before is not None:
            x, y, w, h = np.maximum(np.round(person.person_box_xywh), 0).astype(int)
            part = np.s_[y : y + max(h, 1), x : x + max(w, 1)]
            changes.append(np.abs(image[part] - before[part]).mean())
        before = image
    if len(changes) != len(people) - 1:
        raise ValueError(
            f"{video}: {len(changes) + 1} frames, {len(people)} are labelled"
        )
    repeated = np.array(changes) < REPEATED_BELOW
    keypoints = np.array([person.keypoints_xyv for person in people])
    labeled = (keypoints[1:, :, 2] > 0) & (keypoints[:-1, :, 2] > 0)
    held = (keypoints[1:, :, :2] == keypoints[:-1, :, :2]).all(-1)
    counted = labeled & ~repeated[:, None]
    picture = np.concatenate([[0], np.cumsum(~repeated)])
    padded = np.pad(picture, window_delta, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * window_delta + 1)
    return {
        "clip": label.name,
        "steps": len(changes),
        "repeated_percent": _percent(repeated.sum(), len(changes)),
        "label_steps": int(counted.sum()),
        "held_percent": _percent((held & counted).sum(), counted.sum()),
        "distinct_per_window": float((windows[:, -1] - windows[:, 0] + 1).mean()),
    }


def all_clips(lines: Sequence[dict]) -> dict:
    """The same over all clips; shares are of all steps, windows of all frames."""
    steps = sum(x["steps"] for x in lines)
    label_steps = sum(x["label_steps"] for x in lines)
    # A clip of one frame has no steps, and no percentage.
    repeated = sum(x["repeated_percent"] * x["steps"] for x in lines if x["steps"])
    held = sum(x["held_percent"] * x["label_steps"] for x in lines if x["label_steps"])
    distinct = sum(x["distinct_per_window"] * (x["steps"] + 1) for x in lines)
    return {
        "clip": "all",
        "steps": steps,
        "repeated_percent": _percent(repeated / 100, steps),
        "label_steps": label_steps,
        "held_percent": _percent(held / 100, label_steps),
        "distinct_per_window": distinct / (steps + len(lines)),
    }


def _percent(part: float, whole: float) -> float:
    return 100.0 * float(part) / float(whole) if whole else float("nan")


def markdown(lines: Sequence[dict]) -> str:
    """The numbers as a table for people."""
    text = (
        "| clip | steps | repeated pictures | labels held, of the others "
        "| pictures per window |\n| --- | --: | --: | --: | --: |\n"
    )
    for x in lines:
        text += (
            f"| {x['clip']} | {x['steps']} | {x['repeated_percent']:.0f} % "
            f"| {x['held_percent']:.0f} % | {x['distinct_per_window']:.1f} |\n"
        )
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    """The command of the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m tdpose_jax.clip_facts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--ground_truth", required=True, type=Path)
    parser.add_argument("--videos", required=True, type=Path)
    parser.add_argument("--table", required=True, type=Path, help="<name>.csv to write")
    parser.add_argument("--window_delta", default=2, type=int)
    options = parser.parse_args(arguments)
    try:
        lines = [
            clip_facts(
                label, find_video(options.videos, label.name), options.window_delta
            )
            for label in load_ground_truth(options.ground_truth)
        ]
        lines.append(all_clips(lines))
        write_csv(options.table, lines)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    options.table.with_suffix(".md").write_text(markdown(lines))
    print(markdown(lines))


if __name__ == "__main__":
    main()
