"""What a run folder and its checkpoints promise, without a run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tdpose_jax import checkpoint, run_folder
from tdpose_jax.checkpoint import CheckpointError, Checkpoints
from tdpose_jax.run_folder import MetricLog, RunFolderError
from tdpose_jax.train_state import TrainState
from tests import tiny_config

ROOT = Path(__file__).resolve().parents[1]


def small_state(step: int, size: int = 3) -> TrainState:
    empty = dict.fromkeys(("frozen_params", "batch_stats", "auxiliary_params"), {})
    return TrainState(
        step=np.int32(step),
        params={"w": np.random.default_rng(step).random(size, np.float32)},
        opt_state=(),
        auxiliary_opt_state=(),
        **empty,
    )


def test_the_best_stays_whatever_comes_later(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step, score, is_best in (
        (1, float("nan"), True),
        (2, 40.0, True),
        (3, 30.0, False),
        (4, 40.0, False),
        (5, 41.0, True),
    ):
        checkpoints.save(small_state(step), {"step": step})
        assert checkpoints.save_if_best(small_state(step), {}, score) is is_best
    checkpoints.close()
    assert checkpoint.load_variables(tmp_path, "best")[1] == 5
    kept = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert kept == [4, 5]
    assert not Checkpoints(tmp_path).save_if_best(small_state(6), {}, 40.5)


@pytest.mark.parametrize(
    "params,message",
    [
        ({"w": np.zeros(4, np.float32)}, r"tensor w has shape \(3,\).*needs \(4,\)"),
        ({"w": np.zeros(3), "v": np.zeros(1)}, "tensor v is missing"),
        ({"v": np.zeros(3)}, "tensor v is missing"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(params, message, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(small_state(7), {})
    checkpoints.wait()
    with pytest.raises(
        CheckpointError, match=f"checkpoints/7 does not fit this config's.*{message}"
    ) as error:
        checkpoints.restore(small_state(7).replace(params=params))
    assert "Use another --workdir, or the config that made it" in str(error.value)
    checkpoints.close()


FULL_DISK = """
import sys
from tdpose_jax.checkpoint import CheckpointError, Checkpoints
from tests.test_run_folder import small_state
checkpoints = Checkpoints(sys.argv[1])
checkpoints.save(small_state(1), {})
checkpoints.wait()
try:
    checkpoints.save(small_state(2, 10**6), {})
    checkpoints.wait()
except CheckpointError as error:
    print("told:", error)
print("kept:", Checkpoints(sys.argv[1]).latest_step)
"""


def test_full_disk_names_it_and_what_is_left(tmp_path):
    """A disk of 1 MB, made in a mount namespace of its own."""
    mount = f"mount -t tmpfs -o size=1m tmpfs {tmp_path}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount]).returncode:
        pytest.skip("may not mount a small disk here")
    command = f'{mount} && exec {sys.executable} -c "$SCRIPT" {tmp_path}/run'
    output = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command],
        env=os.environ | {"SCRIPT": FULL_DISK, "JAX_PLATFORMS": "cpu"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert "told: cannot write a checkpoint into" in output.stdout, output.stderr
    assert "No space left on device. Whole checkpoints there: steps [1]" in (
        output.stdout
    )
    assert "Make room, then run the same command again" in output.stdout
    assert "kept: 1" in output.stdout


def test_metric_log_on_a_full_disk(tmp_path):
    """/dev/full refuses every byte, as a full disk does."""
    log = MetricLog(tmp_path, True, 0)
    log._file = open("/dev/full", "a")
    with pytest.raises(RunFolderError, match=r"metrics.jsonl: No space left on dev"):
        log.write(1, {"loss": 1.0})


def test_metric_log_forgets_steps_that_were_lost(tmp_path):
    log = MetricLog(tmp_path, True, 0)
    for step in (1, 2, 3):
        log.write(step, {"loss": float(step)})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # cut by a kill
    log = MetricLog(tmp_path, True, 2)
    log.write(3, {"loss": 9.0})
    log.close()
    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").open()]
    assert [(m["step"], m["loss"]) for m in lines] == [(1, 1.0), (2, 2.0), (3, 9.0)]


def test_processes_with_different_configs(tmp_path, monkeypatch):
    """As if three processes had been started, the last with another config."""

    def gather(digest):
        return np.stack([digest, digest, digest + 1])

    monkeypatch.setattr(run_folder.multihost_utils, "process_allgather", gather)
    with pytest.raises(RunFolderError, match="process 2 was started with another conf"):
        run_folder.open_run_folder(tmp_path, tiny_config.get_config())


@pytest.mark.parametrize("schedule,warns", [("cosine", True), ("step", False)])
def test_another_length_is_told_where_the_schedule_minds(
    schedule, warns, tmp_path, caplog
):
    config = tiny_config.get_config()
    config.optim.schedule = schedule
    run_folder.open_run_folder(tmp_path, config, 20)
    config.train.num_steps = 30
    for reached in (None, 10):  # nothing was trained yet; then ten steps
        assert not caplog.messages
        run_folder.open_run_folder(tmp_path, config, 30, reached)
        config.train.num_steps = 40
    told = [
        "trained to step 10 as a run of 30 steps, now it is one of 40 steps: with "
        "optim.schedule='cosine' the learning rate jumps there"
    ]
    assert [t in m for m, t in zip(caplog.messages, told * warns, strict=True)] == [
        True
    ] * warns


def test_folder_that_is_not_shared(tmp_path, monkeypatch):
    monkeypatch.setattr(
        run_folder.multihost_utils, "process_allgather", lambda x: np.stack([x, 0 * x])
    )
    with pytest.raises(RunFolderError, match=r"steps \[7, 0\]: .* on a shared disk"):
        run_folder.check_shared(tmp_path, 7)
