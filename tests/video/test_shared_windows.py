"""Windows that share crops: what the naive window gives, for less."""

import dataclasses

import numpy as np
import pytest

from tdpose_jax.geometry import box_to_window
from tdpose_jax.shared_windows import WindowSharing, misfit
from tests.video.test_estimator import truth_boxes


@pytest.fixture(scope="module")
def sharing_estimator(estimator):
    return dataclasses.replace(estimator, share_tolerance=0.0)


def assert_same_poses(found, expected):
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_allclose(
            one.keypoints_xy_image, two.keypoints_xy_image, atol=0.01
        )
        np.testing.assert_allclose(one.keypoint_score, two.keypoint_score, atol=1e-5)


def test_constant_crops_give_the_naive_window(estimator, sharing_estimator, clip):
    """Bit for bit the same crops; poses equal to rounding, motion maps too."""
    boxes = [np.array([[20.0, 10, 40, 90], [80.0, 15, 45, 95]])] * len(clip.frames)
    naive = estimator.predict(clip.frames, boxes)
    shared = sharing_estimator.predict(clip.frames, boxes)
    assert_same_poses(shared, naive)
    for one, two in zip(shared, naive, strict=True):
        assert set(one.motion) == set(two.motion) == {"motion_useful", "motion_noisy"}
        for name, maps in one.motion.items():
            np.testing.assert_allclose(maps.astype(int), two.motion[name], atol=1)


def test_without_tolerance_moving_boxes_share_nothing(
    estimator, sharing_estimator, clip
):
    boxes = truth_boxes(clip)
    found = sharing_estimator.predict(clip.frames, boxes)
    assert_same_poses(found, estimator.predict(clip.frames, boxes))


def test_flip_test_is_shared_too(estimator, clip):
    loaded = dataclasses.replace(estimator.loaded, flip_test=True)
    flipping = dataclasses.replace(estimator, loaded=loaded)
    boxes = [np.array([[20.0, 10, 40, 90]])] * 6
    naive = flipping.predict(clip.frames[:6], boxes)
    shared = dataclasses.replace(flipping, share_tolerance=0.0)
    assert_same_poses(shared.predict(clip.frames[:6], boxes), naive)


class BrightSpot:
    """A network that finds the brightest spot of its middle frame."""

    def encode_frames(self, frames):
        return [frame.mean(-1) for frame in frames]

    def decode_windows(self, windows):
        middle = np.stack([window[len(window) // 2] for window in windows])
        maps = middle[:, ::4, ::4, None] / 255  # heatmap pixel i is crop pixel 4 i
        return {"heatmaps": np.repeat(maps, 17, axis=-1).astype(np.float32)}


def test_joints_come_back_through_the_shared_crop(estimator):
    """The spot walks through crops that stand still; it is found where it is."""
    rows, columns = np.mgrid[:120, :160]
    spots = np.array([[40 + 1.5 * i, 60 + 0.5 * i] for i in range(10)])
    frames = []
    for x, y in spots:
        grey = 250 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 8**2))
        frames.append(np.repeat(grey.astype(np.uint8)[..., None], 3, -1))
    boxes = [np.array([[x - 20, y - 30, 40, 60]]) for x, y in spots]
    finder = dataclasses.replace(estimator, backend=BrightSpot(), share_tolerance=0.15)
    found = finder.predict(frames, boxes)
    errors = [
        np.linalg.norm(people.keypoints_xy_image[0, 0] - spot)
        for people, spot in zip(found, spots, strict=True)
    ]
    assert max(errors) < 0.5


def test_misfit_counts_sides_of_the_crop():
    """A crop 90 wide and 120 high around a box 72 x 96 at 1.25."""
    size, enlarge = (128, 96), 1.25
    shared = box_to_window(np.array([10.0, 20, 72, 96]), size, enlarge)
    moved = box_to_window(np.array([19.0, 20, 72, 96]), size, enlarge)
    lowered = box_to_window(np.array([10.0, 14, 72, 96]), size, enlarge)
    grown = box_to_window(np.array([4.0, 12, 84, 112]), size, enlarge)
    assert misfit(shared, shared) == 0
    assert misfit(moved, shared) == pytest.approx(9 / 90)
    assert misfit(lowered, shared) == pytest.approx(6 / 120)
    assert misfit(grown, shared) == pytest.approx(np.log(112 / 96))


def count_sharing(tolerance, boxes_of_keyframes, delta=2, chunk=4):
    """Runs without a network; features are the crops' means."""
    images = [np.full((60, 80, 3), i, np.uint8) for i in range(len(boxes_of_keyframes))]
    last = len(images) - 1
    sharing = WindowSharing(
        lambda crops: list(crops.mean((1, 2, 3))), (64, 48), 1.25, tolerance, chunk
    )
    windows = []
    for k, boxes in enumerate(boxes_of_keyframes):
        numbers = np.clip(range(k - delta, k + delta + 1), 0, last).tolist()
        windows.append(sharing.add(numbers, [images[i] for i in numbers], boxes))
    sharing.finish([window for row in windows for window in row])
    return sharing, windows


def test_each_frame_is_encoded_once_per_segment():
    still = [np.array([[20.0, 10, 20, 40]])] * 10
    sharing, windows = count_sharing(0.0, still)
    assert (sharing.num_segments, sharing.num_encoded, sharing.num_windows) == (
        1,
        10,
        10,
    )
    # Features stand in time order, the ends repeated; the pictures' grey is their number.
    grey = [[round(float(f.features)) for f in w.frames] for (w,) in windows]
    assert grey[0] == [0, 0, 0, 1, 2]
    assert grey[5] == [3, 4, 5, 6, 7]
    assert grey[9] == [7, 8, 9, 9, 9]

    # The crop is 37.5 wide: 1.5 a frame is 0.04 of it; 0.1 allows two such steps.
    walking = [np.array([[10.0 + 1.5 * i, 10, 20, 40]]) for i in range(12)]
    sharing, _ = count_sharing(0.1, walking)
    assert sharing.num_segments == 4
    # Three keyframes and the frames around them, less what the ends repeat.
    assert sharing.num_encoded == 4 * (3 + 4) - 4


def test_people_in_one_place_keep_their_own_crops():
    """Somebody appears whom the segment of another fits: two crops all the same."""
    alone = [np.array([[20.0, 10, 20, 40]])] * 2
    together = [np.array([[20.0, 10, 20, 40], [20.5, 10, 20, 40]])] * 3
    sharing, windows = count_sharing(0.3, alone + together)
    assert sharing.num_segments == 2
    for first, second in windows[2:]:
        assert first.crop_to_image[0, 2] != second.crop_to_image[0, 2]
        np.testing.assert_array_equal(first.crop_to_image, windows[0][0].crop_to_image)


def test_old_frames_are_let_go():
    boxes = [np.array([[20.0, 10, 20, 40]])] * 30
    sharing, _ = count_sharing(0.0, boxes)
    (segment,) = sharing._segments
    assert sorted(segment.frames) == [27, 28, 29]
    # After a gap without anybody the segment has nothing to offer.
    gap = [*boxes[:5], *[np.zeros((0, 4))] * 6, *boxes[:5]]
    sharing, _ = count_sharing(0.0, gap)
    assert sharing.num_segments == 2
