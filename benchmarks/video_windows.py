"""Keyframes per second of video inference: shared windows against naive ones.

    python -m benchmarks.video_windows [--rounds=3]

One person standing in a 24-frame video, every frame a keyframe, T = 5: the naive window
runs the backbone five times per keyframe, ours once per frame. Both go through
`PoseEstimator.predict`, cropping and decoding of joints included, on the jax backend;
HRNet-W48 at 384x288, and the small network of configs/demo.py at 128x96. The boxes are
constant, so poses are equal; what moving boxes cost is in docs/speed.md.
"""

import dataclasses

import numpy as np

from benchmarks import common, peers

NUM_FRAMES = {"w48": 24, "small": 240}
TARGET = 4.0


def main() -> None:
    flags = common.parse_rounds(__doc__, 3)
    common.pin_cores()
    from configs import demo

    rows = []
    for name, config, batch_size in (
        ("w48", peers.w48_config(), 4),
        ("small", demo.get_config("tdmi"), 8),
    ):
        naive = make_estimator(config, batch_size)
        shared = dataclasses.replace(naive, share_tolerance=0.0)
        rng = np.random.default_rng(0)
        frames = list(rng.integers(0, 256, (NUM_FRAMES[name], 480, 640, 3), np.uint8))
        boxes = [np.array([[200.0, 60, 150, 360]])] * len(frames)
        expected = naive.predict(frames, boxes)
        found = shared.predict(frames, boxes)
        difference = max(
            np.abs(a.keypoint_score - b.keypoint_score).max()
            for a, b in zip(found, expected, strict=True)
        ) / max(np.abs(b.keypoint_score).max() for b in expected)
        assert difference < peers.MAX_DIFFERENCE, difference
        watch = common.alternate(
            {
                "ours": lambda e=shared, f=frames, b=boxes: e.predict(f, b),
                "peer": lambda e=naive, f=frames, b=boxes: e.predict(f, b),
            },
            flags.rounds,
            warmup=0,  # both have just run
        )
        rate = {key: len(frames) / watch.median(key) for key in ("ours", "peer")}
        rows.append(
            common.Row(
                name=f"video_windows_{name}",
                ratio=rate["ours"] / rate["peer"],
                target=TARGET,
                **rate,
                unit="keyframes/s",
                environment=common.environment(
                    peer_is="the naive window, ours",
                    rounds=flags.rounds,
                    frames=len(frames),
                    batch_size=batch_size,
                    neighbours_cores=round(watch.neighbours, 2),
                    score_difference=float(difference),
                ),
            )
        )
    common.report("Video inference, one person, T = 5", rows)


def make_estimator(config, batch_size: int):
    """A `PoseEstimator` with random weights."""
    from tdpose_jax.backends import JaxBackend
    from tdpose_jax.interop.tdmi_names import flax_model, torch_fields
    from tdpose_jax.skeleton import get_skeleton
    from tdpose_jax.video.estimator import PoseEstimator
    from tdpose_jax.video.loaded_model import LoadedModel

    fields = torch_fields(config)
    model = flax_model(fields)
    variables = peers.random_variables(model, 2 * config.data.window_delta + 1)
    loaded = LoadedModel(
        model=model,
        variables=variables,
        fields=fields,
        skeleton=get_skeleton(config.data.skeleton),
        crop_size_hw=tuple(config.data.crop_size_hw),
        window_delta=config.data.window_delta,
        box_enlarge=config.data.box_enlarge,
        decoder=config.eval.decoder,
        flip_test=False,
        description="random weights",
    )
    return PoseEstimator(loaded, JaxBackend(model, variables), batch_size)


if __name__ == "__main__":
    main()
