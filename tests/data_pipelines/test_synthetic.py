"""The embedded data set: its format, its truth, and what it is for."""

import hashlib
import json
import subprocess
import sys
import tracemalloc

import cv2
import numpy as np
import pytest

from data_pipelines import (
    synthetic,
    synthetic_labels,
    synthetic_render,
    synthetic_scene,
)
from data_pipelines import synthetic_body as sb
from data_pipelines.synthetic_motion import Mover
from tdpose_jax.annotations import load_annotations
from tdpose_jax.skeleton import POSETRACK

SIZE_HW = (120, 160)


def _digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _generate(output, seed=3, workers=1, num_frames=12):
    sequences = {"train": 2, "val": 1}
    synthetic.generate(output, seed, sequences, num_frames, SIZE_HW, (2, 3), workers)
    return output


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    return _generate(tmp_path_factory.mktemp("synthetic"))


@pytest.fixture(scope="module")
def contents(data_set):
    paths = sorted(data_set.glob("annotations/*/*.json"))
    return {str(p.relative_to(data_set)): json.loads(p.read_text()) for p in paths}


def test_the_same_seed_gives_the_same_bytes_for_any_number_of_workers(
    data_set, tmp_path
):
    expected = _digests(data_set)
    assert len(expected) == 3 * (1 + 12)
    assert _digests(_generate(tmp_path / "two", workers=2)) == expected


def test_other_seeds_and_other_sequences_differ(data_set, tmp_path):
    mine, other = _digests(data_set), _digests(_generate(tmp_path / "other", seed=4))
    assert mine.keys() == other.keys()
    assert not set(mine.values()) & set(other.values())
    assert len(set(mine.values())) == len(mine)


def test_layout_names_and_ids(data_set, contents):
    assert list(contents) == [
        "annotations/train/000001_mpii_train.json",
        "annotations/train/000002_mpii_train.json",
        "annotations/val/000003_mpii_test.json",
    ]
    for number, (path, content) in enumerate(contents.items(), start=1):
        _, split, name = path.removesuffix(".json").split("/")
        assert len(content["images"]) == 12
        for index, image in enumerate(content["images"]):
            assert image["file_name"] == f"images/{split}/{name}/{index:06d}.jpg"
            assert image["id"] == 10**10 + number * 10**4 + index
            assert image["frame_id"] == image["id"]
            assert (image["vid_id"], image["nframes"]) == (f"{number:06d}", 12)
            picture = cv2.imread(str(data_set / image["file_name"]))
            assert picture.shape == (*SIZE_HW, 3)
        (category,) = content["categories"]
        assert tuple(category["keypoints"]) == POSETRACK.joints
        assert len(category["skeleton"]) == 19


def test_the_centre_is_labelled_and_the_ends_are_not(contents):
    for content in contents.values():
        labelled = [image["is_labeled"] for image in content["images"]]
        assert labelled == [False] + [True] * 10 + [False]
        ids = {i["id"] for i in content["images"] if i["is_labeled"]}
        assert {a["image_id"] for a in content["annotations"]} <= ids


def test_persons_follow_the_formats_rules(contents):
    height, width = SIZE_HW
    for content in contents.values():
        seen = set()
        for person in content["annotations"]:
            assert person["id"] == person["image_id"] * 100 + person["track_id"]
            assert person["id"] not in seen
            seen.add(person["id"])
            points = np.array(person["keypoints"]).reshape(17, 3)
            assert not points[[3, 4]].any()  # the ears
            assert set(points[:, 2]) <= {0.0, 1.0}
            assert not points[points[:, 2] == 0].any()
            valid = points[points[:, 2] == 1, :2]
            low, size = valid.min(0), np.ptp(valid, axis=0)
            box = [*(low - 0.15 * size), *(1.3 * size)]
            np.testing.assert_allclose(person["bbox"], box, atol=1e-9)
            margin = 0.02 * width
            assert (valid >= -margin).all()
            assert (valid <= np.array([width, height]) - 1 + margin).all()
            assert len(person["occluded"]) == 17
            x, y, w, h = person["bbox_head"]
            for joint in ("nose", "head_top"):
                px, py, v = points[POSETRACK.index(joint)]
                if v:
                    assert x - 1 <= px <= x + w + 1 and y - 1 <= py <= y + h + 1
            # 0.6 of the diagonal is poseval's head size: about a tenth of the body
            assert 0.05 * height < 0.6 * np.hypot(w, h) < 0.2 * height


def test_the_projects_own_reader_understands_the_files(data_set):
    sequence = load_annotations(data_set / "annotations/val/000003_mpii_test.json")
    assert (sequence.name, sequence.skeleton) == ("000003_mpii_test", "posetrack")
    assert [f.is_labeled for f in sequence.frames] == [False] + [True] * 10 + [False]
    assert sum(len(f.persons) for f in sequence.frames) >= 10


def test_limbs_keep_their_length_and_joints_their_limits():
    seen = set()
    for seed in range(12):
        mover = Mover(np.random.default_rng(seed), 2.0, (5.0, 7.0), seed % 3 == 0)
        lengths, before = [], None
        for _ in range(60):
            angles = mover.angles_at(np.array([-0.01, 0.0, 0.01]))
            assert (angles >= sb.ANGLE_LIMITS[:, 0]).all()
            assert (angles <= sb.ANGLE_LIMITS[:, 1]).all()
            points = mover.points_at(np.array([-0.01, 0.0, 0.01]))
            ends = np.array([[sb.NODE[a], sb.NODE[b]] for a, b in sb.RIGID_SEGMENTS])
            way = points[:, ends[:, 0]] - points[:, ends[:, 1]]
            lengths.append(np.linalg.norm(way, axis=-1))
            assert points[..., 1].min() > 0.0  # nobody sinks into the ground
            if before is not None:  # nobody jumps through space: 20 m/s at most
                assert np.linalg.norm(points[1] - before, axis=-1).max() < 0.8
            before = points[1]
            seen.add(mover.action)
            mover.step(0.04)
        lengths = np.concatenate(lengths)
        np.testing.assert_allclose(lengths, lengths[:1].repeat(len(lengths), 0))
    assert seen == set(sb.ACTIONS)


def test_knees_bend_backwards_and_elbows_forwards():
    body = sb.sample_body(np.random.default_rng(0))
    angles = np.zeros((1, len(sb.ANGLES)))
    for side in ("left", "right"):
        angles[0, sb.ANGLES.index(f"{side}_knee_flex")] = 60
        angles[0, sb.ANGLES.index(f"{side}_elbow_flex")] = 60
    still = np.zeros(1)
    points = sb.forward_kinematics(body, angles, np.zeros((1, 2)), still, still)[0]
    for side, sign in (("left", 1), ("right", -1)):
        at = {n: points[sb.NODE[f"{side}_{n}"]] for n in ("knee", "ankle", "hip")}
        assert at["ankle"][2] > at["knee"][2] + 0.2  # away from the camera: backwards
        assert sign * at["hip"][0] > 0  # facing us, their left is on our right
        elbow, wrist = (points[sb.NODE[f"{side}_{n}"]] for n in ("elbow", "wrist"))
        assert wrist[2] < elbow[2] - 0.1


def test_polygons_are_drawn_where_their_coordinates_say():
    image = np.zeros((60, 60, 3), np.uint8)
    a, b = np.array([20.3, 24.7]), np.array([36.8, 31.2])
    radius = np.float64(6.0)
    outline = synthetic_render.capsules(a, b, radius, radius)
    synthetic_render.fill(image, synthetic_render.fixed_point(outline), (255, 255, 255))
    weight = image[..., 0] / image[..., 0].sum()
    y, x = np.mgrid[:60, :60]
    center = [(weight * x).sum(), (weight * y).sum()]
    np.testing.assert_allclose(center, (a + b) / 2, atol=0.1)


def test_joints_are_where_the_annotation_says(monkeypatch):
    """In clean pictures the pixel at a visible joint has a colour of its own limb."""
    rng = np.random.default_rng(0)
    count = len(synthetic_render.PART)
    outfit = synthetic_render.Outfit(
        colors=rng.permutation(np.linspace(60, 255, 3 * count)).reshape(count, 3),
        bands=(),
        stripes=(),
        skin=np.zeros(3),
        front=np.array([0, 0, 255.0]),
        back=np.array([0, 0, 255.0]),
    )
    monkeypatch.setattr(synthetic_render, "sample_outfit", lambda rng: outfit)
    monkeypatch.setattr(
        synthetic_scene.scenery,
        "spoil",
        lambda rng, sensor, image, clean_before: (
            image.round().astype(np.uint8),
            False,
        ),
    )
    limbs = [i for i, n in enumerate(POSETRACK.joints) if "ee" in n or "elbow" in n]
    limbs += [POSETRACK.index(f"{s}_{n}") for s in ("left", "right")
              for n in ("wrist", "ankle")]  # fmt: skip

    def agreement(shift):
        hits = total = 0
        for seed in range(4):
            for frame in synthetic_scene.render_frames(seed, 10, (240, 320), (2, 3)):
                for person in frame.persons:
                    for slot in limbs:
                        x, y, v = person.keypoints_xyv[slot]
                        x, y = round(x) + shift, round(y)
                        in_frame = 0 <= x < 320 and 0 <= y < 240
                        if not v or person.occluded[slot] or not in_frame:
                            continue
                        own = outfit.colors[list(synthetic_labels._OWN_PARTS[slot])]
                        own = np.concatenate([own, 0.6 * own])
                        pixel = frame.frame_bgr[y, x].astype(float)
                        total += 1
                        hits += np.abs(own - pixel).max(1).min() < 12
        return hits / total, total

    exact, total = agreement(0)
    assert total > 300
    assert exact > 0.92
    assert agreement(8)[0] < 0.2  # the test can tell


def test_a_good_part_of_the_joints_is_hidden_now_and_visible_in_a_neighbour():
    joints = hidden = recoverable = spoilt = frames = 0
    for seed in range(8):
        video = list(synthetic_scene.render_frames(seed, 16, (240, 320), (2, 3)))
        frames, spoilt = frames + len(video), spoilt + sum(f.spoilt for f in video)
        tracks = [{p.track_id: p for p in frame.persons} for frame in video]
        clear = [
            {
                (i, slot)
                for i, p in persons.items()
                for slot in range(17)
                if p.keypoints_xyv[slot, 2] and not p.occluded[slot]
            }
            for persons in tracks
        ]
        for t in range(2, len(video) - 2):
            near = clear[t - 2] | clear[t - 1] | clear[t + 1] | clear[t + 2]
            for i, p in tracks[t].items():
                for slot in np.flatnonzero(p.keypoints_xyv[:, 2]):
                    joints += 1
                    hidden += p.occluded[slot]
                    recoverable += p.occluded[slot] and (i, slot) in near
    assert 0.10 <= recoverable / joints <= 0.20
    assert hidden / joints <= 0.35
    assert 0.02 <= spoilt / frames <= 0.12


def test_long_videos_need_no_memory_and_people_stay():
    video = synthetic.render_sequence(5, 10**9, (96, 128), (2, 2))
    labelled, memory = 0, []
    for index in range(150):
        if index == 110:
            tracemalloc.start()
        if index in (112, 149):
            memory.append(tracemalloc.get_traced_memory()[0])
        frame, persons = next(video)
        assert frame.shape == (96, 128, 3) and frame.dtype == np.uint8
        labelled += len(persons)
    tracemalloc.stop()
    assert memory[1] - memory[0] < 20 * 1024  # less than one frame
    assert labelled > 150  # of 300: they turn round and come back


def test_a_video_file_has_every_frame_and_its_labels(tmp_path):
    path = tmp_path / "walk.avi"
    labels = synthetic.render_video(path, 1, 7, (96, 128), (1, 2))
    capture = cv2.VideoCapture(str(path))
    frames = 0
    while capture.read()[0]:
        frames += 1
    assert frames == len(labels) == 7
    with pytest.raises(
        ValueError, match=r"cannot write this video; use \.mp4 or \.avi"
    ):
        synthetic.render_video(tmp_path / "no_folder" / "walk.avi", 1, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, (96, 128), (1, 2)), r"num_frames is 0; it must be in 1\.\.9999"),
        ((5, (96, 32), (1, 2)), "image_size_hw is .* both must be at least 64"),
        ((5, (96, 128), (3, 2)), "people is .* needs 1 <= least <= most <= 99"),
    ],
)
def test_bad_arguments_are_named(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        synthetic.generate(tmp_path, 0, {"train": 1}, *arguments, workers=1)


def test_tensorflow_is_not_needed():
    code = (
        "import sys, data_pipelines.synthetic\n"
        "assert not {'tensorflow', 'jax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
