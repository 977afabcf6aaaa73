"""One device and eight give the same step."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

SCRIPT = """
import json, sys
import jax, numpy as np, optax
from tdpose_jax import losses, parallel, steps
from tdpose_jax.shapes import PoseBatch, encode_sample_ids
from tdpose_jax.train_state import init_state
from tests.models.tiny import tiny_tdmi
from configs import default

config = default.get_config()
config.loss.mi_weight = 1.0
size, t = 8, 3
rng = np.random.default_rng(0)
batch = PoseBatch(
    frames=rng.integers(0, 256, (size, t, 64, 64, 3), np.uint8),
    keypoints_xy_crop=rng.uniform(0, 64, (size, 17, 2)).astype(np.float32),
    keypoint_weight=rng.integers(0, 2, (size, 17)).astype(np.float32),
    crop_to_image=np.tile(np.eye(2, 3, dtype=np.float32), (size, 1, 1)),
    frame_is_real=np.ones((size, t), bool),
    box_score=np.ones(size, np.float32),
    example_is_real=np.ones(size, bool),
    sample_id=encode_sample_ids([str(i) for i in range(size)]),
)
model = tiny_tdmi(axis_name=parallel.AXIS, difference_stages=(3, 4))
auxiliary = losses.AuxiliaryNets(num_keypoints=17, channels=8, mi_hidden=8)
# Plain gradient steps: Adam would turn rounding of tiny gradients into whole steps.
sgd = optax.sgd(1e-2)
state = init_state(model, auxiliary, sgd, sgd, num_frames=t, seed=0)
step = parallel.parallel_train_step(
    steps.make_train_step(model, auxiliary, sgd, sgd, config.loss, parallel.AXIS)
)
state, metrics = step(parallel.replicate(state), parallel.shard(batch))
names = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(state)]
values = jax.tree.leaves(parallel.unreplicate(state))
np.savez(sys.argv[1], *values)
json.dump(
    {"devices": jax.device_count(), "names": names,
     "metrics": {k: float(v) for k, v in parallel.unreplicate(metrics).items()}},
    open(sys.argv[2], "w"),
)
"""


def run(devices, folder):
    import json

    folder = Path(folder)
    arrays, info = folder / f"{devices}.npz", folder / f"{devices}.json"
    subprocess.run(
        [sys.executable, "-c", SCRIPT, str(arrays), str(info)],
        check=True,
        cwd=Path(__file__).parents[1],
        env=os.environ
        | {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "JAX_PLATFORMS": "cpu",
        },
    )
    loaded = json.loads(info.read_text())
    assert loaded["devices"] == devices
    with np.load(arrays) as values:
        state = dict(
            zip(loaded["names"], [values[k] for k in values.files], strict=True)
        )
    return loaded["metrics"], state


def test_one_and_eight_devices_give_the_same_step(tmp_path):
    """Losses, BatchNorm statistics, MI negatives and gradients are those of all."""
    metrics_1, state_1 = run(1, tmp_path)
    metrics_8, state_8 = run(8, tmp_path)
    assert metrics_1.keys() == metrics_8.keys()
    for name, value in metrics_1.items():
        np.testing.assert_allclose(metrics_8[name], value, rtol=2e-3, err_msg=name)
    for name, value in state_1.items():
        scale = np.abs(value).max() + 1e-6
        np.testing.assert_allclose(
            state_8[name], value, atol=2e-4 * scale, err_msg=name
        )
