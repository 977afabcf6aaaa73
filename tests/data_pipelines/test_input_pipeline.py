"""Batches: exactly once, resumable at any step, the same on any number of processes."""

import dataclasses
import itertools
import json
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from data_pipelines import visit_reader
from data_pipelines.input_pipeline import TrainIterator, make_eval_iterator
from tdpose_jax.shapes import PoseBatch, decode_sample_ids
from tests.data_pipelines.small_data import (
    data_config,
    make_record,
    random_data_set,
    write_data_set,
)

PERSONS = [[1, 2, 3], [2, 2, 1], [4], [1, 1, 1, 1, 1]]  # 20 people, 12 records
# The input pipeline leaves stage features to the model.
FIELDS = [f.name for f in dataclasses.fields(PoseBatch) if f.name != "stage_features"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    random_data_set(root, PERSONS)
    return root


def train(root, batch=4, process=0, count=1, start=0, seed=0, **overrides):
    data = data_config(root, **overrides)
    return TrainIterator(data, seed, batch, process, count, start_step=start)


def take(iterator, n):
    return list(itertools.islice(iterator, n))


def assert_equal(a: PoseBatch, b: PoseBatch):
    for name in FIELDS:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def concatenate(batches) -> PoseBatch:
    return PoseBatch(**{n: np.concatenate([b[n] for b in batches]) for n in FIELDS})


def ids(batches) -> list[str]:
    return [i for b in batches for i in decode_sample_ids(b.sample_id)]


def all_ids(persons=PERSONS) -> list[str]:
    return sorted(
        f"seq{s}/{r}/{p}"
        for s, shard in enumerate(persons)
        for r, n in enumerate(shard)
        for p in range(n)
    )


def test_batches_have_the_declared_shapes(root):
    (batch,) = take(train(root), 1)
    shapes = {n: (batch[n].shape, batch[n].dtype.name) for n in FIELDS}
    assert shapes == {
        "frames": ((4, 3, 64, 48, 3), "uint8"),
        "keypoints_xy_crop": ((4, 17, 2), "float32"),
        "keypoint_weight": ((4, 17), "float32"),
        "crop_to_image": ((4, 2, 3), "float32"),
        "frame_is_real": ((4, 3), "bool"),
        "box_score": ((4,), "float32"),
        "example_is_real": ((4,), "bool"),
        "sample_id": ((4, 128), "uint8"),
    }
    assert batch.example_is_real.all() and batch.frames.any()


def test_every_person_once_per_epoch(root):
    iterator = train(root)
    assert (iterator.examples_per_epoch, iterator.steps_per_epoch) == (20, 5)
    first, second = ids(take(iterator, 5)), ids(take(iterator, 5))
    assert sorted(first) == sorted(second) == all_ids()
    assert first != second


def test_resume_at_any_step(root):
    """Bit for bit, over an epoch's end, with a batch that does not divide the epoch."""
    whole = take(train(root, batch=3), 12)
    for start in range(11):
        assert_equal(take(train(root, batch=3, start=start), 1)[0], whole[start])
    for resumed, expected in zip(
        train(root, batch=3, start=4), whole[4:], strict=False
    ):
        assert_equal(resumed, expected)


def test_state_and_restore(root):
    iterator = train(root)
    take(iterator, 3)
    state = json.loads(json.dumps(iterator.state()))
    expected = take(iterator, 3)
    iterator.restore(state)
    assert iterator.step == 3
    for batch, other in zip(take(iterator, 3), expected, strict=True):
        assert_equal(batch, other)
    # Another process count at the same global batch continues exactly.
    halves = [train(root, batch=2, process=p, count=2) for p in (0, 1)]
    for half in halves:
        half.restore(state)
    assert_equal(concatenate([next(half) for half in halves]), expected[0])
    with pytest.raises(ValueError, match="the order of the data cannot continue"):
        train(root, seed=1).restore(state)


@pytest.mark.parametrize("count", [2, 4])
def test_processes_make_the_same_global_batch(root, count):
    parts = [
        train(root, batch=4 // count, process=p, count=count) for p in range(count)
    ]
    for expected in take(train(root), 7):
        assert_equal(concatenate([next(part) for part in parts]), expected)


def test_threads_do_not_matter(root, monkeypatch):
    expected = take(train(root), 8)
    for threads in (1, 7):
        fake = types.SimpleNamespace(sched_getaffinity=lambda _, n=threads: range(n))
        monkeypatch.setattr(visit_reader, "os", fake)
        for batch, other in zip(train(root), expected, strict=False):
            assert_equal(batch, other)


_READ = """
import hashlib, json, sys
from data_pipelines.input_pipeline import TrainIterator, make_eval_iterator
from tdpose_jax.shapes import decode_sample_ids
from tests.data_pipelines.small_data import data_config
root, process = sys.argv[1], int(sys.argv[2])
iterator = TrainIterator(data_config(root), 0, 2, process, 2)
rows = []
for _ in range(5):
    b = next(iterator)
    for name, frames in zip(decode_sample_ids(b.sample_id), b.frames):
        rows.append([name, hashlib.sha256(frames.tobytes()).hexdigest()])
scored = []
for b in make_eval_iterator(data_config(root), "train", 3, process, 2):
    scored += [i for i in decode_sample_ids(b.sample_id) if i]
print(json.dumps([rows, scored]))
"""


def test_two_real_processes(root):
    """Together they read exactly what one process reads, pixels included."""
    import hashlib

    running = [
        subprocess.Popen(
            [sys.executable, "-c", _READ, str(root), str(process)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            text=True,
        )
        for process in (0, 1)
    ]
    results = [
        json.loads(p.communicate(timeout=120)[0].splitlines()[-1]) for p in running
    ]
    expected = [
        [name, hashlib.sha256(frames.tobytes()).hexdigest()]
        for b in take(train(root), 5)
        for name, frames in zip(decode_sample_ids(b.sample_id), b.frames, strict=True)
    ]
    rows = [row for rows, _ in results for row in rows]
    assert sorted(rows) == sorted(expected)
    assert sorted(i for i, _ in rows) == all_ids()
    assert sorted(i for _, scored in results for i in scored) == all_ids()


@pytest.mark.parametrize(("batch", "count"), [(4, 1), (3, 2), (7, 3), (1, 8)])
def test_evaluation_sees_everyone_once(root, batch, count):
    data = data_config(root)
    iterators = [
        make_eval_iterator(data, "train", batch, p, count) for p in range(count)
    ]
    assert len({len(iterator) for iterator in iterators}) == 1
    assert iterators[0].num_examples == 20
    seen = []
    for iterator in iterators:
        batches = list(iterator)
        assert len(batches) == len(iterator)
        for b in batches:
            assert b.frames.shape[0] == batch
            named = [bool(i) for i in decode_sample_ids(b.sample_id)]
            assert named == b.example_is_real.tolist()
            assert not b.frames[~b.example_is_real].any()
            assert np.isfinite(np.linalg.inv(b.crop_to_image[..., :2])).all()
            seen += [i for i in decode_sample_ids(b.sample_id) if i]
    assert sorted(seen) == all_ids()


def test_evaluation_is_not_augmented_and_can_be_repeated(root):
    iterator = make_eval_iterator(data_config(root), "train", 8, 0, 1)
    first, second = list(iterator), list(iterator)
    for a, b in zip(first, second, strict=True):
        assert_equal(a, b)
        linear = a.crop_to_image[a.example_is_real][..., :2]
        np.testing.assert_allclose(linear[:, 0, 1], 0)
        np.testing.assert_allclose(linear[:, 0, 0], linear[:, 1, 1])
        assert (linear[:, 0, 0] > 0).all()


def test_detections_below_the_threshold_are_dropped(tmp_path):
    record = make_record("video", 4, 4, np.random.default_rng(0))
    record.box_score[:] = [0.9, 0.19, 0.2, 0.0]
    write_data_set(tmp_path, {"val": [[record]]})
    iterator = make_eval_iterator(data_config(tmp_path), "val", 4, 0, 1)
    assert iterator.num_examples == 2
    (batch,) = iterator
    assert decode_sample_ids(batch.sample_id) == ["video/4/0", "video/4/2", "", ""]
    np.testing.assert_allclose(batch.box_score, [0.9, 0.2, 0, 0], rtol=1e-6)
    strict = data_config(tmp_path, box_score_threshold=0.95)
    with pytest.raises(ValueError, match="none of 4 boxes reaches .*threshold 0.95"):
        make_eval_iterator(strict, "val", 4, 0, 1)


def test_records_without_people_are_passed_over(tmp_path):
    rng = np.random.default_rng(0)
    empty = make_record("a", 0, 1, rng)
    empty = dataclasses.replace(
        empty,
        **{
            name: getattr(empty, name)[:0]
            for name in (
                "person_index",
                "track_id",
                "keypoints_xy_image",
                "keypoint_visible",
                "person_box_xywh",
                "box_score",
                "head_box_xyxy",
            )
        },
    )
    write_data_set(tmp_path, {"train": [[empty, make_record("b", 1, 2, rng), empty]]})
    assert set(ids(take(train(tmp_path, batch=2), 3))) == {"b/1/0", "b/1/1"}
