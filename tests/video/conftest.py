"""One tiny random network and one short rendered clip for all video tests."""

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_pipelines.synthetic import render_sequence
from tdpose_jax.annotations import (
    FrameLabel,
    PersonLabel,
    SequenceLabel,
    save_posetrack18,
)
from tdpose_jax.checkpoint import Checkpoints
from tdpose_jax.models.factory import make_model
from tdpose_jax.run_folder import flatten_config
from tdpose_jax.train_state import TrainState
from tdpose_jax.video import predict
from tdpose_jax.video.estimator import PoseEstimator
from tests import tiny_config
from tests.models import tiny

NUM_FRAMES = 18
SIZE_HW = (120, 160)


@dataclasses.dataclass(frozen=True)
class Clip:
    """Attributes: frames (RGB), truth, png_folder, boxes (PoseTrack18 file)."""

    frames: list[np.ndarray]
    truth: SequenceLabel
    png_folder: Path
    boxes: Path


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory) -> Path:
    """A run of the tiny config: random weights, window of three frames."""
    folder = tmp_path_factory.mktemp("run")
    config = tiny_config.get_config()
    variables = tiny.init(make_model(config.model), num_frames=3)
    state = TrainState(
        step=np.int32(3),
        params=variables["params"],
        frozen_params={},
        batch_stats=variables["batch_stats"],
        auxiliary_params={},
        opt_state={},
        auxiliary_opt_state={},
    )
    checkpoints = Checkpoints(folder)
    checkpoints.save(state, {})
    checkpoints.close()
    (folder / "config.json").write_text(json.dumps(flatten_config(config)))
    return folder


@pytest.fixture(scope="session")
def estimator(run_folder) -> PoseEstimator:
    return PoseEstimator.load(run_folder, batch_size=4)


@pytest.fixture(scope="session")
def clip(tmp_path_factory) -> Clip:
    root = tmp_path_factory.mktemp("clip")
    folder = root / "clip"
    folder.mkdir()
    frames, labels = [], []
    for i, (image_bgr, persons) in enumerate(
        render_sequence(3, NUM_FRAMES, SIZE_HW, (2, 3))
    ):
        cv2.imwrite(str(folder / f"{i:06d}.png"), image_bgr)
        frames.append(np.ascontiguousarray(image_bgr[..., ::-1]))
        people = tuple(
            PersonLabel(
                keypoints_xyv=p.keypoints_xyv.astype(float),
                joint_scores=np.full(17, np.nan),
                head_box_xyxy=np.asarray(p.head_box_xyxy, float),
                person_box_xywh=np.asarray(p.person_box_xywh, float),
                track_id=int(p.track_id),
            )
            for p in persons
        )
        labels.append(FrameLabel(f"images/clip/{i:06d}.png", i + 1, True, people))
    truth = SequenceLabel("clip", "posetrack", tuple(labels))
    (root / "truth").mkdir()
    save_posetrack18(truth, root / "truth" / "clip.json")
    return Clip(frames, truth, folder, root / "truth" / "clip.json")


@pytest.fixture(scope="session")
def command(run_folder, clip):
    def run(output, *more, video=clip.png_folder, boxes=clip.boxes):
        return predict.main(
            [str(video), f"--checkpoint={run_folder}", f"--output={output}",
             f"--boxes={boxes}", "--batch_size=4", *more]
        )  # fmt: skip

    return run


@pytest.fixture(scope="session")
def whole(command, tmp_path_factory):
    """The output folder of an uninterrupted run."""
    output = tmp_path_factory.mktemp("whole")
    assert command(output, "--trails") == 0
    return output
