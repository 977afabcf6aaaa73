"""Figures of the notebooks: what is drawn is what was given."""

import numpy as np
import pytest

from tdpose_jax import figures
from tdpose_jax.skeleton import POSETRACK


def images(figure):
    return [a.get_images()[0].get_array() for a in figure.axes if a.get_images()]


def test_maps_keep_their_order_and_name_their_peak():
    maps = {f"m{i}": np.full((4, 3), float(i)) for i in range(5)}
    figure = figures.maps_figure(maps, columns=2)
    assert [a.get_title() for a in figure.axes] == [
        f"m{i}\nup to {i}" for i in range(5)
    ]
    for image, value in zip(images(figure), maps.values(), strict=True):
        np.testing.assert_array_equal(image, value)


def test_clips_show_joints_of_weight_on_the_keyframe():
    frames = np.zeros((2, 3, 8, 6, 3), np.uint8)
    xy = np.zeros((2, POSETRACK.num_keypoints, 2), np.float32)
    weight = np.zeros((2, POSETRACK.num_keypoints), np.float32)
    xy[1, 0], weight[1, 0] = (3, 5), 1
    figure = figures.clips_figure(frames, xy, weight, POSETRACK, ["a", "b"])
    titles = [a.get_title() for a in figure.axes]
    assert titles == ["a, -1", "keyframe", "+1", "b, -1", "keyframe", "+1"]
    drawn = [
        np.stack(a.lines[-1].get_data(), -1).tolist() for a in figure.axes if a.lines
    ]
    assert drawn == [[], [[3.0, 5.0]]]


def test_people_have_their_boxes():
    image = np.zeros((20, 30, 3), np.uint8)
    xy = np.ones((1, POSETRACK.num_keypoints, 2), np.float32)
    figure = figures.people_figure(
        image, xy, np.ones(xy.shape[:2], bool), np.array([[2.0, 3, 4, 5]]), POSETRACK
    )
    (box,) = figure.axes[0].patches
    assert box.get_bbox().bounds == (2, 3, 4, 5)


def test_difference_maps_are_zero_where_nothing_changes():
    features = np.zeros((3, 2, 2, 4))
    features[2, 0, 1] = 2.0
    maps = figures.difference_maps(features)
    assert maps.shape == (2, 2, 2)
    assert not maps[0].any() and maps[1].tolist() == [[0, 2], [0, 0]]


def test_curves_skip_lines_without_the_value():
    metrics = [{"step": 1, "a": 3.0}, {"step": 2, "b": 1.0}, {"step": 3, "a": 5.0}]
    left, right = figures.curves_figure(metrics, ("a", "c")).axes
    assert left.lines[0].get_xydata().tolist() == [[1, 3], [3, 5]]
    assert not right.lines and right.get_title() == "c"


def test_lines_over_a_common_axis():
    points = [{"x": 0.0, "p": 1.0, "q": 2.0}, {"x": 1.0, "p": 3.0, "q": 4.0}]
    (axes,) = figures.lines_figure(points, "x", ("p", "q"), "nats").axes
    assert [line.get_ydata().tolist() for line in axes.lines] == [[1, 3], [2, 4]]
    assert axes.get_ylabel() == "nats"
    with pytest.raises(KeyError):
        figures.lines_figure(points, "x", ("r",), "nats")


def test_bars_are_means_and_dots_are_runs():
    rows = {
        "before": [{"knee": 1.0, "total": 2.0}, {"knee": 3.0, "total": 4.0}],
        "after": [{"total": 9.0, "knee": 8.0}],
    }
    (axes,) = figures.bars_figure(rows, "AP").axes
    heights = [[bar.get_height() for bar in bars] for bars in axes.containers]
    assert heights == [[2.0, 3.0], [8.0, 9.0]]
    assert [line.get_ydata().tolist() for line in axes.lines] == [
        [1, 2],
        [3, 4],
        [8, 9],
    ]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["knee", "total"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(rows)
    left, right = (bars[0].get_x() + bars[0].get_width() for bars in axes.containers)
    assert left == pytest.approx(0) and right == pytest.approx(0.4)  # side by side
