"""Builds that are killed, repeated, damaged and checked."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_pipelines import shards
from data_pipelines.build import build, main
from data_pipelines.build_steps import locked
from data_pipelines.manifest import load_manifest, verify
from tdpose_jax.annotations import AnnotationError
from tests.data_pipelines import small_sets

KILLED_BUILD = """
import os, sys, time
from data_pipelines import shards
from data_pipelines.build import main
read = shards.read_frame
def slow(path):
    open(f"{sys.argv[1]}/{os.getpid()}", "w").close()
    time.sleep(0.005)
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


def test_killed_builds_go_on_to_the_same_bytes(pose_built, pose_source, tmp_path):
    """SIGKILL at random moments; never a manifest, in the end the same folder."""
    output = tmp_path / "out"
    script = tmp_path / "killed_build.py"
    script.write_text(KILLED_BUILD)
    pids = tmp_path / "pids"
    pids.mkdir()
    command = [
        sys.executable, str(script), str(pids), "--dataset=posetrack18", f"--source={pose_source}",
        f"--output={output}", f"--boxes={pose_source / 'boxes.json'}",
        f"--shard_megabytes={small_sets.TINY_SHARDS}",
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
        build(small_sets.pose_options(pose_source, output))
    assert small_sets.folder_bytes(output) == small_sets.folder_bytes(pose_built)
    assert len(written) < 60  # finished shards were kept


def test_a_changed_source_is_built_anew(pose_source, tmp_path):
    output = tmp_path / "out"
    root = small_sets.copy(pose_source, tmp_path / "source")
    first = build(small_sets.pose_options(root, output))
    before = (output / "manifest.json").stat().st_mtime_ns
    assert build(small_sets.pose_options(root, output)) == first  # nothing to do
    assert (output / "manifest.json").stat().st_mtime_ns == before
    small_sets.write_frame(root / "images/val/c/000004.jpg", 99)
    path = root / "annotations/train/a.json"
    path.write_text(path.read_text().replace('"track_id": 1', '"track_id": 5'))
    second = build(small_sets.pose_options(root, output, shard_megabytes=0.02))
    assert second["source_fingerprint"] != first["source_fingerprint"]
    fresh = tmp_path / "fresh"
    build(small_sets.pose_options(root, fresh, shard_megabytes=0.02))
    assert small_sets.folder_bytes(output) == small_sets.folder_bytes(fresh)


@pytest.mark.parametrize("where", ["joint", "polygon", "box"])
def test_a_changed_label_alone_is_seen(pose_source, tmp_path, where):
    root = small_sets.copy(pose_source, tmp_path / "source")
    output = tmp_path / "out"
    build(small_sets.pose_options(root, output))
    path = root / "annotations/train/a.json"
    content = json.loads(path.read_text())
    if where == "joint":
        content["annotations"][3]["keypoints"][0] += 1
    elif where == "box":  # in no label file, only in a record
        boxes = json.loads((root / "boxes.json").read_text())
        boxes[0]["score"] = 0.5
        (root / "boxes.json").write_text(json.dumps(boxes))
    else:  # in no record, only in the label files
        content["images"][4]["ignore_regions_x"] = [[1, 2, 3]]
        content["images"][4]["ignore_regions_y"] = [[1, 2, 1]]
    path.write_text(json.dumps(content))
    build(small_sets.pose_options(root, output))
    fresh = tmp_path / "fresh"
    build(small_sets.pose_options(root, fresh))
    assert small_sets.folder_bytes(output) == small_sets.folder_bytes(fresh)


def test_a_rebuild_that_stops_leaves_no_manifest(pose_source, tmp_path, monkeypatch):
    root = small_sets.copy(pose_source, tmp_path / "source")
    output = tmp_path / "out"
    build(small_sets.pose_options(root, output))
    small_sets.write_frame(root / "images/val/c/000004.jpg", 99)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(shards, "build_record", stop)
    with pytest.raises(KeyboardInterrupt):
        build(small_sets.pose_options(root, output))
    with pytest.raises(AnnotationError, match="holds no complete data set"):
        verify(output)


def test_a_damaged_data_set_is_repaired(pose_built, pose_source, tmp_path):
    output = small_sets.copy(pose_built, tmp_path / "out")
    next(output.glob("*.tfrecord-*")).unlink()
    build(small_sets.pose_options(pose_source, output))
    assert small_sets.folder_bytes(output) == small_sets.folder_bytes(pose_built)


def test_two_builds_cannot_share_a_folder(pose_source, tmp_path):
    with locked(tmp_path / "out"):
        with pytest.raises(AnnotationError, match="another build is writing there"):
            build(small_sets.pose_options(pose_source, tmp_path / "out"))


def test_verify_names_the_damaged_file(pose_built, tmp_path, capsys):
    assert verify(pose_built) == []
    rng = random.Random(1)
    for name in sorted(small_sets.folder_bytes(pose_built))[::3]:
        if name in ("manifest.json", "features.json", "dataset_info.json"):
            continue
        folder = small_sets.copy(pose_built, tmp_path / name.replace("/", "_"))
        data = bytearray((folder / name).read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        (folder / name).write_bytes(data)
        assert verify(folder) == [
            f"{name}: SHA-256 differs from the manifest's; the file was damaged"
        ]
    assert main(["--verify", f"--output={folder}"]) == 1
    assert name in capsys.readouterr().out
    assert main(["--verify", f"--output={pose_built}"]) == 0
    (folder / name).write_bytes(data + b"x")
    assert f"{name}: {len(data) + 1} bytes, the manifest says" in verify(folder)[0] or (
        "ground_truth" in name
    )
    (folder / name).unlink()
    assert verify(folder) == [f"{name}: missing"]


def test_verify_checks_the_counts(pose_built, tmp_path):
    folder = small_sets.copy(pose_built, tmp_path / "out")
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
