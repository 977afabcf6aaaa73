"""The command: outputs, continuing, stopping, errors."""

import csv
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import av
import numpy as np
import pytest

from tdpose_jax.annotations import load_annotations, save_posetrack18
from tdpose_jax.metrics import score as score_command
from tdpose_jax.skeleton import POSETRACK
from tdpose_jax.video import outputs, predict
from tdpose_jax.video.journal import Journal, JournalError
from tdpose_jax.video.poses import Boxes, FramePoses
from tdpose_jax.video.smooth import smoothed
from tests.real_data import REAL, needs_real
from tests.video.media import set_rotation, write_video


def journal_frames(output):
    lines = (output / "frames.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines[1:]]


def test_outputs_agree_with_each_other_and_are_scored(whole, clip, tmp_path, capsys):
    assert sorted(p.name for p in whole.iterdir()) == [
        "coco_results.json", "frames.jsonl", "overlay.mp4", "poses.csv", "posetrack18",
        "report.html",
    ]  # fmt: skip
    found = load_annotations(whole / "posetrack18" / "clip.json")
    coco = json.loads((whole / "coco_results.json").read_text())
    with (whole / "poses.csv").open() as file:
        rows = list(csv.DictReader(file))
    frames = journal_frames(whole)
    assert len(found.frames) == len(frames) == len(clip.frames)
    persons = [p for f in found.frames for p in f.persons]
    assert (
        len(persons)
        == len(coco)
        == len(rows)
        == sum(len(f["track_id"]) for f in frames)
    )
    nose = POSETRACK.index("nose")
    for person, entry, row in zip(persons, coco, rows, strict=True):
        xy = person.keypoints_xyv[nose, :2]
        np.testing.assert_allclose(xy, entry["keypoints"][3 * nose :][:2], atol=1e-4)
        np.testing.assert_allclose(xy, [float(row["nose_x"]), float(row["nose_y"])], atol=1e-4)  # fmt: skip
        assert person.track_id == entry["track_id"] == int(row["track_id"])
        assert "left_ear_x" not in row
        assert not person.keypoints_xyv[list(POSETRACK.unannotated)].any()
    # Boxes and identities were the truth's: all of it is matched in the score's eyes.
    truth = clip.truth
    assert [f.image_id for f in found.frames] == [f.image_id for f in truth.frames]
    ids = [[p.track_id for p in f.persons] for f in truth.frames]
    assert [[p.track_id for p in f.persons] for f in found.frames] == ids
    status = score_command.main(
        [f"--ground_truth={clip.boxes.parent}", f"--predictions={whole / 'posetrack18'}",
         f"--output={tmp_path / 's.json'}"]
    )  # fmt: skip
    assert status == 0 and "MOTA" in capsys.readouterr().out


def test_streamed_file_equals_the_plain_writer(whole, tmp_path):
    path = whole / "posetrack18" / "clip.json"
    save_posetrack18(load_annotations(path), tmp_path / "clip.json")
    mine, plain = (json.loads(p.read_text()) for p in (path, tmp_path / "clip.json"))
    assert mine == plain


def test_overlay_is_browser_video_with_people_on_it(whole, clip):
    with av.open(str(whole / "overlay.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        pictures = list(container.decode(stream))
    assert len(pictures) == len(clip.frames)
    np.testing.assert_allclose(
        [p.time for p in pictures], np.arange(len(pictures)) / 25, atol=1e-3
    )
    difference = pictures[9].to_ndarray(format="rgb24").astype(int) - clip.frames[9]
    changed = (np.abs(difference).max(-1) > 60).mean()
    assert 0.01 < changed < 0.5
    assert (whole / "overlay.mp4").read_bytes().find(b"moov") < 200  # starts at once


def test_continuing_equals_going_through(command, whole, tmp_path):
    assert command(tmp_path, "--end=7") == 0
    assert len(journal_frames(tmp_path)) == 7
    path = tmp_path / "frames.jsonl"
    path.write_text(path.read_text() + '{"index": 7, "time_')  # killed in a write
    assert command(tmp_path, "--trails") == 0
    for name in ("poses.csv", "coco_results.json"):
        one, two = (whole / name).read_text(), (tmp_path / name).read_text()
        numbers = [
            [float(v) if _is_number(v) else v for v in text.replace("[", ",").replace("]", ",").replace("}", ",").split(",")]
            for text in (one, two)
        ]  # fmt: skip
        assert len(numbers[0]) == len(numbers[1])
        for a, b in zip(*numbers, strict=True):
            # Other batches around a person: float32 sums in another order.
            assert a == b if isinstance(a, str) else abs(a - b) < 2e-3
    before = (tmp_path / "overlay.mp4").read_bytes()
    assert command(tmp_path, "--trails") == 0  # nothing left: outputs again
    assert (tmp_path / "overlay.mp4").read_bytes() == before


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


def test_ctrl_c_leaves_valid_outputs_and_the_rest_can_follow(
    run_folder, clip, tmp_path
):
    frames = [clip.frames[i % len(clip.frames)] for i in range(700)]
    video = write_video(tmp_path / "long.mp4", frames, "libx264rgb", "rgb24")
    boxes = tmp_path / "boxes.txt"
    boxes.write_text("\n".join(f"{i + 1},1,40,30,40,70,1" for i in range(700)))
    output = tmp_path / "out"
    arguments = [sys.executable, "-m", "tdpose_jax.video.predict", str(video),
                 f"--checkpoint={run_folder}", f"--output={output}", f"--boxes={boxes}"]  # fmt: skip
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    limit = time.monotonic() + 120
    journal = output / "frames.jsonl"
    while not journal.exists() or journal.read_bytes().count(b"\n") < 10:
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == predict.INTERRUPTED, errors
    assert b"stopping" in errors
    done = len(journal_frames(output))
    assert 9 <= done < 700
    found = load_annotations(output / "posetrack18" / "long.json")
    assert len(found.frames) == done
    with av.open(str(output / "overlay.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == done
    assert (output / "report.html").read_text().endswith("</html>\n")


def test_every_and_variable_rate_reach_the_overlay(command, clip, tmp_path):
    times = np.cumsum(np.arange(len(clip.frames)) * 7)
    video = write_video(tmp_path / "clip.mkv", clip.frames, pts_ms=times.tolist())
    assert command(tmp_path / "o", "--every=3", "--start=1", video=video) == 0
    assert [f["index"] for f in journal_frames(tmp_path / "o")] == [1, 4, 7, 10, 13, 16]
    with av.open(str(tmp_path / "o" / "overlay.mp4")) as container:
        found = [p.time for p in container.decode(video=0)]
    np.testing.assert_allclose(found, (times[1::3] - times[1]) / 1000, atol=2e-3)


def test_rotated_video_gives_poses_in_the_upright_picture(command, clip, tmp_path):
    """Turned by metadata and by hand: the same pixels, the same poses."""
    turned = [np.ascontiguousarray(np.rot90(f)) for f in clip.frames[:4]]
    video = write_video(tmp_path / "turned.mp4", turned, "libx264rgb", "rgb24",
                        options={"crf": "0"})  # fmt: skip
    set_rotation(video, 90)
    plain = write_video(tmp_path / "plain.mkv", clip.frames[:4])
    assert command(tmp_path / "a", video=video) == command(tmp_path / "b", video=plain)
    one, two = journal_frames(tmp_path / "a"), journal_frames(tmp_path / "b")
    assert len(one) == 4
    for a, b in zip(one, two, strict=True):
        assert a["image_size_hw"] == b["image_size_hw"] == [120, 160]
        assert a["keypoints_xy_image"] == b["keypoints_xy_image"]


def test_odd_sizes_and_pictures_of_several_sizes(command, clip, tmp_path):
    import cv2

    folder = tmp_path / "mixed"
    folder.mkdir()
    for i, frame in enumerate(clip.frames[:6]):
        frame = frame[:119, :157] if i < 3 else np.repeat(np.repeat(frame, 2, 0), 2, 1)
        cv2.imwrite(str(folder / f"{i:06d}.png"), frame)
    assert command(tmp_path / "o", video=folder) == 0
    with av.open(str(tmp_path / "o" / "overlay.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.height, stream.width) == (120, 158)
        assert sum(1 for _ in container.decode(video=0)) == 6


def test_smoothing_calms_and_keeps_identities_apart(command, whole, tmp_path):
    shutil.copy(whole / "frames.jsonl", tmp_path)
    assert command(tmp_path, "--smoothing") == 0

    def jitter(path):
        tracks = {}
        for entry in json.loads((path / "coco_results.json").read_text()):
            tracks.setdefault(entry["track_id"], []).append(entry["keypoints"][0])
        return np.mean(
            [np.abs(np.diff(t)).mean() for t in tracks.values() if len(t) > 3]
        )

    assert jitter(tmp_path) < 0.95 * jitter(whole)


def person(index, xy, identity=0):
    return FramePoses(
        index, index / 25, "x", (100, 100), np.array([identity]),
        np.tile(np.array(xy, np.float32), (1, 17, 1)), np.ones((1, 17), np.float32),
        np.array([[0, 0, 50, 50]], np.float32), np.ones(1, np.float32), {}, index + 1,
    )  # fmt: skip


def test_one_euro_filter_follows_fast_motion_and_starts_anew_after_a_gap():
    rng = np.random.default_rng(0)
    still = [person(i, (50 + rng.normal(0, 1), 50)) for i in range(50)]
    jump = [person(i, (200, 50)) for i in range(80, 82)]
    fast = [person(i, (200 + 20 * (i - 81), 50)) for i in range(82, 100)]
    frames = [*still, *jump, *fast]
    found = list(smoothed(lambda: iter(frames))())
    x = np.array([f.keypoints_xy_image[0, 0, 0] for f in found])
    raw = np.array([f.keypoints_xy_image[0, 0, 0] for f in frames])
    assert np.diff(x[:50]).std() < 0.5 * np.diff(raw[:50]).std()
    assert x[50] == 200  # after more than half a second
    assert abs(x[-1] - raw[-1]) < 20  # less than a frame behind
    assert frames[10].keypoints_xy_image[0, 0, 0] == raw[10]  # input left alone


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--start=5", "--end=5"], "is not after"),
        (["--every=0"], "at least 1"),
        (["--backend=abacus"], "invalid choice"),
    ],
)
def test_wrong_flags(command, tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit):
        command(tmp_path, *arguments)
    assert message in capsys.readouterr().err


def test_one_line_errors(command, whole, clip, tmp_path, capsys):
    def error(*arguments, **named):
        assert command(*arguments, **named) == 2
        text = capsys.readouterr().err
        assert text.startswith("error: ") and text.count("\n") == 1
        return text

    assert "no such file" in error(tmp_path, video=tmp_path / "absent.mp4")
    assert "no frame in --start=99" in error(tmp_path / "a", "--start=99")
    assert not (tmp_path / "a" / "frames.jsonl").exists()
    boxes = tmp_path / "boxes.json"
    boxes.write_text('[{"image_name": "other.png", "bbox": [1, 2, 3, 4], "score": 1}]')
    assert "no box belongs to a frame" in error(tmp_path / "b", boxes=boxes)
    assert not (tmp_path / "b" / "frames.jsonl").exists()  # another file can be tried
    assert "holds another run (every: 1 there, 2 here)" in error(whole, "--every=2")
    damaged = tmp_path / "c"
    damaged.mkdir()
    lines = (whole / "frames.jsonl").read_text().splitlines()
    lines[3] = "{}"
    (damaged / "frames.jsonl").write_text("\n".join(lines) + "\n")
    assert "line 4 is damaged" in error(damaged)


def test_an_edited_box_file_or_detector_is_another_run(
    command, run_folder, clip, tmp_path, capsys, monkeypatch
):
    boxes = tmp_path / "boxes.json"
    boxes.write_text(clip.boxes.read_text())
    monkeypatch.chdir(tmp_path)  # a relative path is the same file
    for path in (boxes, boxes.name):
        assert command(tmp_path / "a", "--end=1", boxes=path) == 0
    boxes.write_text(clip.boxes.read_text() + "\n")
    capsys.readouterr()
    assert command(tmp_path / "a", "--end=1", boxes=boxes) == 2
    assert re.search(
        r"holds another run \(boxes: \S+boxes.json, sha256 \w+ there, \S+boxes.json, "
        r"sha256 \w+ here\); use another --output",
        capsys.readouterr().err,
    )

    detector = tmp_path / "people.onnx"
    nobody = Boxes(np.zeros((0, 4)), np.zeros(0))
    monkeypatch.setattr(predict, "make_detector", lambda path: lambda image: nobody)
    arguments = [str(clip.png_folder), f"--checkpoint={run_folder}", "--end=1",
                 f"--output={tmp_path / 'b'}", "--detector=people.onnx"]  # fmt: skip
    detector.write_bytes(b"one")
    assert predict.main(arguments) == predict.main(arguments) == 0
    detector.write_bytes(b"two")
    assert predict.main(arguments) == 2
    assert "holds another run (detector: " in capsys.readouterr().err


@needs_real
def test_real_people_from_the_detector_to_the_file(tmp_path, capsys):
    """Real weights of both networks: every joint that is sure lies on its person."""
    weights = REAL / "weights"
    status = predict.main(
        [str(REAL / "video/gym.mp4"), f"--output={tmp_path}", "--end=4",
         f"--detector={weights / 'yolox_nano.onnx'}", "--batch_size=4",
         f"--checkpoint={weights / 'tinypose_256x192.npz'}"]
    )  # fmt: skip
    assert status == 0, capsys.readouterr().err
    frames = journal_frames(tmp_path)
    assert [frame["index"] for frame in frames] == [0, 1, 2, 3]
    assert min(len(frame["track_id"]) for frame in frames) >= 2
    assert len(set.intersection(*(set(f["track_id"]) for f in frames))) >= 2
    found = load_annotations(tmp_path / "posetrack18" / "gym.json")
    persons = [p for frame in found.frames for p in frame.persons]
    assert len(persons) == sum(len(frame["track_id"]) for frame in frames)
    inside = []
    for person in persons:
        left, top, width, height = person.person_box_xywh
        (x, y), sure = person.keypoints_xyv[:, :2].T, person.joint_scores > 0.5
        x, y = (x[sure] - left) / width, (y[sure] - top) / height
        inside.extend((x > -0.1) & (x < 1.1) & (y > -0.1) & (y < 1.1))
    assert len(inside) > 8 * len(persons) and np.mean(inside) > 0.95
    assert '"whyNoMotion":"This network looks' in (tmp_path / "report.html").read_text()


def test_journal_keeps_float32_exactly(tmp_path):
    rng = np.random.default_rng(0)
    xy = rng.normal(0, 1e3, (1, 17, 2)).astype(np.float32)
    maps = {"motion_useful": rng.integers(0, 256, (1, 4, 3), np.uint8)}
    people = dataclasses.replace(person(0, (0, 0)), keypoints_xy_image=xy, motion=maps)
    empty = dataclasses.replace(
        people.select(np.zeros(0, int), np.zeros(0)), index=1, motion={}
    )
    journal = Journal(tmp_path / "frames.jsonl", {"a": 1})
    journal.append(people)
    journal.append(empty)
    journal.close()
    again = Journal(tmp_path / "frames.jsonl", {"a": 1})
    first, second = again.frames()
    np.testing.assert_array_equal(first.keypoints_xy_image, xy)
    np.testing.assert_array_equal(first.motion["motion_useful"], maps["motion_useful"])
    assert len(second) == 0 and again.num_frames == 2 and again.last.index == 1
    outputs.save_csv(again.frames, tmp_path / "a.csv", POSETRACK)
    again.close()
    with pytest.raises(JournalError, match="a: 1 there, 2 here"):
        Journal(tmp_path / "frames.jsonl", {"a": 2})


def test_help_runs_without_a_model():
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    result = subprocess.run(
        [sys.executable, "-m", "tdpose_jax.video.predict", "--help"],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert result.returncode == 0 and "--detector" in result.stdout
