"""Whom does motion help? Accuracy by what the keyframe alone shows, on embedded data.

    python -m tdpose_jax.metrics.hidden_joints runs/ablations/{single_frame,tdmi}/seed0 \\
        --labels=data/demo/source/annotations/val

The generator of the embedded data says which joints something covers in the middle of
the exposure, and which frames are spoilt (flash, defocus, darkness, a jolt). Labels of
other origin do not say it. Prints, and writes into RUN/hidden_joints.json, PCKh@0.5 in
percent over the joints of each kind: `clean`, `occluded` in a frame that is not spoilt,
`spoilt`. `tdpose_jax.ablations --results=hidden_joints.json` makes a table of it.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tdpose_jax.annotation_types import PersonLabel
from tdpose_jax.annotations import load_annotations
from tdpose_jax.metrics import pck
from tdpose_jax.skeleton import POSETRACK

KINDS = ("clean", "occluded", "spoilt")
THRESHOLD = 0.5  # of the head's size


def joint_kinds(path: Path) -> list[list[np.ndarray]]:
    """[frame][person] -> [K] index into `KINDS`, from a generated label file.

    Raises:
      ValueError: if the file does not have the generator's extra keys.
    """
    content = json.loads(path.read_text())
    occluded = defaultdict(list)
    try:
        for person in content["annotations"]:
            occluded[person["image_id"]].append(np.array(person["occluded"], int))
        return [
            [
                np.full_like(o, 2) if image["spoilt"] else o
                for o in occluded[image["id"]]
            ]
            for image in content["images"]
        ]
    except KeyError as error:
        raise ValueError(
            f"{path}: has no {error}; only labels that `data_pipelines.synthetic` wrote "
            "say what is hidden (SOURCE/annotations/SPLIT of such a data set)"
        ) from error


def nearest(person: PersonLabel, guesses: Sequence[PersonLabel]) -> PersonLabel:
    """The guess whose joints are nearest on average, over the labelled ones."""
    is_labelled = person.keypoints_xyv[:, 2] > 0

    def distance(guess):
        offset = (guess.keypoints_xyv - person.keypoints_xyv)[is_labelled, :2]
        return np.linalg.norm(offset, axis=-1).mean()

    return min(guesses, key=distance)


def score_by_kind(
    labels: Path, predictions: Path
) -> tuple[dict[str, float], dict[str, int]]:
    """PCKh@0.5 in percent and the number of joints, for each of `KINDS`.

    Frames without predictions do not count.

    Raises:
      ValueError: if a file of either folder is missing or does not fit the other's, or
        if there is no joint of some kind.
    """
    sums = {kind: None for kind in KINDS}
    paths = sorted(labels.glob("*.json"))
    if not paths:
        raise ValueError(f"--labels={labels}: no label files there")
    for path in paths:
        guess_path = predictions / path.name
        if not guess_path.is_file():
            raise ValueError(f"{guess_path}: missing; has this run been evaluated?")
        truth = load_annotations(path)
        guess = load_annotations(guess_path, joint_ids="posetrack")
        for kinds, frame, guessed in zip(
            joint_kinds(path), truth.frames, guess.frames, strict=True
        ):
            found = [p for p in guessed.persons if p.keypoints_xyv[:, 2].sum() > 1]
            if not found:
                continue
            for kind_of_joint, person in zip(kinds, frame.persons, strict=True):
                is_labelled = person.keypoints_xyv[:, 2] > 0
                is_labelled[list(POSETRACK.unannotated)] = False
                for index, kind in enumerate(KINDS):
                    part = pck.pck_sums(
                        nearest(person, found).keypoints_xyv[None, :, :2],
                        person.keypoints_xyv[None, :, :2],
                        (is_labelled & (kind_of_joint == index))[None],
                        pck.head_reference(person.head_box_xyxy[None]),
                        (THRESHOLD,),
                    )
                    sums[kind] = part if sums[kind] is None else sums[kind] + part
    counted = {k: s for k, s in sums.items() if s is not None and s.labeled.any()}
    if len(counted) < len(sums):
        raise ValueError(f"{predictions}: no person was found, or no joint is hidden")
    scores = {k: s.result(POSETRACK, THRESHOLD)["total"] for k, s in counted.items()}
    return scores, {kind: int(s.labeled.sum()) for kind, s in counted.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m tdpose_jax.metrics.hidden_joints",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, help="evaluated run folders")
    parser.add_argument("--labels", required=True, type=Path, help="generated labels")
    flags = parser.parse_args(arguments)
    try:
        for run in flags.runs:
            scores, counts = score_by_kind(flags.labels, run / "predictions")
            content = {f"PCKh@{THRESHOLD}": scores, "num_joints": counts}
            text = json.dumps(content, indent=1) + "\n"
            (run / "hidden_joints.json").write_text(text)
            shown = (f"{kind} {scores[kind]:.2f}" for kind in KINDS)
            print(f"{run}: {', '.join(shown)}", flush=True)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
