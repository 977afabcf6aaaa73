"""HRNet-W48 at 384x288 through onnxruntime and OpenVINO, as inference backends.

    python -m benchmarks.cpu_backends [--rounds=7]

Ours is `backends.make_backend(...)` from uint8 crops to heatmaps, normalisation included,
batch 1. The peers are the PyTorch module from normalised crops, eval, channels_last, two
threads, in float32 and under bfloat16 autocast. The target of the bfloat16 row is meant
for CPUs with AMX; `environment` says whether this one has it.

A random network's heatmaps have no joints. How far joints move in bfloat16 is measured
on the demo's trained network and its evaluation people where `make demo` has been run.
"""

from pathlib import Path

import numpy as np

from benchmarks import common, peers

DEMO = Path("runs/demo/tdmi")
MIN_SCORE = 0.2


def main() -> None:
    flags = common.parse_rounds(__doc__, 7)
    common.pin_cores()
    import torch

    from tdpose_jax.backends import BackendError, make_backend
    from tdpose_jax.steps import normalize_frames

    config = peers.w48_config(backbone_only=True)
    config.data.window_delta = 0
    pair = peers.make_pair(config, common.CORES)
    size = tuple(config.data.crop_size_hw)
    clips = np.random.default_rng(0).integers(0, 256, (1, 1, *size, 3), np.uint8)
    normalised = peers.to_channels_last(np.asarray(normalize_frames(clips)))

    def torch_f32():
        with torch.inference_mode():
            return pair.net(normalised)

    def torch_bf16():
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            return pair.net(normalised)

    expected = torch_f32().permute(0, 2, 3, 1).numpy()
    rows = []
    for name, peer, target in (
        ("onnxruntime", torch_f32, 1.2),
        ("openvino", torch_f32, 1.2),
        ("openvino_bf16", torch_bf16, 2.0),
    ):
        try:
            backend = make_backend(name, pair.model, pair.variables, pair.fields, size)
        except BackendError as error:
            common.skip(name, str(error))
            continue
        maps = backend(clips)["heatmaps"]
        details = {"input": list(clips.shape), "peer_is": f"PyTorch {peer.__name__}"}
        if name == "openvino_bf16":
            details["heatmap_difference"] = float(
                np.abs(maps - expected).max() / np.abs(expected).max()
            )
            details |= joint_distance(name)
        else:
            peers.check_equal(maps, expected, name)
        watch = common.alternate(
            {"ours": lambda backend=backend: backend(clips), "peer": peer}, flags.rounds
        )
        rows.append(common.row_of_times(f"serving_{name}", watch, target, **details))
    common.report("HRNet-W48 served on CPU, batch 1", rows)


def joint_distance(name: str) -> dict:
    """How far the demo's joints lie from those of the jax backend in float32."""
    if not DEMO.is_dir():
        return {"joints": f"{DEMO} is missing; make demo makes it"}
    from data_pipelines.input_pipeline import make_eval_iterator
    from tdpose_jax.interop.export_torch import read_config
    from tdpose_jax.video.estimator import PoseEstimator

    config = read_config(DEMO)
    batches = make_eval_iterator(config.data, config.data.eval_split, 8, 0, 1)
    both = [PoseEstimator.load(DEMO, 8, backend=b) for b in ("jax", name)]
    identity = np.tile(np.eye(2, 3), (8, 1, 1))
    distance = []
    for batch in batches:
        (xy, score, _), (other, _, _) = (
            estimator.run_crops(np.asarray(batch.frames), identity)
            for estimator in both
        )
        # Joints that the network has found, of people that are no padding.
        found = (score > MIN_SCORE) & np.asarray(batch.example_is_real)[:, None]
        distance.append(np.linalg.norm(xy - other, axis=-1)[found])
    distance = np.concatenate(distance)
    return {
        "demo_joints": len(distance),
        "demo_joint_px": {
            f"p{q}": float(np.percentile(distance, q)) for q in (50, 95, 99, 100)
        },
        "demo_joints_within_half_px": float((distance < 0.5).mean()),
    }


if __name__ == "__main__":
    main()
