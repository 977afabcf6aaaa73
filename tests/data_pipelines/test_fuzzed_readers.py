"""Damaged files: the readers raise AnnotationError and nothing else."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.detections import load_detections
from data_pipelines.jhmdb import (
    load_joint_positions,
    read_split_list,
)
from data_pipelines.posetrack import read_merged
from data_pipelines.windows import label_windows
from tdpose_jax.annotations import AnnotationError
from tests.data_pipelines import small_sets


def mutations(data: bytes, rng: random.Random) -> bytes:
    """Flips, cuts, copies and replaces parts of a file."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out) or 1)
        kind = rng.randrange(5)
        if kind == 0 and out:
            out[at] = rng.randrange(256)
        elif kind == 1:
            del out[at : at + rng.randrange(40)]
        elif kind == 2:
            out[at:at] = out[at : at + rng.randrange(60)]
        elif kind == 3:
            tokens = (b"null", b"[]", b"{}", b"-1", b"1e400", b'"x"', b"true", b"\xff")
            out[at : at + rng.randrange(6)] = rng.choice(tokens)
        else:
            out = out[:at]
    return bytes(out)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_fuzzed_box_files(seed):
    rng = random.Random(seed)
    data = json.dumps(small_sets.detection_list("val", "c", range(3))).encode()
    with fuzzed(mutations(data, rng)) as path:
        load_detections(path)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_fuzzed_merged_files(seed):
    rng = random.Random(seed)
    content = small_sets.posetrack18_labels("c", "val", 3, range(2))
    with fuzzed(mutations(json.dumps(content).encode(), rng)) as path:
        for video in read_merged(path.parent, path):
            label_windows(video, 2)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_fuzzed_joint_positions(seed):
    rng = random.Random(seed)
    with fuzzed(mutations(MAT, rng)) as path:
        load_joint_positions(path)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=80) | st.text(max_size=60).map(str.encode))
def test_fuzzed_split_lists(data):
    with fuzzed(data) as path:
        read_split_list(path)


class fuzzed:  # noqa: N801 - reads as a statement
    """A file with these bytes; an AnnotationError that names it is as good as success."""

    def __init__(self, data: bytes):
        self.path = FUZZ_FOLDER / "file"
        self.path.write_bytes(data)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, kind, error, trace) -> bool:
        if isinstance(error, AnnotationError):
            assert "file" in str(error)
            return True
        return False


@pytest.fixture(autouse=True, scope="module")
def _fuzz_folder(tmp_path_factory):
    global FUZZ_FOLDER, MAT
    FUZZ_FOLDER = tmp_path_factory.mktemp("fuzz")
    path = FUZZ_FOLDER / "whole.mat"
    scipy.io.savemat(path, {"pos_img": np.ones((2, 15, 3)), "scale": np.ones(3)})
    MAT = path.read_bytes()
    yield
