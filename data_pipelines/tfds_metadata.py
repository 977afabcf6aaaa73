"""The files by which TensorFlow Datasets recognises a folder of our shards.

`dataset_info.json` and `features.json` beside the shards make
`tfds.builder_from_directory(folder)` work. They are written with sorted keys and no
dates, so that equal data sets are equal folders.
"""

import json
from typing import TYPE_CHECKING

import numpy as np

from data_pipelines.records import FIELDS, num_frames

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

VERSION = "1.0.0"
DESCRIPTION = (
    "Windows of video frames around labelled keyframes with all people of the "
    "keyframe; see data_pipelines/records.py of tdpose."
)
FILE_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


def tfds_name(dataset: str) -> str:
    """The registered name: `tdpose_jhmdb` and so on."""
    return f"tdpose_{dataset}"


def make_features(
    num_keypoints: int, window_delta: int
) -> "tfds.features.FeaturesDict":
    """`records.FIELDS` in TFDS's terms; decoding yields RGB frames."""
    import tensorflow_datasets as tfds

    sizes = {"T": num_frames(window_delta), "P": None, "K": num_keypoints}
    features = {}
    for field in FIELDS:
        shape = tuple(sizes.get(letter, letter) for letter in field.shape)
        if field.name == "frames":
            features[field.name] = tfds.features.Sequence(
                tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                length=shape[0],
            )
        elif field.kind == "bytes":
            features[field.name] = tfds.features.Text()
        else:
            features[field.name] = tfds.features.Tensor(
                shape=shape, dtype=np.dtype(field.kind)
            )
    return tfds.features.FeaturesDict(features)


def features_json(num_keypoints: int, window_delta: int) -> bytes:
    """Content of `features.json`."""
    content = make_features(num_keypoints, window_delta).to_json()
    return (json.dumps(content, indent=4, sort_keys=True) + "\n").encode()


def dataset_info_json(dataset: str, splits: dict[str, dict]) -> bytes:
    """Content of `dataset_info.json`.

    Args:
      splits: the manifest's `splits`.
    """
    content = {
        "description": DESCRIPTION,
        "fileFormat": "tfrecord",
        "name": tfds_name(dataset),
        "splits": [
            {
                "filepathTemplate": FILE_TEMPLATE,
                "name": name,
                "numBytes": str(sum(s["bytes"] for s in split["shards"])),
                "shardLengths": [str(s["num_records"]) for s in split["shards"]],
            }
            for name, split in splits.items()
        ],
        "version": VERSION,
    }
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()
