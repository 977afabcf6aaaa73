"""The record's bytes: TensorFlow writes and reads the same."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.records import FIELDS, Record, num_frames, parse_example, to_example
from data_pipelines.tfrecord import TFRecordWriter, encode_example, read_records

tf = pytest.importorskip("tensorflow")


def make_record(num_persons: int, num_keypoints: int = 15, t: int = 5) -> Record:
    rng = np.random.default_rng(num_persons)
    p, k = num_persons, num_keypoints
    return Record(
        sequence="Straße_000001",
        frame_index=3,
        frame_name="images/val/000003.jpg",
        frames=tuple(b"\xff\xd8jpeg%d" % i for i in range(t)),
        frame_is_real=np.array([0] + [1] * (t - 1)),
        image_size_hw=(1080, 1920),
        person_index=np.arange(p) + 1,
        track_id=np.arange(p) - 1,
        keypoints_xy_image=rng.normal(500, 900, (p, k, 2)).astype(np.float32),
        keypoint_visible=rng.integers(0, 3, (p, k)),
        person_box_xywh=rng.normal(0, 100, (p, 4)).astype(np.float32),
        box_score=rng.random(p).astype(np.float32),
        head_box_xyxy=rng.random((p, 4)).astype(np.float32),
    )


@pytest.mark.parametrize("num_persons", [0, 1, 7])
@pytest.mark.parametrize("window_delta", [0, 1, 2])
def test_round_trip(num_persons, window_delta):
    record = make_record(num_persons, t=num_frames(window_delta))
    data = tf.data.Dataset.from_tensors(to_example(record, 15))
    parsed = data.map(lambda s: parse_example(s, 15, num_frames(window_delta)))
    assert parsed.element_spec["keypoints_xy_image"].shape == (None, 15, 2)
    assert parsed.element_spec["frames"].shape == (num_frames(window_delta),)
    (row,) = parsed.as_numpy_iterator()
    assert set(row) == {field.name for field in FIELDS}
    assert row["sequence"].decode() == record.sequence
    for field in FIELDS:
        if field.kind != "bytes":
            expected = np.asarray(getattr(record, field.name), field.kind)
            np.testing.assert_array_equal(row[field.name], expected, field.name)
            assert row[field.name].dtype == expected.dtype
    assert tuple(row["frames"]) == record.frames


def test_record_and_table_agree():
    assert [f.name for f in FIELDS] == [f.name for f in dataclasses.fields(Record)]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"frames": (b"a", b"b")}, "2 frames; a window has the keyframe in its middle"),
        ({"box_score": np.ones(3)}, r"field box_score has shape \(3,\), expected \(2"),
        (
            {"keypoints_xy_image": np.full((2, 15, 2), np.nan)},
            "keypoints_xy_image is not finite",
        ),
        ({"keypoint_visible": np.ones((2, 17))}, "field keypoint_visible has shape"),
    ],
)
def test_malformed_records_are_refused(change, message):
    record = dataclasses.replace(make_record(2), **change)
    with pytest.raises(ValueError, match=message):
        to_example(record, 15)


def test_wrong_window_or_joint_count_is_refused_on_reading():
    data = to_example(make_record(2), 15)
    with pytest.raises(tf.errors.InvalidArgumentError, match="frames"):
        parse_example(data, 15, 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="keypoint"):
        parse_example(data, 17, 5)


FEATURES = st.dictionaries(
    st.text(min_size=1, max_size=8),
    st.one_of(
        st.lists(st.binary(max_size=300), max_size=4),
        st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5).map(
            lambda v: np.array(v, np.int64)
        ),
        st.lists(st.floats(width=32, allow_nan=False), max_size=5).map(
            lambda v: np.array(v, np.float32)
        ),
    ),
    max_size=5,
)


def tensorflow_feature(value):
    if not isinstance(value, np.ndarray):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=value))
    if value.dtype == np.float32:
        return tf.train.Feature(float_list=tf.train.FloatList(value=value))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=value))


@settings(max_examples=200, deadline=None)
@given(FEATURES)
def test_our_encoding_is_protobufs(features):
    message = {name: tensorflow_feature(value) for name, value in features.items()}
    example = tf.train.Example(features=tf.train.Features(feature=message))
    ours = encode_example(features)
    assert tf.train.Example.FromString(ours) == example
    # Not compared byte by byte: protobuf puts "00" before "0", and may change its mind.
    assert len(ours) == len(example.SerializeToString())


def test_encoding_refuses_other_types():
    with pytest.raises(TypeError, match="feature a: float64 is not float32 or int64"):
        encode_example({"a": np.zeros(2)})


def test_tfrecord_files_are_tensorflows(tmp_path):
    records = [b"", b"a", bytes(range(256)) * 40]
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    with TFRecordWriter(ours) as writer:
        for record in records:
            writer.write(record)
    with tf.io.TFRecordWriter(str(theirs)) as writer:
        for record in records:
            writer.write(record)
    assert ours.read_bytes() == theirs.read_bytes()
    assert list(read_records(theirs)) == records
    assert list(tf.data.TFRecordDataset(str(ours)).as_numpy_iterator()) == records


def test_damaged_tfrecord_names_the_record(tmp_path):
    path = tmp_path / "file"
    with TFRecordWriter(path) as writer:
        writer.write(b"first")
        writer.write(b"second")
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        number = int(at >= 8 + 4 + 5 + 4)
        with pytest.raises(ValueError, match=f"record {number} is cut off or damaged"):
            list(read_records(path))
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="record 1"):
        list(read_records(path))
