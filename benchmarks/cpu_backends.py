"""HRNet-W48 at 384x288 through onnxruntime and OpenVINO, as inference backends.

    python -m benchmarks.cpu_backends [--rounds=7]

Ours is `backends.make_backend(...)` from uint8 crops to heatmaps, normalisation included,
batch 1. The peers are the PyTorch module from normalised crops, eval, channels_last, two
threads, in float32 and under bfloat16 autocast. Joints of OpenVINO in bfloat16 must lie
within half a crop pixel of the Flax model's in float32, where the peak of a random
network is distinct enough to say where a joint is. On a CPU without AMX the bfloat16 row
is measured but has no target: OpenVINO's kernels need it to be fast.
"""

import numpy as np

from benchmarks import common, peers

MAX_JOINT_PX = 0.5
# Weights are random: only peaks that stand out by this share of their height are joints.
DISTINCT = 0.02


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
        ("openvino_bf16", torch_bf16, 2.0 if common.has_amx() else None),
    ):
        try:
            backend = make_backend(name, pair.model, pair.variables, pair.fields, size)
        except BackendError as error:
            common.skip(name, str(error))
            continue
        maps = backend(clips)["heatmaps"]
        details = {"input": list(clips.shape), "peer_is": f"PyTorch {peer.__name__}"}
        if name == "openvino_bf16":
            details |= joint_distance(maps, expected)
        else:
            peers.check_equal(maps, expected, name)
        watch = common.alternate(
            {"ours": lambda backend=backend: backend(clips), "peer": peer}, flags.rounds
        )
        rows.append(common.row_of_times(f"serving_{name}", watch, target, **details))
    common.report("HRNet-W48 served on CPU, batch 1", rows)


def joint_distance(maps: np.ndarray, expected: np.ndarray) -> dict:
    """How far distinct joints move.

    Raises:
      AssertionError: further than `MAX_JOINT_PX`.
    """
    from tdpose_jax.heatmaps import decode_heatmaps, heatmap_to_crop

    ours, theirs = (
        np.asarray(heatmap_to_crop(decode_heatmaps(m, "subpixel")[0]))
        for m in (maps, expected)
    )
    flat = np.sort(expected.reshape(-1, expected.shape[-1]), axis=0)
    distinct = (flat[-1] - flat[-2]) > DISTINCT * flat[-1]
    distance = np.linalg.norm(ours - theirs, axis=-1)[0][distinct]
    worst = float(np.max(distance, initial=0.0))
    assert worst < MAX_JOINT_PX, f"a joint moves by {worst:.2f} px in bfloat16"
    return {"joints_compared": int(distinct.sum()), "largest_joint_px": worst}


if __name__ == "__main__":
    main()
