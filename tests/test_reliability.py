"""Runs that are stopped, resumed, repeated and broken; on one process, in this one."""

import os
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import main
from data_pipelines.input_pipeline import TrainIterator, make_eval_iterator
from tdpose_jax import checkpoint, train
from tdpose_jax.checkpoint import CheckpointError, Checkpoints, load_state_tree
from tdpose_jax.preemption import Preempted
from tdpose_jax.run_folder import RunFolderError, read_metrics
from tests import stress, tiny_config
from tests.same_run import differences

ROOT = Path(__file__).resolve().parents[1]
NUM_STEPS = 8


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return stress.make_data(tmp_path_factory.mktemp("data"))


def make_config(data: Path, **train_fields):
    config = tiny_config.get_config().unlock()
    config.data.root = str(data)
    config.train.num_steps = NUM_STEPS
    config.train.save_every_steps = 3
    for name, value in train_fields.items():
        config.train[name] = value
    return config.lock()


class Hooked:
    """A training iterator that calls `before(step)` and may change the batch."""

    def __init__(self, iterator, before=lambda step: None, change=lambda step, b: b):
        self._iterator, self._before, self._change = iterator, before, change

    def __getattr__(self, name):
        return getattr(self._iterator, name)

    def __next__(self):
        self._before(self._iterator.step)
        step = self._iterator.step
        return self._change(step, next(self._iterator))


def run(config, workdir, **hooks):
    iterator = TrainIterator(config.data, config.seed, config.train.batch_size, 0, 1)
    evaluation = make_eval_iterator(config.data, "val", config.eval.batch_size, 0, 1)
    return train.run_training(config, workdir, Hooked(iterator, **hooks), evaluation)


@pytest.fixture(scope="module", autouse=True)
def compile_once(tmp_path_factory):
    """Every run of this module traces the same step; it is compiled once."""
    settings = {
        "jax_compilation_cache_dir": os.environ.get(
            "TDPOSE_TEST_CACHE", str(tmp_path_factory.mktemp("cache"))
        ),
        "jax_persistent_cache_min_compile_time_secs": 0.1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture
def without_evaluation(monkeypatch):
    """For tests that are about something else."""
    results = {"AP": {"total": 0.0}}
    monkeypatch.setattr(train, "evaluate_state", lambda *_: results)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory) -> Path:
    """An undisturbed run."""
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    run(make_config(data), workdir)
    return workdir


def test_same_config_and_seed_twice_give_the_same_bits(data, finished, tmp_path):
    """Also when a profile is taken and saves are more frequent."""
    config = make_config(data, profile_steps=1, save_every_steps=1)
    run(config, tmp_path)
    assert differences(finished, tmp_path) == []
    assert list((tmp_path / "tensorboard/plugins/profile").rglob("*.xplane.pb"))


def test_metrics_tell_where_the_time_goes(finished):
    lines = [m for m in read_metrics(finished) if "loss_model" in m]
    assert [m["step"] for m in lines] == list(range(1, NUM_STEPS + 1))
    for m in lines:
        parts = m["seconds_input"] + m["seconds_device"] + m["seconds_save"]
        assert 0 < m["seconds_device"] < parts <= m["seconds_per_step"]
        assert (m["seconds_save"] > 0) == (m["step"] in (3, 6, NUM_STEPS))
        assert m["gradient_norm"] > 0 and m["gradient_norm_auxiliary"] > 0
        assert m["clips_per_second_per_device"] * jax.device_count() == pytest.approx(
            m["clips_per_second"]
        )
        assert m["memory_host"] > 2**27
    assert list((finished / "tensorboard").glob("events.*"))


def test_another_seed_gives_other_bits(data, finished, without_evaluation, tmp_path):
    config = make_config(data, num_steps=1).unlock()
    config.seed = 1
    run(config, tmp_path / "other")
    first = [read_metrics(w)[0]["heatmap"] for w in (finished, tmp_path / "other")]
    assert first[0] != first[1]


def test_sigterm_saves_leaves_and_resumes_to_the_same_bits(data, finished, tmp_path):
    """Once between two steps, once more during the evaluation at the end."""

    def terminate_at(wanted):
        def before(step):
            if step == wanted:
                os.kill(os.getpid(), signal.SIGTERM)

        return before

    workdir = tmp_path / "run"
    config = make_config(data)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted, match="step 5 is saved in .*the same command cont"):
        run(config, workdir, before=terminate_at(4))
    assert signal.getsignal(signal.SIGTERM) is before
    assert Checkpoints(workdir).latest_step == 5

    collect = train.evaluate.PredictionCollector.add

    def collect_and_terminate(self, *args):
        os.kill(os.getpid(), signal.SIGTERM)
        return collect(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.evaluate.PredictionCollector, "add", collect_and_terminate)
        with pytest.raises(Preempted, match=f"step {NUM_STEPS} is saved"):
            run(config, workdir)
    assert not (workdir / "results.json").exists()
    run(config, workdir)
    assert differences(finished, workdir) == []


def test_complete_run_asked_for_again_stays_as_it_is(data, finished, tmp_path):
    """Also if it was killed when all was done but its process had not ended."""
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    run(make_config(data), workdir)
    assert differences(finished, workdir) == []


def test_non_finite_loss_stops_and_keeps_the_last_good_checkpoint(data, tmp_path):
    def poison(step, batch):
        return batch.replace(
            keypoint_weight=batch.keypoint_weight * (np.nan if step == 4 else 1)
        )

    config = make_config(data, log_every_steps=50, save_every_steps=1)
    with pytest.raises(train.NonFiniteLossError) as error:
        run(config, tmp_path, change=poison)
    message = str(error.value)
    assert "step 5: " in message and "heatmap" in message.split("not finite")[0]
    assert "The last good checkpoint is kept" in message
    dumped = np.load(tmp_path / "bad_batch_step5_process0.npz")
    assert np.isnan(dumped["keypoint_weight"]).any()
    assert dumped["frames"].shape == (8, 3, 64, 64, 3)
    assert Checkpoints(tmp_path).latest_step == 4
    tree = load_state_tree(tmp_path / "checkpoints" / "4")
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(tree))


def test_bad_batch_of_cached_features_or_on_a_full_disk_hides_nothing(tmp_path):
    features = tuple(np.ones((2, 3, 4, 4, c), np.float16) for c in (8, 16))
    batch = {"frames": np.zeros((2, 3)), "stage_features": features}
    metrics = {"heatmap": jnp.full(1, np.nan), "total": jnp.ones(1)}
    with pytest.raises(train.NonFiniteLossError, match="step 5: heatmap not finite"):
        train._finite_metrics(5, metrics, batch, tmp_path)
    dumped = np.load(tmp_path / "bad_batch_step5_process0.npz")
    assert dumped["stage1"].shape[-1] == 8 and dumped["stage2"].shape[-1] == 16
    (tmp_path / "bad_batch_step6_process0.npz").symlink_to("/dev/full")
    with pytest.raises(
        train.NonFiniteLossError,
        match="step 6: heatmap not .* could not be written to .*step6.*No space left",
    ):
        train._finite_metrics(6, metrics, batch, tmp_path)


def test_every_kind_of_state_is_saved(finished):
    tree = load_state_tree(finished / "checkpoints" / str(NUM_STEPS))
    assert tree["step"] == NUM_STEPS
    for name in ("params", "frozen_params", "batch_stats", "auxiliary_params"):
        assert jax.tree.leaves(tree[name]), name
    counts = [
        int(value)
        for path, value in jax.tree_util.tree_leaves_with_path(tree)
        if jax.tree_util.keystr(path).endswith("['count']")
    ]
    assert counts and set(counts) == {NUM_STEPS}


def test_partial_checkpoint_is_not_taken_for_a_whole_one(finished, tmp_path):
    """A save that was killed leaves a folder under another name, removed later."""
    workdir = shutil.copytree(finished, tmp_path / "run")
    folder = workdir / "checkpoints"
    partial = folder / "9.orbax-checkpoint-tmp"
    shutil.copytree(folder / str(NUM_STEPS), partial)
    (partial / "state" / "manifest.ocdbt").unlink()
    variables, step = checkpoint.load_variables(workdir, "latest")
    assert step == NUM_STEPS
    assert Checkpoints(workdir).latest_step == NUM_STEPS
    # Orbax removes it in a thread, for which its next save waits.
    limit = time.monotonic() + 30
    while partial.exists():
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_damaged_checkpoint_names_itself_and_the_remedy(data, finished, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "run")
    for path in (workdir / "checkpoints" / str(NUM_STEPS) / "state").rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(CheckpointError, match=r"checkpoints/8 is damaged \(.*Delete"):
        run(make_config(data), workdir)
    with pytest.raises(CheckpointError, match=r"checkpoints/8 is damaged \(.*Delete"):
        checkpoint.load_variables(workdir, "latest")
    shutil.rmtree(workdir / "checkpoints" / str(NUM_STEPS))
    assert Checkpoints(workdir).latest_step == 6
    run(make_config(data), workdir)
    assert differences(finished, workdir) == []


def test_another_config_lists_the_differences(data, finished):
    config = make_config(data).unlock()
    config.optim.learning_rate = 0.5
    config.loss.mi_weight = 0.25
    config.train.log_every_steps = 7  # may differ
    with pytest.raises(RunFolderError) as error:
        run(config, finished)
    message = str(error.value)
    assert "optim.learning_rate: 0.002 there, 0.5 here" in message
    assert "loss.mi_weight: 0.1 there, 0.25 here" in message
    assert "log_every" not in message and "use another --workdir" in message


def evaluate(config, workdir):
    iterator = make_eval_iterator(config.data, "val", config.eval.batch_size, 0, 1)
    return train.run_evaluation(config, workdir, iterator)


def test_an_evaluation_may_differ_and_leaves_the_run_as_it_was(
    data, finished, tmp_path
):
    workdir = shutil.copytree(finished, tmp_path / "run")
    (workdir / "environment.txt").write_text("commit of the training\n")
    before = (workdir / "config.json").read_text()
    config = make_config(data).unlock()
    changes = {"eval.metric": "posetrack21", "eval.checkpoint": "latest"}
    config.update_from_flattened_dict(changes)
    results = evaluate(config, workdir)
    assert results["step"] == NUM_STEPS
    assert results["metric"] == "posetrack21"
    assert results["evaluated_with"] == changes
    assert (workdir / "config.json").read_text() == before
    assert (workdir / "environment.txt").read_text() == "commit of the training\n"
    config.loss.mi_weight = 0.25
    with pytest.raises(RunFolderError, match="config; .*: loss.mi_weight: 0.1 there, "):
        evaluate(config, workdir)
    with pytest.raises(RunFolderError, match=": eval.checkpoint: best there, latest h"):
        run(config, workdir)


def test_evaluation_without_a_usable_checkpoint_is_an_error(
    data, finished, without_evaluation, tmp_path
):
    """Only a folder without any run is evaluated with initial weights."""
    config = make_config(data)
    assert evaluate(config, tmp_path / "fresh")
    workdir = tmp_path / "run"
    (workdir / "checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="no checkpoint in .*run: .*train first"):
        evaluate(config, workdir)
    (workdir / "checkpoints").rmdir()
    shutil.copytree(finished / "checkpoints", workdir / "checkpoints")
    (workdir / "config.json").unlink()
    config.unlock().model.aggregate_blocks = 2
    with pytest.raises(
        CheckpointError,
        match="checkpoints/8 does not fit this .*: tensor .* is missing",
    ):
        evaluate(config, workdir)
    shutil.rmtree(workdir / "checkpoints" / str(NUM_STEPS) / "state")
    with pytest.raises(CheckpointError, match="checkpoints/8 is damaged"):
        evaluate(config, workdir)


def test_a_run_that_went_on_for_longer_is_not_shortened(data, finished):
    before = (finished / "config.json").read_text()
    with pytest.raises(
        RunFolderError, match="is at step 8 already, .* asks for 5; ask for at least 8"
    ):
        run(make_config(data, num_steps=5), finished)
    assert (finished / "config.json").read_text() == before


def start_main(monkeypatch, config, workdir, mode):
    """main.run, in this process, as if its flags were these."""
    config.train.compilation_cache = False  # the module's is in use
    flags = types.SimpleNamespace(config=config, workdir=workdir, mode=mode)
    monkeypatch.setattr(main, "FLAGS", flags)
    main.run()


def test_the_training_batch_matters_to_training_alone(data, tmp_path, monkeypatch):
    config = make_config(data, batch_size=6)
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    evaluated = []
    monkeypatch.setattr(train, "run_evaluation", lambda *_: evaluated.append(True))
    start_main(monkeypatch, config, tmp_path, "eval")
    assert evaluated
    with pytest.raises(
        ValueError, match="train.batch_size=6 is not a multiple of the 4"
    ):
        start_main(monkeypatch, config, tmp_path, "train")


def test_a_feature_cache_is_written_by_one_process(data, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(
        ValueError, match="--mode=cache uses .* one process, not 2 proc"
    ):
        start_main(monkeypatch, make_config(data), tmp_path, "cache")


def test_unwritable_workdir(data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot write to the run folder .*file/r"):
        run(make_config(data), tmp_path / "file" / "run")


def test_corrupt_records_stop_the_run_or_are_counted(
    data, without_evaluation, tmp_path
):
    root, shard = stress.copy_with_damage(data, tmp_path / "data")
    config = make_config(root, num_steps=5)  # one epoch
    with pytest.raises(ValueError, match=f"{shard.name}: record 0: .*1 corrupt record"):
        run(config, tmp_path / "strict")
    config = config.copy_and_resolve_references().unlock()
    config.data.max_corrupt_records = 1
    run(config.lock(), tmp_path / "tolerant")
    assert Checkpoints(tmp_path / "tolerant").latest_step == 5


def test_missing_shard_ends_main_with_one_line(data, tmp_path):
    root = shutil.copytree(data, tmp_path / "data")
    shard = sorted(root.glob("*-train.tfrecord-*"))[1]
    shard.unlink()
    result = subprocess.run(
        [sys.executable, "main.py", *stress.arguments(root, tmp_path / "run")],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert f"error: {shard}: the shard is missing; copy it again" in result.stderr
    assert "Traceback" not in result.stderr


def test_killed_and_terminated_runs_end_like_the_undisturbed_one():
    """The short form of `python -m tests.stress`; processes are really killed."""
    result = subprocess.run(
        [sys.executable, "-m", "tests.stress", "--kills=2", "--terms=1"],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "'signals': 3" in result.stdout


@pytest.mark.parametrize("start", [3, 6, 7])
def test_batches_after_a_restart_are_the_same_pixels(data, start):
    """Also of people whose record was visited before, for the others in it."""
    config = make_config(data)

    def batches(start, stop):
        iterator = TrainIterator(config.data, 0, 8, 0, 1, start_step=start)
        return [next(iterator) for _ in range(start, stop)]

    for expected, got in zip(batches(0, 10)[start:], batches(start, 10), strict=True):
        for name, value in expected.items():
            assert np.array_equal(value, dict(got.items())[name]), name
