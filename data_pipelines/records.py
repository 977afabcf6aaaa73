"""The record: one keyframe's window and all its people, as a `tf.train.Example`.

The table `FIELDS` is the schema. `to_example` writes what `parse_example` reads; both
stand here so that they cannot drift apart. Letters are those of `tdpose_jax.shapes`:
T frames in the window, P people in the keyframe, K keypoints. All coordinates are
pixels of the video frame, integer coordinates at pixel centres.
"""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from data_pipelines.tfrecord import encode_example

if TYPE_CHECKING:
    import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Field:
    """One feature. `shape` uses letters for sizes known only with the data set."""

    name: str
    kind: str  # bytes, int64 or float32
    shape: tuple[str | int, ...]
    meaning: str


FIELDS = (
    Field("sequence", "bytes", (), "name of the video, UTF-8"),
    Field("frame_index", "int64", (), "keyframe's 0-based position in the sequence"),
    Field("frame_name", "bytes", (), "keyframe's file name as the labels have it"),
    Field(
        "frames", "bytes", ("T",), "JPEG files in time order, keyframe in the middle"
    ),
    Field("frame_is_real", "int64", ("T",), "0 where the edge repeats another frame"),
    Field("image_size_hw", "int64", (2,), "height and width of the video frame"),
    Field(
        "person_index", "int64", ("P",), "position among the frame's labelled people"
    ),
    Field("track_id", "int64", ("P",), "identity within the sequence, -1 unknown"),
    Field("keypoints_xy_image", "float32", ("P", "K", 2), "zeros where unlabelled"),
    Field("keypoint_visible", "int64", ("P", "K"), "the label's flag, > 0: labelled"),
    Field("person_box_xywh", "float32", ("P", 4), "left, top, width, height"),
    Field("box_score", "float32", ("P",), "detector's score, 1 for ground truth"),
    Field("head_box_xyxy", "float32", ("P", 4), "corners, zeros where unknown"),
)


@dataclasses.dataclass(frozen=True)
class Record:
    """One keyframe's window in numpy; attributes are those of `FIELDS`."""

    sequence: str
    frame_index: int
    frame_name: str
    frames: tuple[bytes, ...]
    frame_is_real: np.ndarray
    image_size_hw: tuple[int, int]
    person_index: np.ndarray
    track_id: np.ndarray
    keypoints_xy_image: np.ndarray
    keypoint_visible: np.ndarray
    person_box_xywh: np.ndarray
    box_score: np.ndarray
    head_box_xyxy: np.ndarray

    @property
    def num_persons(self) -> int:
        """P, the people of the keyframe."""
        return len(self.person_index)


def num_frames(window_delta: int) -> int:
    """T of a window that reaches `window_delta` frames to each side."""
    return 2 * window_delta + 1


def to_example(record: Record, num_keypoints: int) -> bytes:
    """Serialises a record; equal records give equal bytes.

    Raises:
      ValueError: if a field's shape contradicts `FIELDS`, or T is even.
    """
    sizes = {"T": len(record.frames), "P": record.num_persons, "K": num_keypoints}
    where = f"record {record.sequence}/{record.frame_index}"
    if sizes["T"] % 2 == 0:
        raise ValueError(
            f"{where}: {sizes['T']} frames; a window has the keyframe in its middle, "
            "so their number is odd"
        )
    features: dict[str, list[bytes] | np.ndarray] = {}
    for field in FIELDS:
        value = getattr(record, field.name)
        if field.kind == "bytes":
            items = value if field.shape else [value]
            features[field.name] = [
                item.encode() if isinstance(item, str) else item for item in items
            ]
            continue
        array = np.asarray(value, field.kind)
        expected = tuple(sizes.get(letter, letter) for letter in field.shape)
        if array.shape != expected:
            raise ValueError(
                f"{where}: field {field.name} has shape {array.shape}, expected "
                f"{expected} = {field.shape}"
            )
        if not np.isfinite(array).all():
            raise ValueError(f"{where}: field {field.name} is not finite")
        features[field.name] = array.reshape(-1)
    return encode_example(features)


def parse_example(
    serialized: "tf.Tensor", num_keypoints: int, num_frames: int
) -> dict[str, "tf.Tensor"]:
    """Reads one record inside a tf.data graph.

    Args:
      serialized: scalar string.
      num_keypoints: K of the data set's skeleton (manifest: `skeleton`).
      num_frames: T the data set was built with (manifest: `window_delta`).

    Returns:
      Field name -> tensor of the shape in `FIELDS`; T and K are static, P is not.
      `frames` are still JPEG bytes.

    Raises:
      tf.errors.InvalidArgumentError: if the bytes are no record of this T and K.
    """
    import tensorflow as tf

    sizes = {"T": num_frames, "P": None, "K": num_keypoints}
    dtypes = {"bytes": tf.string, "int64": tf.int64, "float32": tf.float32}
    spec = {}
    for field in FIELDS:
        shape = tuple(sizes.get(letter, letter) for letter in field.shape)
        if shape and shape[0] is None:
            # One element of the sequence is one person, so P follows by division.
            spec[field.name] = tf.io.FixedLenSequenceFeature(
                shape[1:], dtypes[field.kind], allow_missing=True
            )
        else:
            spec[field.name] = tf.io.FixedLenFeature(shape, dtypes[field.kind])
    return tf.io.parse_single_example(serialized, spec)
