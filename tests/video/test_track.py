"""Identities: properties of the tracker, and MOTA on real and rendered motion."""

import dataclasses
import json

import numpy as np
import pytest

from tdpose_jax.annotations import FrameLabel, PersonLabel, SequenceLabel
from tdpose_jax.geometry import keypoints_box_xywh
from tdpose_jax.metrics.protocols import score
from tdpose_jax.skeleton import COCO, POSETRACK
from tdpose_jax.video.poses import FramePoses
from tdpose_jax.video.track import (
    Tracker,
    joint_sigmas,
    object_keypoint_similarity,
)
from tests.real_data import REAL, needs_real

MPII_TO_POSETRACK = {
    0: "right_ankle", 1: "right_knee", 2: "right_hip", 3: "left_hip", 4: "left_knee",
    5: "left_ankle", 8: "head_bottom", 9: "head_top", 10: "right_wrist",
    11: "right_elbow", 12: "right_shoulder", 13: "left_shoulder", 14: "left_elbow",
    15: "left_wrist",
}  # fmt: skip


def people_at(index, centers, scores=None, size=(40, 100), valid=True):
    """A frame of people with equal poses at some places."""
    centers = np.array(centers, float).reshape(-1, 2)
    count = len(centers)
    pose = np.random.default_rng(0).uniform(-0.5, 0.5, (17, 2)) * size
    size = np.array(size)
    return FramePoses(
        index=index,
        time_s=index / 25,
        name=f"v/{index}",
        image_size_hw=(500, 500),
        track_id=np.full(count, -1),
        keypoints_xy_image=(centers[:, None] + pose).astype(np.float32),
        keypoint_score=np.full((count, 17), float(valid), np.float32),
        person_box_xywh=np.concatenate(
            [centers - size / 2, np.tile(size, (count, 1))], 1
        ).astype(np.float32),
        box_score=np.ones(count, np.float32) if scores is None else np.array(scores),
        motion={},
        image_id=index + 1,
    )


def run(frames, **options):
    tracker = Tracker(POSETRACK, **options)
    return [tracker.update(f).track_id.tolist() for f in frames]


def test_oks_golden():
    # COCO: exp(-d^2 / (2 s^2 k^2)), k = 2 sigma: one shoulder 10 px off, area 10,000.
    sigmas = joint_sigmas(COCO)
    assert sigmas[COCO.index("left_shoulder")] == 0.079
    a, b = np.zeros((1, 17, 2)), np.zeros((1, 17, 2))
    b[0, COCO.index("left_shoulder"), 0] = 10
    valid = np.zeros((1, 17), bool)
    valid[0, [COCO.index("left_shoulder"), COCO.index("nose")]] = True
    area = np.array([10_000.0])
    found = object_keypoint_similarity(a, valid, area, b, valid, sigmas)
    expected = (1 + np.exp(-100 / (2 * 10_000 * 0.158**2))) / 2
    np.testing.assert_allclose(found, [[expected]])
    none = object_keypoint_similarity(a, ~valid & valid, area, b, valid, sigmas)
    assert np.isnan(none).all()


def test_identities_follow_people_whatever_their_order():
    frames = [
        people_at(i, [(100 + 4 * i, 100), (300 - 4 * i, 120)][:: 1 if i % 2 else -1])
        for i in range(20)
    ]
    ids = run(frames)
    for i, pair in enumerate(ids):
        assert pair == ids[0][:: 1 if i % 2 == 0 else -1]
    assert run(frames) == ids  # deterministic


def test_people_who_cross_keep_their_identities():
    """Velocity tells them apart where their boxes lie on each other."""
    frames = [people_at(i, [(100 + 8 * i, 100), (256 - 8 * i, 100)]) for i in range(21)]
    assert all(pair == [0, 1] for pair in run(frames))


def test_gap_reentry_and_new_person():
    present = [people_at(i, [(100, 100)]) for i in range(5)]
    gone = [people_at(i, []) for i in range(5, 25)]
    back = [people_at(25, [(130, 100), (400, 300)])]
    assert run([*present, *gone, *back])[-1] == [0, 1]
    # Longer than max_gap: somebody else.
    assert run([*present, *gone, *back], max_gap=10)[-1] == [1, 2]
    # The same place but a third of the size: somebody else.
    small = [people_at(25, [(100, 100)], size=(12, 30))]
    assert run([*present, *gone, *small])[-1] == [1]


def test_weak_people_continue_tracks_but_start_none():
    frames = [
        people_at(0, [(100, 100), (300, 300)], [0.9, 0.3]),
        people_at(1, [(100, 100), (300, 300)], [0.3, 0.3]),
    ]
    assert run(frames) == [[0], [0]]


def test_doubles_are_left_out():
    assert run([people_at(0, [(100, 100), (101, 100), (300, 100)])]) == [[0, 1]]
    part = people_at(0, [(100, 100), (101, 100)])
    part.person_box_xywh[1] = 85, 50, 30, 60  # IoU 0.45, the same joints
    assert run([part]) == [[0]]
    # Nor does a double wake somebody who was lost there.
    lost = [people_at(0, [(100, 100), (115, 100)]), *(people_at(i, [(100, 100)]) for i in range(1, 9))]  # fmt: skip
    part = dataclasses.replace(part, index=9)
    assert [len(ids) for ids in run([*lost, part])] == [2] + 9 * [1]
    blind = people_at(0, [(100, 100), (101, 100), (120, 100)], valid=False)
    assert run([blind]) == [[0, 1]]


def test_poses_unseen_fall_back_to_boxes():
    frames = [people_at(i, [(100 + i, 100)], valid=False) for i in range(3)]
    assert run(frames) == [[0], [0], [0]]


def test_memory_is_bounded_and_empty_frames_are_fine():
    tracker = Tracker(POSETRACK, max_gap=10)
    for i in range(300):
        tracker.update(people_at(i, [(40.0 * (i % 12), 40.0 * (i % 11))]))
        assert tracker.num_tracks <= 12
    for i in range(300, 320):
        assert not len(tracker.update(people_at(i, [])))
    assert tracker.num_tracks == 0


def test_restored_tracker_goes_on_as_if_never_stopped():
    rng = np.random.default_rng(0)
    walk = np.cumsum(rng.normal(0, 6, (40, 3, 2)), 0) + [
        [100, 100],
        [250, 150],
        [400, 90],
    ]
    frames = [people_at(i, walk[i][rng.random(3) > 0.2]) for i in range(40)]
    frames[30] = people_at(30, [*walk[30], (250, 400)])  # somebody new
    whole = Tracker(POSETRACK)
    results = [whole.update(f) for f in frames]
    second = Tracker(POSETRACK)
    for finished in results[:17]:
        second.restore(finished)
    for frame, expected in zip(frames[17:], results[17:], strict=True):
        np.testing.assert_array_equal(second.update(frame).track_id, expected.track_id)


def mota_of_tracker(truth: list[SequenceLabel], every=1) -> dict[str, float]:
    """Ground-truth poses in, without identities; the identities scored."""
    tracked = []
    for sequence in truth:
        tracker, frames = Tracker(POSETRACK, frame_step=every), []
        for i, frame in enumerate(sequence.frames):
            people = _to_poses(i * every, frame)
            found = tracker.update(people)
            persons = tuple(
                PersonLabel(
                    np.concatenate(
                        [
                            found.keypoints_xy_image[r].astype(float),
                            found.keypoint_score[r][:, None],
                        ],
                        1,
                    )
                    * found.keypoint_score[r][:, None],
                    np.where(found.keypoint_score[r] > 0, 1.0, np.nan),
                    track_id=int(found.track_id[r]),
                )
                for r in range(len(found))
            )
            frames.append(dataclasses.replace(frame, persons=persons))
        tracked.append(dataclasses.replace(sequence, frames=tuple(frames)))
    result = score(truth, tracked, "poseval")
    return {name: result[name]["total"] for name in ("MOTA", "MOT_recall")}


def _to_poses(index, frame: FrameLabel) -> FramePoses:
    valid = np.array([p.keypoints_xyv.any(1) for p in frame.persons]).reshape(-1, 17)
    xy = np.array([p.keypoints_xyv[:, :2] for p in frame.persons]).reshape(-1, 17, 2)
    boxes = [keypoints_box_xywh(a, b, 1.3) for a, b in zip(xy, valid, strict=True)]
    boxes = np.maximum(np.array(boxes).reshape(-1, 4), [-1e9, -1e9, 4, 4])
    return FramePoses(
        index, index / 25, "x", (1, 1), np.full(len(xy), -1), xy.astype(np.float32),
        valid.astype(np.float32), boxes.astype(np.float32), np.ones(len(xy)), {}, 1,
    )  # fmt: skip


def real_trajectories() -> list[SequenceLabel]:
    content = json.loads((REAL / "trajectories/trajectories.json").read_text())
    sequences = []
    for name, video in content["videos"].items():
        frames = []
        for i, persons in enumerate(video["frames"]):
            labels = []
            for person in persons:
                if not person["points"]:
                    continue
                xyv = np.zeros((17, 3))
                for joint, (x, y, _) in person["points"].items():
                    slot = POSETRACK.index(MPII_TO_POSETRACK[int(joint)])
                    xyv[slot] = x, y, 1
                labels.append(
                    PersonLabel(
                        xyv,
                        np.full(17, np.nan),
                        # Absent for many; the poses are the truth, any size will do.
                        head_box_xyxy=np.array(person["head_rect"] or [0, 0, 9, 9.0]),
                        track_id=person["track_id"],
                    )
                )
            frames.append(FrameLabel(f"{i:06d}.jpg", i + 1, True, tuple(labels)))
        sequences.append(SequenceLabel(name, "posetrack", tuple(frames)))
    return sequences


@needs_real
@pytest.mark.parametrize(("every", "least"), [(1, 99.9), (4, 99.0)])
def test_mota_of_true_poses_on_real_trajectories(every, least):
    sequences = [
        dataclasses.replace(s, frames=s.frames[::every]) for s in real_trajectories()
    ]
    sequences = [s for s in sequences if any(f.persons for f in s.frames)]
    result = mota_of_tracker(sequences, every)
    assert result["MOTA"] >= least


def test_mota_of_true_poses_on_the_rendered_clip(clip):
    result = mota_of_tracker([clip.truth])
    assert result["MOTA"] >= 99
