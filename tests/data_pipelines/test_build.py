"""The build command: same bytes however it runs, resumable, checkable, TFDS-readable."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data_pipelines import shards
from data_pipelines.build import build, main
from data_pipelines.build_steps import BuildOptions, locked
from data_pipelines.execution import run_jobs
from data_pipelines.manifest import load_manifest, verify
from data_pipelines.records import parse_example
from data_pipelines.tfrecord import read_records
from tdpose_jax.annotations import AnnotationError, load_annotations
from tests.data_pipelines import small_sets
from tests.data_pipelines.pool_job import square
from tests.real_data import REAL, needs_real

TINY_SHARDS = 0.01  # megabytes: several shards from a few frames


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("posetrack18")
    small_sets.make_posetrack18(
        root, {"train": ("a", "b"), "val": ("c", "d")}, num_frames=12
    )
    boxes = small_sets.detection_list("val", "c", range(3, 6))
    (root / "boxes.json").write_text(json.dumps(boxes))
    return root


def options(source: Path, output: Path, **changes) -> BuildOptions:
    values = {
        "dataset": "posetrack18",
        "boxes": source / "boxes.json",
        "shard_megabytes": TINY_SHARDS,
    }
    return BuildOptions(source=source, output=output, **(values | changes))


@pytest.fixture(scope="module")
def built(source, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("built")
    build(options(source, output))
    return output


def read_split(folder: Path, split: str) -> list[dict]:
    records = []
    for path in sorted(folder.glob(f"*-{split}.tfrecord-*")):
        for data in read_records(path):
            row = parse_example(data, 17, 5)
            records.append({name: value.numpy() for name, value in row.items()})
    return records


def copy(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target


def test_what_is_built(built):
    manifest = load_manifest(built)
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
    rows = read_split(built, "train")
    keys = [(r["sequence"].decode(), int(r["frame_index"])) for r in rows]
    expected = {(s, i) for s in "ab" for i in range(1, 11)}
    assert set(keys) == expected and len(keys) == len(expected)
    assert keys != sorted(keys)  # neighbours in time lie apart
    assert not list(built.glob(".*"))


def test_frames_are_the_files_on_disk(built, source):
    for row in read_split(built, "val"):
        folder = source / "images" / "val" / row["sequence"].decode()
        i = int(row["frame_index"])
        for slot, j in enumerate(range(i - 2, i + 3)):
            path = folder / f"{min(max(j, 0), 11):06d}.jpg"
            assert row["frames"][slot] == path.read_bytes()
            assert row["frame_is_real"][slot] == (0 <= j < 12)


def test_ground_truth_is_the_labels(built, source):
    for name in ("train/a", "val/c", "val/d"):
        ours = load_annotations(built / "ground_truth" / f"{name}.json")
        theirs = load_annotations(source / "annotations" / f"{name}.json")
        assert ours.name == theirs.name and len(ours.frames) == 12
        for a, b in zip(ours.frames, theirs.frames, strict=True):
            assert (a.image_name, a.image_id) == (b.image_name, b.image_id)
            assert a.is_labeled == b.is_labeled and len(a.persons) == len(b.persons)
            for p, q in zip(a.persons, b.persons, strict=True):
                np.testing.assert_array_equal(p.keypoints_xyv, q.keypoints_xyv)


def test_workers_do_not_change_the_bytes(built, source, tmp_path):
    build(options(source, tmp_path / "two", workers=2))
    assert small_sets.folder_bytes(tmp_path / "two") == small_sets.folder_bytes(built)


def test_beam_does_not_change_the_bytes(built, source, tmp_path):
    pytest.importorskip("apache_beam", reason="apache-beam is an optional extra")
    build(options(source, tmp_path / "beam", beam_arguments=()))
    assert small_sets.folder_bytes(tmp_path / "beam") == small_sets.folder_bytes(built)


def test_without_beam_the_error_says_what_to_install(source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(ImportError, match="pip install -r requirements-beam.txt"):
        build(options(source, tmp_path / "out", beam_arguments=()))


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


# --- interruptions -------------------------------------------------------------------

KILLED_BUILD = """
import os, sys, time
from data_pipelines import shards
from data_pipelines.build import main
read = shards.read_frame
def slow(path):
    open(f"{sys.argv[1]}/{os.getpid()}", "w").close()
    time.sleep(0.002)
    return read(path)
shards.read_frame = slow
if __name__ == "__main__":
    sys.exit(main(sys.argv[2:]))
"""


def is_alive(pid: int) -> bool:
    try:
        # A zombie waits for whoever adopted it and does nothing any more.
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_killed_builds_go_on_to_the_same_bytes(built, source, tmp_path):
    """SIGKILL at random moments; never a manifest, in the end the same folder."""
    output = tmp_path / "out"
    script = tmp_path / "killed_build.py"
    script.write_text(KILLED_BUILD)
    pids = tmp_path / "pids"
    pids.mkdir()
    command = [
        sys.executable, str(script), str(pids), "--dataset=posetrack18", f"--source={source}",
        f"--output={output}", f"--boxes={source / 'boxes.json'}",
        f"--shard_megabytes={TINY_SHARDS}",
    ]  # fmt: skip
    repository = Path(__file__).parents[2]
    rng = random.Random(0)
    for kill in range(int(os.environ.get("TDPOSE_KILLS", "3"))):
        process = subprocess.Popen(
            [*command, f"--workers={1 + kill % 2}"],
            env=os.environ | {"PYTHONPATH": str(repository)},
            stderr=subprocess.DEVNULL,
        )
        # Counted from the first shard, so that the moment is inside the work.
        deadline = time.monotonic() + 60
        done = len(list(output.glob("*.tfrecord-*")))
        while len(list(output.glob("*.tfrecord-*"))) <= done:
            assert process.poll() is None and time.monotonic() < deadline, kill
            time.sleep(0.001)
        time.sleep(rng.random() * 0.03)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for pid in pids.iterdir():  # no worker outlives the build
            while is_alive(int(pid.name)):
                assert time.monotonic() < deadline, "a worker goes on"
                time.sleep(0.001)
            pid.unlink()
        assert not (output / "manifest.json").exists()
        with pytest.raises(AnnotationError, match="holds no complete data set"):
            verify(output)
    written = []
    real = shards.build_record

    def counting(window, *rest):
        written.append(window.key)
        return real(window, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "build_record", counting)
        build(options(source, output))
    assert small_sets.folder_bytes(output) == small_sets.folder_bytes(built)
    assert 0 < len(written) < 60  # finished shards were kept


def test_a_changed_source_is_built_anew(source, tmp_path):
    output = tmp_path / "out"
    root = copy(source, tmp_path / "source")
    first = build(options(root, output))
    before = (output / "manifest.json").stat().st_mtime_ns
    assert build(options(root, output)) == first  # nothing to do
    assert (output / "manifest.json").stat().st_mtime_ns == before
    small_sets.write_frame(root / "images/val/c/000004.jpg", 99)
    path = root / "annotations/train/a.json"
    path.write_text(path.read_text().replace('"track_id": 1', '"track_id": 5'))
    second = build(options(root, output, shard_megabytes=0.02))
    assert second["source_fingerprint"] != first["source_fingerprint"]
    fresh = tmp_path / "fresh"
    build(options(root, fresh, shard_megabytes=0.02))
    assert small_sets.folder_bytes(output) == small_sets.folder_bytes(fresh)


def test_a_damaged_data_set_is_repaired(built, source, tmp_path):
    output = copy(built, tmp_path / "out")
    next(output.glob("*.tfrecord-*")).unlink()
    build(options(source, output))
    assert small_sets.folder_bytes(output) == small_sets.folder_bytes(built)


def test_two_builds_cannot_share_a_folder(source, tmp_path):
    with locked(tmp_path / "out"):
        with pytest.raises(AnnotationError, match="another build is writing there"):
            build(options(source, tmp_path / "out"))


# --- verify --------------------------------------------------------------------------


def test_verify_names_the_damaged_file(built, tmp_path, capsys):
    assert verify(built) == []
    rng = random.Random(1)
    for name in sorted(small_sets.folder_bytes(built))[::3]:
        if name in ("manifest.json", "features.json", "dataset_info.json"):
            continue
        folder = copy(built, tmp_path / name.replace("/", "_"))
        data = bytearray((folder / name).read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        (folder / name).write_bytes(data)
        assert verify(folder) == [
            f"{name}: SHA-256 differs from the manifest's; the file was damaged"
        ]
    assert main(["--verify", f"--output={folder}"]) == 1
    assert name in capsys.readouterr().out
    assert main(["--verify", f"--output={built}"]) == 0
    (folder / name).write_bytes(data + b"x")
    assert f"{name}: {len(data) + 1} bytes, the manifest says" in verify(folder)[0] or (
        "ground_truth" in name
    )
    (folder / name).unlink()
    assert verify(folder) == [f"{name}: missing"]


def test_verify_checks_the_counts(built, tmp_path):
    folder = copy(built, tmp_path / "out")
    manifest = load_manifest(folder)
    shard = manifest["splits"]["val"]["shards"][0]
    shard["num_records"] += 1
    (folder / "manifest.json").write_text(json.dumps(manifest))
    faults = "\n".join(verify(folder))
    assert f"{shard['file']}: holds " in faults
    assert "manifest.json: split val counts 20 records" in faults
    assert "dataset_info.json: does not agree" in faults
    (folder / "manifest.json").write_text('{"format_version": 0}')
    with pytest.raises(AnnotationError, match="format_version is 0, this code reads 1"):
        verify(folder)


# --- bad input -----------------------------------------------------------------------


def test_missing_and_truncated_frames_are_skipped_and_listed(source, tmp_path):
    root = copy(source, tmp_path / "source")
    (root / "images/train/a/000005.jpg").unlink()
    cut = root / "images/train/b/000011.jpg"  # unlabelled: a neighbour only
    cut.write_bytes(cut.read_bytes()[:-40])
    manifest = build(options(root, tmp_path / "out", boxes=None))
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


def test_splits_that_come_out_empty_are_errors(source, tmp_path):
    root = copy(source, tmp_path / "source")
    shutil.rmtree(root / "images" / "val")
    with pytest.raises(
        AnnotationError, match="'val' has no usable keyframe; the first"
    ):
        build(options(root, tmp_path / "out", boxes=None))
    assert not (tmp_path / "out" / "manifest.json").exists()
    for path in (root / "annotations/val").iterdir():
        content = json.loads(path.read_text())
        content["annotations"] = []
        path.write_text(json.dumps(content))
    with pytest.raises(
        AnnotationError, match="'val' has a labelled person|none of the"
    ):
        build(options(root, tmp_path / "out", boxes=None))


def test_command_line_errors(source, built, tmp_path, capsys):
    out = f"--output={tmp_path / 'out'}"
    assert main(["--dataset=jhmdb", "--source=/nowhere", out]) == 2
    assert "error: --source=/nowhere: does not exist" in capsys.readouterr().err
    cases = (
        (
            ["--dataset=coco", f"--source={source}", out],
            "--dataset=coco: choose one of",
        ),
        (
            ["--dataset=posetrack17", f"--source={source}", f"--output={built}"],
            "holds the data set 'posetrack18'; choose another folder",
        ),
        (
            ["--dataset=posetrack18", f"--source={source}", f"--output={source}"],
            "is the source folder too",
        ),
        (
            ["--dataset=posetrack18", f"--source={source}", out, "--window_delta=-1"],
            "--window_delta=-1: is negative",
        ),
        (
            ["--dataset=posetrack18", f"--source={source}", out, "--shard_megabytes=0"],
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


def test_workers_do_without_tensorflow(source, tmp_path):
    """A pool of 64 must not cost 64 times TensorFlow's memory."""
    code = (
        "import sys; from data_pipelines.build import main; main(sys.argv[1:]); "
        "assert not any(m.split('.')[0] in ('tensorflow', 'jax') for m in sys.modules)"
    )
    arguments = ["--dataset=posetrack18", f"--source={source}", "--workers=1"]
    command = [sys.executable, "-c", code, *arguments, f"--output={tmp_path / 'out'}"]
    subprocess.run(
        command, check=True, capture_output=True, cwd=Path(__file__).parents[2]
    )


# --- TensorFlow Datasets -------------------------------------------------------------


def test_tfds_reads_the_folder(built):
    tfds = pytest.importorskip("tensorflow_datasets")
    builder = tfds.builder_from_directory(built)
    assert builder.info.splits["val_detections"].num_examples == 20
    rows = list(builder.as_dataset(split="val_detections").as_numpy_iterator())
    ours = {
        (r["sequence"], int(r["frame_index"])): r
        for r in read_split(built, "val_detections")
    }
    assert len(rows) == len(ours)
    for row in rows:
        other = ours[row["sequence"], int(row["frame_index"])]
        np.testing.assert_array_equal(row["person_box_xywh"], other["person_box_xywh"])
        assert row["frames"].shape == (5, *small_sets.SIZE_HW, 3)


def test_tfds_load_builds_and_reads(source, tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    import data_pipelines.tfds_builders  # noqa: F401 - registers the names

    config = tfds.download.DownloadConfig(manual_dir=source)
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
    build(options(source, folder, window_delta=1))
    data = tfds.load("tdpose_posetrack18", data_dir=tmp_path, split="val_detections")
    assert data.element_spec["frames"].shape[0] == 3


# --- real samples --------------------------------------------------------------------


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
    for row in read_split(tmp_path / "out", "val"):
        assert list(row["frame_is_real"]) == [0, 0, 1, 0, 0]


@needs_real
def test_real_posetrack17(tmp_path):
    manifest = build(
        BuildOptions("posetrack17", REAL / "posetrack17", tmp_path / "out")
    )
    split = manifest["splits"]["val"]
    assert (split["num_records"], split["num_persons"]) == (21, 84)
    assert not manifest["skipped"]
