"""What turns evaluation input into joints, as the `eval` section of a config chooses.

By default the predict step mapped over JAX's devices; with `eval.backend` another runtime;
with `eval.share_tolerance` keyframe by keyframe, windows sharing crops.
"""

import collections
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

import jax
import ml_collections
import numpy as np

from tdpose_jax import parallel, steps
from tdpose_jax.backends import Backend, make_backend
from tdpose_jax.interop.tdmi_names import torch_fields
from tdpose_jax.models.tdmi import TDMI
from tdpose_jax.predictions import PredictionCollector
from tdpose_jax.shapes import SAMPLE_ID_BYTES, PoseBatch, encode_sample_ids
from tdpose_jax.shared_windows import WindowSharing, decode_shared, merge_flipped
from tdpose_jax.skeleton import Skeleton

locate_joints = jax.jit(steps.locate_joints, static_argnames="decoder")


def make_predictor(
    config: ml_collections.ConfigDict,
    model: TDMI,
    variables: Mapping[str, Any],
    skeleton: Skeleton,
) -> Callable[[PoseBatch], dict]:
    """Builds predict(host batch) -> what `steps.make_predict_step` returns.

    With `eval.backend="jax"` the values are arrays over the local devices, else numpy
    arrays, without the model's intermediates.

    Raises:
      BackendError: if the backend cannot run here.
    """
    flip = skeleton.flip_permutation if config.eval.flip_test else None
    if config.eval.backend == "jax":
        step = parallel.parallel_predict_step(
            steps.make_predict_step(model, config.eval.decoder, flip, True)
        )
        replicated = parallel.replicate(variables)
        return lambda batch: step(replicated, parallel.shard(batch))
    backend = configured_backend(config, model, variables)

    def predict(batch: PoseBatch) -> dict:
        frames = np.asarray(batch.frames)
        maps = backend(frames)["heatmaps"]
        if flip is not None:
            mirrored = backend(frames[..., ::-1, :])["heatmaps"]
            maps = merge_flipped(maps, mirrored, flip)
        joints = locate_joints(maps, batch.crop_to_image, decoder=config.eval.decoder)
        return jax.device_get(joints) | {"heatmaps": maps}

    return predict


def configured_backend(
    config: ml_collections.ConfigDict, model: TDMI, variables: Mapping[str, Any]
) -> Backend:
    """What `eval.backend` names, for a config's model.

    Raises:
      BackendError: if it cannot run here.
    """
    return make_backend(
        config.eval.backend,
        model,
        variables,
        torch_fields(config),
        tuple(config.data.crop_size_hw),
    )


def predict_keyframes(
    config: ml_collections.ConfigDict,
    backend: Backend,
    skeleton: Skeleton,
    keyframes: Any,
    progress: Callable[[int], None] = lambda done: None,
) -> PredictionCollector:
    """Runs the network over keyframes in order, windows sharing crops.

    Args:
      keyframes: `data_pipelines.keyframes.KeyframeIterator`.
      progress: called with the number of keyframes done.
    """
    flip = skeleton.flip_permutation if config.eval.flip_test else None
    size = config.eval.batch_size
    collector = PredictionCollector()
    queue: collections.deque = collections.deque()
    num_people = 0

    def run(sharing: WindowSharing) -> None:
        nonlocal num_people
        taken = [queue.popleft() for _ in range(min(size, len(queue)))]
        num_people += len(taken)
        sample_ids, box_score, windows = zip(*taken, strict=True)
        sharing.finish(windows)
        maps = decode_shared(backend, windows, size, flip)["heatmaps"]
        affines = np.stack([w.crop_to_image for w in windows]).astype(np.float32)
        joints = jax.device_get(
            locate_joints(maps, affines, decoder=config.eval.decoder)
        )
        collector.add_people(
            encode_sample_ids(sample_ids),
            np.array(box_score),
            joints["keypoints_xy_image"],
            joints["keypoint_score"],
            np.ones(len(taken), bool),
        )

    sequence, sharing = None, None
    for done, keyframe in enumerate(keyframes, start=1):
        if sharing is None or keyframe.sequence != sequence:
            while queue:
                run(sharing)
            sequence = keyframe.sequence
            sharing = WindowSharing(
                backend.encode_frames,
                tuple(config.data.crop_size_hw),
                config.data.box_enlarge,
                config.eval.share_tolerance,
                size,
                flip is not None,
            )
        windows = sharing.add(
            keyframe.frame_numbers, keyframe.images_rgb, keyframe.boxes_xywh
        )
        people = zip(keyframe.sample_ids, keyframe.box_score, windows, strict=True)
        queue.extend(people)
        while len(queue) >= size and all(
            window.is_encoded for _, _, window in islice(queue, size)
        ):
            run(sharing)
        progress(done)
    while queue:
        run(sharing)
    # All processes hand over as many rows.
    filling = keyframes.max_persons - num_people
    collector.add_people(
        np.zeros((filling, SAMPLE_ID_BYTES), np.uint8),
        np.zeros(filling),
        np.zeros((filling, skeleton.num_keypoints, 2)),
        np.zeros((filling, skeleton.num_keypoints)),
        np.zeros(filling, bool),
    )
    return collector
