"""Every fault of a data folder: one line that names file, field and remedy."""

import json

import numpy as np
import pytest

from data_pipelines.input_pipeline import TrainIterator, make_eval_iterator
from data_pipelines.shard_index import CorruptRecordError, index_shard, read_record
from data_pipelines.split import build_command, open_split
from tdpose_jax.shapes import decode_sample_ids
from tests.data_pipelines.small_data import (
    data_config,
    make_record,
    random_data_set,
    write_data_set,
)

PERSONS = [[1, 2, 1], [2, 1]]


@pytest.fixture
def root(tmp_path):
    random_data_set(tmp_path / "posetrack18", PERSONS)
    return tmp_path / "posetrack18"


def shard(root, number=0):
    return sorted(root.glob("*.tfrecord-*"))[number]


def change(path, at, new=None):
    """Overwrites bytes: by default flips one."""
    data = bytearray(path.read_bytes())
    data[at] = data[at] ^ 0xFF if new is None else new
    path.write_bytes(data)


def open_fails(root, error, match, split="train", **overrides):
    with pytest.raises(error, match=match) as caught:
        open_split(data_config(root, **overrides), split)
    assert "\n" not in str(caught.value)


def test_opened_split(root):
    split = open_split(data_config(root), "train")
    assert split.first_person.tolist() == [0, 1, 3, 4, 6, 7]
    assert split.shard_of_record.tolist() == [0, 0, 0, 1, 1]
    assert split.where(4) == f"{shard(root, 1)}: record 1"
    np.testing.assert_array_equal(split.box_score, np.ones(7))
    assert split.record_of_person.tolist() == [0, 1, 1, 2, 3, 3, 4]


def test_missing_root(tmp_path):
    open_fails(
        tmp_path / "jhmdb",
        FileNotFoundError,
        r"no data set in '.*/jhmdb' .*must hold manifest.json.*does not exist.*"
        r"python -m data_pipelines.build --dataset=jhmdb --source=DIR --output=.*/jhmdb",
    )


@pytest.mark.parametrize(
    ("root", "skeleton", "window_delta", "flags"),
    [
        ("data/posetrack21", "posetrack", 2, "posetrack21 --source=DIR"),
        ("data/mine", "jhmdb", 2, "jhmdb --source=DIR"),
        ("data/mine", "posetrack", 3, "posetrack17 --source=DIR --window_delta=3"),
        ("data/mine", "coco", 2, "DATASET --source=DIR"),
        ("data/demo", "posetrack", 0, "synthetic"),
        ("data/demo_delta3", "posetrack", 3, "synthetic --window_delta=3"),
        ("data/notebook", "posetrack", 2, "synthetic --sequences=16,4"),
        ("/mnt/synthetic", "posetrack", 2, "synthetic"),
    ],
)
def test_build_command(root, skeleton, window_delta, flags):
    data = data_config(root, skeleton=skeleton, window_delta=window_delta)
    assert build_command(data) == (
        f"python -m data_pipelines.build --dataset={flags} --output={root}"
    )


def test_folder_without_manifest(root):
    (root / "manifest.json").unlink()
    open_fails(root, FileNotFoundError, "must hold manifest.json .*it has none")


def test_broken_manifest(root):
    (root / "manifest.json").write_text("{")
    open_fails(root, ValueError, "manifest.json: not JSON .*data_pipelines.build")


def test_other_skeleton(root):
    open_fails(
        root,
        ValueError,
        "has skeleton 'posetrack', config.data.skeleton is 'jhmdb'",
        skeleton="jhmdb",
    )


def test_longer_window_than_built(root):
    open_fails(
        root,
        ValueError,
        r"manifest.json: .*built with window_delta 1, config.data.window_delta is 2; "
        r"lower it, or build again with --window_delta=2",
        window_delta=2,
    )


def test_unknown_split(root):
    open_fails(root, ValueError, "no split 'val'; the data set has train", split="val")


def test_empty_split(tmp_path):
    write_data_set(tmp_path, {"train": [[]]})
    open_fails(tmp_path, ValueError, "split 'train' holds no person")


def test_missing_shard(root):
    path = shard(root, 1)
    path.unlink()
    open_fails(root, FileNotFoundError, f"{path}: the shard is missing; copy it again")


def test_short_shard(root):
    path = shard(root)
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    open_fails(
        root, ValueError, f"{path}: the shard has .* manifest.json says {len(data)}"
    )


def test_counts_that_contradict_the_manifest(root):
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["splits"]["train"]["shards"][1]["num_persons"] = 4
    (root / "manifest.json").write_text(json.dumps(manifest))
    open_fails(root, ValueError, "2 records and 3 people, manifest.json says 2 and 4")


def test_damaged_header(root):
    offset = index_shard(shard(root)).offset[1]
    change(shard(root), offset - 12)
    open_fails(root, ValueError, "record 1: its header is damaged; copy it again")


def test_shard_of_something_else(tmp_path):
    import tensorflow as tf

    path = tmp_path / "x"
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(b"hello")
    with pytest.raises(
        CorruptRecordError, match="record 0: not a record of this project"
    ):
        index_shard(path)


def test_read_record_is_what_tensorflow_reads(root):
    import tensorflow as tf

    index = index_shard(shard(root))
    expected = [r.numpy() for r in tf.data.TFRecordDataset(str(shard(root)))]
    found = [
        read_record(index.path, int(o), int(n))
        for o, n in zip(index.offset, index.length, strict=True)
    ]
    assert found == expected


def damage(root, record=1):
    """Flips a byte inside a JPEG of a record of the first shard."""
    index = index_shard(shard(root))
    change(shard(root), int(index.offset[record] + index.length[record] // 2))


def epochs(root, steps=7, **overrides):
    iterator = TrainIterator(data_config(root, **overrides), 0, 2, 0, 1)
    return iterator, [next(iterator) for _ in range(steps)]


def test_corrupt_record_stops_the_run(root):
    damage(root)
    with pytest.raises(ValueError) as caught:
        epochs(root)
    message = str(caught.value)
    assert f"{shard(root)}: record 1: checksum of its bytes is wrong" in message
    assert "1 corrupt record(s) so far, config.data.max_corrupt_records is 0" in message
    assert "\n" not in message


def test_corrupt_record_is_replaced_and_counted_once(root):
    _, clean = epochs(root)
    damage(root)
    iterator, batches = epochs(root, max_corrupt_records=1)
    assert iterator.num_corrupt_records == 1
    replaced = 0
    for batch, other in zip(batches, clean, strict=True):
        names = zip(
            decode_sample_ids(batch.sample_id),
            decode_sample_ids(other.sample_id),
            strict=True,
        )
        for i, (mine, original) in enumerate(names):
            if original.startswith("seq0/1/"):
                assert not mine.startswith("seq0/1/")
                replaced += 1
            else:
                assert mine == original
                np.testing.assert_array_equal(batch.frames[i], other.frames[i])
    assert replaced == 4  # two people, two epochs
    resumed = TrainIterator(data_config(root, max_corrupt_records=1), 0, 2, 0, 1, 3)
    np.testing.assert_array_equal(next(resumed).frames, batches[3].frames)


def test_all_records_corrupt(root):
    for number in (0, 1):
        for record in range(len(PERSONS[number])):
            index = index_shard(shard(root, number))
            change(shard(root, number), int(index.offset[record] + 400))
    with pytest.raises(ValueError, match="no readable record in .*00000-of-00002"):
        epochs(root, max_corrupt_records=10)


def test_truncated_jpeg_inside_a_good_record(tmp_path):
    rng = np.random.default_rng(0)
    good, bad = make_record("a", 4, 1, rng), make_record("b", 5, 2, rng)
    object.__setattr__(
        bad, "frames", (bad.frames[0], bad.frames[1][:300], bad.frames[2])
    )
    write_data_set(tmp_path, {"val": [[good, bad]]})
    iterator = make_eval_iterator(data_config(tmp_path), "val", 3, 0, 1)
    with pytest.raises(ValueError, match="record 1: jpeg::Uncompress failed") as caught:
        list(iterator)
    assert "\n" not in str(caught.value)
    data = data_config(tmp_path, max_corrupt_records=1)
    iterator = make_eval_iterator(data, "val", 3, 0, 1)
    (batch,) = iterator
    assert batch.example_is_real.tolist() == [True, False, False]
    assert iterator.num_corrupt_records == 1


def test_box_without_area(tmp_path):
    record = make_record("a", 4, 1, np.random.default_rng(0))
    record.person_box_xywh[0, 2] = 0
    write_data_set(tmp_path, {"val": [[record]]})
    with pytest.raises(ValueError, match=r"record 0: .*person a/4/0: .* has no area"):
        list(make_eval_iterator(data_config(tmp_path), "val", 3, 0, 1))


def test_shard_that_vanishes_during_the_run(root):
    iterator, _ = epochs(root, steps=1)
    for path in (shard(root, 0), shard(root, 1)):
        path.unlink()
    with pytest.raises(ValueError, match="record .*No such file or directory"):
        for _ in range(20):
            next(iterator)
