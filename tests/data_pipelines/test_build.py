"""The build command: what it writes, bad input, what TFDS reads."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.build import build, main
from data_pipelines.build_steps import BuildOptions
from data_pipelines.execution import run_jobs
from data_pipelines.manifest import load_manifest, verify
from tdpose_jax.annotations import AnnotationError, load_annotations
from tests.data_pipelines import small_sets
from tests.data_pipelines.pool_job import square
from tests.real_data import REAL, needs_real


def test_what_is_built(pose_built):
    manifest = load_manifest(pose_built)
    assert {n: s["num_records"] for n, s in manifest["splits"].items()} == {
        "train": 20,
        "val": 20,
        "val_detections": 20,
    }
    assert manifest["splits"]["val_detections"]["num_persons"] == 6
    assert manifest["splits"]["val_detections"]["ground_truth"] == "ground_truth/val"
    assert len(manifest["splits"]["train"]["shards"]) >= 8
    assert manifest["skipped"] == [
        {"file": "d", "reason": "no detections for the sequence"}
    ]
    assert manifest["skeleton"] == "posetrack" and manifest["window_delta"] == 2
    rows = small_sets.read_split(pose_built, "train")
    keys = [(r["sequence"].decode(), int(r["frame_index"])) for r in rows]
    expected = {(s, i) for s in "ab" for i in range(1, 11)}
    assert set(keys) == expected and len(keys) == len(expected)
    videos = [name for name, _ in keys]
    assert videos != sorted(videos)  # videos are mixed, neighbours in time lie apart
    assert not list(pose_built.glob(".*"))


def test_frames_are_the_files_on_disk(pose_built, pose_source):
    for row in small_sets.read_split(pose_built, "val"):
        folder = pose_source / "images" / "val" / row["sequence"].decode()
        i = int(row["frame_index"])
        for slot, j in enumerate(range(i - 2, i + 3)):
            path = folder / f"{min(max(j, 0), 11):06d}.jpg"
            assert row["frames"][slot] == path.read_bytes()
            assert row["frame_is_real"][slot] == (0 <= j < 12)


def test_ground_truth_is_the_labels(pose_built, pose_source):
    for name in ("train/a", "val/c", "val/d"):
        ours = load_annotations(pose_built / "ground_truth" / f"{name}.json")
        theirs = load_annotations(pose_source / "annotations" / f"{name}.json")
        assert ours.name == theirs.name and len(ours.frames) == 12
        for a, b in zip(ours.frames, theirs.frames, strict=True):
            assert (a.image_name, a.image_id) == (b.image_name, b.image_id)
            assert a.is_labeled == b.is_labeled and len(a.persons) == len(b.persons)
            for p, q in zip(a.persons, b.persons, strict=True):
                np.testing.assert_array_equal(p.keypoints_xyv, q.keypoints_xyv)


def test_workers_do_not_change_the_bytes(pose_built, pose_source, tmp_path):
    build(small_sets.pose_options(pose_source, tmp_path / "two", workers=2))
    assert small_sets.folder_bytes(tmp_path / "two") == small_sets.folder_bytes(
        pose_built
    )


def test_beam_does_not_change_the_bytes(pose_built, pose_source, tmp_path):
    pytest.importorskip("apache_beam", reason="apache-beam is an optional extra")
    build(small_sets.pose_options(pose_source, tmp_path / "beam", beam_arguments=()))
    assert small_sets.folder_bytes(tmp_path / "beam") == small_sets.folder_bytes(
        pose_built
    )


def test_without_beam_the_error_says_what_to_install(
    pose_source, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(ImportError, match="pip install -r requirements-beam.txt"):
        build(small_sets.pose_options(pose_source, tmp_path / "out", beam_arguments=()))


@pytest.mark.parametrize("as_video", [True, False])
def test_jhmdb_builds(tmp_path, as_video):
    root = small_sets.make_jhmdb(tmp_path / "jhmdb", as_video)
    for workers in (1, 2):
        output = tmp_path / f"out{workers}"
        build(BuildOptions("jhmdb", root, output, window_delta=1, workers=workers))
    assert small_sets.folder_bytes(tmp_path / "out1") == small_sets.folder_bytes(
        tmp_path / "out2"
    )
    manifest = load_manifest(output)
    assert {n: s["num_records"] for n, s in manifest["splits"].items()} == {
        "train": 10,
        "val": 5,
    }
    label = load_annotations(output / "ground_truth/val/clip_2_wave.json")
    assert label.skeleton == "jhmdb" and len(label.frames) == 5


def test_missing_and_truncated_frames_are_skipped_and_listed(pose_source, tmp_path):
    root = small_sets.copy(pose_source, tmp_path / "source")
    (root / "images/train/a/000005.jpg").unlink()
    cut = root / "images/train/b/000011.jpg"  # unlabelled: a neighbour only
    cut.write_bytes(cut.read_bytes()[:-40])
    manifest = build(small_sets.pose_options(root, tmp_path / "out", boxes=None))
    assert manifest["splits"]["train"]["num_records"] == 19
    missing = "frame missing (No such file or directory)"
    assert manifest["skipped"] == [
        {
            "file": "images/train/a/000005.jpg",
            "reason": f"{missing}; its window is skipped",
        },
        {
            "file": "images/train/a/000005.jpg",
            "reason": f"{missing}; neighbours repeat the nearest frame",
        },
        {
            "file": "images/train/b/000011.jpg",
            "reason": "truncated JPEG (no end marker); neighbours repeat the nearest "
            "frame",
        },
    ]


def test_splits_that_come_out_empty_are_errors(pose_source, tmp_path):
    root = small_sets.copy(pose_source, tmp_path / "source")
    shutil.rmtree(root / "images" / "val")
    with pytest.raises(
        AnnotationError, match="'val' has no usable keyframe; the first"
    ):
        build(small_sets.pose_options(root, tmp_path / "out", boxes=None))
    assert not (tmp_path / "out" / "manifest.json").exists()
    for path in (root / "annotations/val").iterdir():
        content = json.loads(path.read_text())
        content["annotations"] = []
        path.write_text(json.dumps(content))
    with pytest.raises(
        AnnotationError, match="'val' has a labelled person|none of the"
    ):
        build(small_sets.pose_options(root, tmp_path / "out", boxes=None))


def test_command_line_errors(pose_source, pose_built, tmp_path, capsys):
    out = f"--output={tmp_path / 'out'}"
    assert main(["--dataset=jhmdb", "--source=/nowhere", out]) == 2
    assert "error: --source=/nowhere: does not exist" in capsys.readouterr().err
    cases = (
        (
            ["--dataset=coco", f"--source={pose_source}", out],
            "--dataset=coco: choose one of",
        ),
        (
            [
                "--dataset=posetrack17",
                f"--source={pose_source}",
                f"--output={pose_built}",
            ],
            "holds the data set 'posetrack18'; choose another folder",
        ),
        (
            [
                "--dataset=posetrack18",
                f"--source={pose_source}",
                f"--output={pose_source}",
            ],
            "is the source folder too",
        ),
        (
            [
                "--dataset=posetrack18",
                f"--source={pose_source}",
                out,
                "--window_delta=-1",
            ],
            "--window_delta=-1: is negative",
        ),
        (
            [
                "--dataset=posetrack18",
                f"--source={pose_source}",
                out,
                "--shard_megabytes=0",
            ],
            "--shard_megabytes=0: must be positive",
        ),
        (["--dataset=synthetic", out, "--sequences=4"], "--sequences=4: expected two"),
    )
    for arguments, message in cases:
        assert main(arguments) == 2, arguments
        assert message in capsys.readouterr().err
    for arguments, message in (
        ([out], "--dataset is missing: one of posetrack17"),
        (["--dataset=jhmdb", out], "--source is missing"),
        (["--dataset=jhmdb", "--source=x", out, "--sead=3"], "unknown flag --sead=3"),
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        assert message in capsys.readouterr().err


def test_pool_results_and_errors():
    done = []
    assert run_jobs(square, [1, 3, 4], 2, done.append) == [1, 9, 16]
    assert sorted(done) == [0, 1, 2]
    with pytest.raises(ValueError, match="job two"):
        run_jobs(square, [1, 2], 2, done.append)
    with pytest.raises(RuntimeError, match="a worker process died.*smaller --workers"):
        run_jobs(square, [1, 9], 2, done.append)


def test_workers_do_without_tensorflow(pose_source, tmp_path):
    """A pool of 64 must not cost 64 times TensorFlow's memory."""
    code = (
        "import sys; from data_pipelines.build import main; main(sys.argv[1:]); "
        "assert not any(m.split('.')[0] in ('tensorflow', 'jax') for m in sys.modules)"
    )
    arguments = ["--dataset=posetrack18", f"--source={pose_source}", "--workers=1"]
    command = [sys.executable, "-c", code, *arguments, f"--output={tmp_path / 'out'}"]
    subprocess.run(
        command, check=True, capture_output=True, cwd=Path(__file__).parents[2]
    )


def test_tfds_reads_the_folder(pose_built):
    tfds = pytest.importorskip("tensorflow_datasets")
    builder = tfds.builder_from_directory(pose_built)
    assert builder.info.splits["val_detections"].num_examples == 20
    rows = list(builder.as_dataset(split="val_detections").as_numpy_iterator())
    ours = {
        (r["sequence"], int(r["frame_index"])): r
        for r in small_sets.read_split(pose_built, "val_detections")
    }
    assert len(rows) == len(ours)
    for row in rows:
        other = ours[row["sequence"], int(row["frame_index"])]
        np.testing.assert_array_equal(row["person_box_xywh"], other["person_box_xywh"])
        assert row["frames"].shape == (5, *small_sets.SIZE_HW, 3)


def test_tfds_load_builds_and_reads(pose_source, tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    import data_pipelines.tfds_builders  # noqa: F401 - registers the names

    config = tfds.download.DownloadConfig(manual_dir=pose_source)
    data = tfds.load(
        "tdpose_posetrack18",
        data_dir=tmp_path,
        split="train",
        download_and_prepare_kwargs={"download_config": config},
    )
    assert len(list(data)) == 20
    folder = tmp_path / "tdpose_posetrack18" / "1.0.0"
    assert verify(folder) == []
    # A folder that the command wrote is taken as it is, with its own window.
    shutil.rmtree(folder)
    build(small_sets.pose_options(pose_source, folder, window_delta=1))
    data = tfds.load("tdpose_posetrack18", data_dir=tmp_path, split="val_detections")
    assert data.element_spec["frames"].shape[0] == 3


@needs_real
def test_real_posetrack18_with_detections(tmp_path):
    root = REAL / "posetrack18"
    manifest = build(
        BuildOptions(
            "posetrack18",
            root,
            tmp_path / "out",
            boxes=root / "annotations/test_posetrack18_human_detections.json",
        )
    )
    counts = {
        name: (split["num_records"], split["num_persons"])
        for name, split in manifest["splits"].items()
    }
    assert counts == {"val": (3, 14), "val_detections": (3, 278)}
    for row in small_sets.read_split(tmp_path / "out", "val"):
        assert list(row["frame_is_real"]) == [0, 0, 1, 0, 0]


@needs_real
def test_real_posetrack17(tmp_path):
    manifest = build(
        BuildOptions("posetrack17", REAL / "posetrack17", tmp_path / "out")
    )
    split = manifest["splits"]["val"]
    assert (split["num_records"], split["num_persons"]) == (21, 84)
    assert not manifest["skipped"]
