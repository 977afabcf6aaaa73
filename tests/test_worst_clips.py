"""What the clips hold, and the picture of the worst of them, on frames made here."""

import csv

import cv2
import numpy as np
import pytest
from matplotlib.lines import Line2D

from tdpose_jax import clip_facts, worst_clips
from tdpose_jax.annotations import save_posetrack18
from tdpose_jax.skeleton import JHMDB
from tests.metrics.test_by_clip import sequence

BOX = (10.0, 5.0, 40.0, 50.0)


def write_frames(folder, values):
    """Flat grey pictures; what lies outside the box changes in every one."""
    folder.mkdir(parents=True)
    for i, value in enumerate(values):
        image = np.full((60, 80, 3), value, np.uint8)
        image[:, 60:] = 37 * i % 256
        cv2.imwrite(str(folder / f"{i:03d}.png"), image)


@pytest.fixture
def clips(tmp_path):
    """Two clips of four frames; pictures and labels that change and do not.

    Steps of a: changes, repeats, changes. Steps of b: all change. Joint 0 of a is held
    in the last step, and joint 1 of a is not labelled in the third frame.
    """
    write_frames(tmp_path / "videos/x/a", [50, 90, 90, 130])
    write_frames(tmp_path / "videos/b", [1, 5, 9, 13])
    xy = np.zeros((4, 15, 2)) + np.arange(4.0)[:, None, None] + [20, 20]
    visible = np.zeros((4, 15))
    visible[:, :2] = 1
    visible[2, 1] = 0
    xy[3, 0] = xy[2, 0]
    labels = [sequence("a", xy, visible, BOX), sequence("b", xy + 1, None, BOX)]
    return tmp_path, labels, xy


def test_repeated_pictures_and_held_labels(clips):
    folder, labels, _ = clips
    first = clip_facts.clip_facts(labels[0], folder / "videos/x/a", 1)
    # Pictures 0 1 1 2; windows of three with the ends repeated: 2, 2, 2, 2.
    assert first == {
        "clip": "a", "steps": 3, "repeated_percent": pytest.approx(100 / 3),
        "label_steps": 3, "held_percent": pytest.approx(100 / 3),
        "distinct_per_window": 2.0,
    }  # fmt: skip
    second = clip_facts.clip_facts(labels[1], folder / "videos/b", 1)
    assert second["repeated_percent"] == 0 and second["label_steps"] == 45
    assert second["distinct_per_window"] == (2 + 3 + 3 + 2) / 4
    both = clip_facts.all_clips([first, second])
    assert both["repeated_percent"] == pytest.approx(100 / 6)
    assert both["held_percent"] == pytest.approx(100 * 2 / 48)
    assert both["distinct_per_window"] == (4 * 2 + 10) / 8
    _, _, xy = clips
    still = clip_facts.clip_facts(
        sequence("b", xy[:1], None, BOX), folder / "videos/b", 1
    )
    assert clip_facts.all_clips([first, second, still])["steps"] == 6
    assert (
        clip_facts.all_clips([first, second, still])["repeated_percent"]
        == (both["repeated_percent"])
    )


def test_facts_command_and_its_errors(clips, capsys):
    folder, labels, _ = clips
    for label in labels:
        (folder / "truth").mkdir(exist_ok=True)
        save_posetrack18(label, folder / "truth" / f"{label.name}.json")
    table = folder / "facts.csv"
    flags = [f"--ground_truth={folder / 'truth'}", f"--videos={folder / 'videos'}"]
    clip_facts.main([*flags, f"--table={table}"])
    with table.open() as file:
        assert [x["clip"] for x in csv.DictReader(file)] == ["a", "b", "all"]
    text = capsys.readouterr().out
    assert "| all | 6 | 17 % | 4 % | " in text
    assert table.with_suffix(".md").read_text().strip() == text.strip()
    (folder / "videos/b/003.png").unlink()
    with pytest.raises(SystemExit, match="error: .*b: 3 frames, 4 are labelled"):
        clip_facts.main([*flags, f"--table={table}"])
    with pytest.raises(FileNotFoundError, match="no video of clip 'c' in it or below"):
        worst_clips.find_video(folder / "videos", "c")


def test_the_worst_frame_of_the_worst_clip_is_drawn(clips):
    """Clip b is always right; a's third frame has the one wrong joint."""
    folder, labels, xy = clips
    wrong = xy.copy()
    wrong[2, 0] += 30
    answers = [sequence("b", xy + 1), sequence("a", wrong)]
    right = [sequence("b", xy + 1), sequence("a", xy)]
    figure = worst_clips.worst_clips_figure(
        labels, {"base": answers, "best": right}, folder / "videos", 1, JHMDB
    )
    assert [axes.get_title() for axes in figure.axes] == [
        "a, frame 2", "base: 1 of 1 wrong", "best: 0 of 1 wrong",
    ]  # fmt: skip
    circled = [
        line.get_xydata().tolist()
        for axes in figure.axes
        for line in axes.lines
        if isinstance(line, Line2D) and line.get_markeredgecolor() == "red"
    ]
    assert circled == [[], [wrong[2, 0].tolist()], []]
    image = figure.axes[0].images[0].get_array()
    assert image[10, 10, 0] == 90  # frame 2 of the video


def test_picture_command(clips, capsys):
    folder, labels, xy = clips
    runs = folder / "runs/base/seed0/predictions"
    runs.mkdir(parents=True)
    (folder / "truth").mkdir()
    for label in labels:
        save_posetrack18(label, folder / "truth" / f"{label.name}.json")
        save_posetrack18(sequence(label.name, xy + 9), runs / f"{label.name}.json")
    flags = [
        f"--ground_truth={folder / 'truth'}", f"--videos={folder / 'videos'}",
        f"--runs={folder / 'runs'}", f"--output={folder / 'out/worst.png'}",
    ]  # fmt: skip
    worst_clips.main([*flags, "--rows=base"])
    assert "worst.png: the worst clips of base" in capsys.readouterr().out
    height, width = cv2.imread(str(folder / "out/worst.png")).shape[:2]
    assert height > width > 500  # two clips below each other, two columns
    with pytest.raises(SystemExit, match="error: .*other"):
        worst_clips.main([*flags, "--rows=other"])
