"""One small data set and its build, shared by the tests of the build."""

import json
from pathlib import Path

import pytest

from data_pipelines.build import build
from tests.data_pipelines import small_sets


@pytest.fixture(scope="session")
def pose_source(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("posetrack18")
    small_sets.make_posetrack18(
        root, {"train": ("a", "b"), "val": ("c", "d")}, num_frames=12
    )
    boxes = small_sets.detection_list("val", "c", range(3, 6))
    (root / "boxes.json").write_text(json.dumps(boxes))
    return root


@pytest.fixture(scope="session")
def pose_built(pose_source, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("built")
    build(small_sets.pose_options(pose_source, output))
    return output
