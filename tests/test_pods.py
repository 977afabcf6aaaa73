"""Several real processes on CPU: the same results, the same end."""

import json
import os
import re
import signal
import threading
import time
from pathlib import Path

import pytest

from tdpose_jax import distributed, pod_sim
from tdpose_jax.run_folder import read_metrics
from tests import stress
from tests.same_run import MEASURED

ROOT = Path(__file__).resolve().parents[1]
SGD_MAIN = ROOT / "tests" / "sgd_main.py"
NUM_STEPS = 20
slow = pytest.mark.slow
# float32 sums in another order, through BatchNorm and twenty steps of descent. Seen: 2e-6
# for the heatmap loss; 1.3e-4 for gradient norms, the MI estimate, which is a small
# difference of large terms, and the losses that contain it. A mean over the wrong examples
# shows as 1e-2 at once.
# Log probabilities of these maps are near 10 nats: what is below this is their float32
# rounding. The KL terms start there, because the auxiliary heads start at zero.
ROUNDING = 1e-6
TOLERANCE = {"heatmap": 2e-5, "other": 5e-4}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return stress.make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Compiled steps are shared by the module's processes."""
    with pytest.MonkeyPatch.context() as patch:
        if "TDPOSE_TEST_CACHE" in os.environ:
            patch.setenv("XDG_CACHE_HOME", os.environ["TDPOSE_TEST_CACHE"])
        else:
            patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def arguments(data: Path, workdir: Path, **train) -> list[str]:
    fields = {"num_steps": NUM_STEPS, "save_every_steps": 100} | train
    return [
        f"--config={ROOT / 'tests' / 'tiny_config.py'}",
        f"--config.data.root={data}",
        f"--workdir={workdir}",
        *(f"--config.train.{name}={value}" for name, value in fields.items()),
    ]


@pytest.fixture(scope="module")
def layout(data, tmp_path_factory):
    """(processes, devices of each) -> run folder, made once."""
    made = {}

    def make(processes: int, devices: int) -> Path:
        key = processes, devices
        if key not in made:
            workdir = tmp_path_factory.mktemp("layout") / f"{processes}x{devices}"
            lines = []
            code = pod_sim.supervise(
                pod_sim.start_processes(
                    arguments(data, workdir), processes, devices, SGD_MAIN
                ),
                30,
                lines.append,
            )
            assert code == 0, "\n".join(lines)
            made[key] = workdir
        return made[key]

    return make


@pytest.mark.parametrize(
    "processes, devices",
    [(2, 1), pytest.param(1, 2, marks=slow), pytest.param(4, 1, marks=slow)],
)
def test_layouts_give_the_same_losses_and_scores(layout, processes, devices):
    expected, got = layout(1, 1), layout(processes, devices)
    lines = read_metrics(expected), read_metrics(got)
    assert len(lines[0]) == len(lines[1]) == NUM_STEPS + 1
    for a, b in zip(*lines, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            if not MEASURED.search(name):
                kind = "heatmap" if name == "heatmap" else "other"
                assert a[name] == pytest.approx(
                    b[name], rel=TOLERANCE[kind], abs=ROUNDING
                ), f"{name} at step {a['step']}"
    results = [json.loads((w / "results.json").read_text()) for w in (expected, got)]
    assert results[0] == results[1]
    assert results[0]["num_persons"] == 40


class Pod:
    """A simulated pod whose lines can be waited for."""

    def __init__(self, args, heartbeat_seconds=60, grace_seconds=60.0):
        self.lines = []
        self.processes = pod_sim.start_processes(
            args, 2, heartbeat_seconds=heartbeat_seconds
        )
        self._line = threading.Condition()
        self._code = None
        self._thread = threading.Thread(target=self._supervise, args=(grace_seconds,))
        self._thread.start()

    def _supervise(self, grace_seconds):
        self._code = pod_sim.supervise(self.processes, grace_seconds, self._say)
        with self._line:
            self._line.notify_all()

    def _say(self, line):
        with self._line:
            self.lines.append(line)
            self._line.notify_all()

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, pattern: str) -> None:
        with self._line:
            self._line.wait_for(
                lambda: re.search(pattern, self.text) or self._code is not None
            )
        assert re.search(pattern, self.text), self.text

    def wait(self) -> int:
        self._thread.join()
        return self._code


@slow
def test_sigterm_to_one_process_saves_on_all_at_one_step(data, tmp_path):
    """And then the run goes on with another number of processes."""
    args = arguments(data, tmp_path, num_steps=2000, save_every_steps=2000)
    pod = Pod(args)
    pod.wait_for(r"\[1\] step 3/")
    pod.processes[1].send_signal(signal.SIGTERM)
    assert pod.wait() == 75, pod.text
    assert [p.returncode for p in pod.processes] == [75, 75]
    saved = re.findall(r"\[(\d)\] preempted: step (\d+) is saved", pod.text)
    assert sorted(process for process, _ in saved) == ["0", "1"]
    assert len({step for _, step in saved}) == 1
    step = int(saved[0][1])
    lines = []
    alone = pod_sim.start_processes(
        arguments(data, tmp_path, num_steps=step + 1, save_every_steps=2000), 1
    )
    assert pod_sim.supervise(alone, 30, lines.append) == 0, "\n".join(lines)
    assert f"[0] resumed at step {step}" in lines
    steps = [m["step"] for m in read_metrics(tmp_path) if "loss_model" in m]
    assert steps == list(range(1, step + 2))


WITHOUT_STATE = """
import sys, time
from tdpose_jax import distributed, preemption
address, count, index, _ = (a.split("=")[1] for a in sys.argv[1:])
distributed.initialize("on", address, int(count), int(index), 60)
preemption.end_on_sigterm()
print("ready", flush=True)
time.sleep(100)
"""


@slow
def test_sigterm_ends_processes_that_have_nothing_to_save(tmp_path, monkeypatch):
    """As in --mode=eval, where nobody asks jax's preemption service."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    program = tmp_path / "program.py"
    program.write_text(WITHOUT_STATE)
    processes = pod_sim.start_processes([], 2, program=program)
    try:
        for process in processes:
            assert any(line == "ready\n" for line in process.stdout)
        for process in processes:
            process.terminate()
        codes = [process.wait(timeout=10) for process in processes]
        assert codes == [-signal.SIGTERM] * 2
    finally:
        for process in processes:
            process.kill()


@pytest.mark.parametrize("victim", [pytest.param(0, marks=slow), 1])
def test_a_killed_process_ends_the_others_in_time(data, tmp_path, victim):
    heartbeat = 10
    args = arguments(data, tmp_path, num_steps=2000)
    pod = Pod(args, heartbeat_seconds=heartbeat, grace_seconds=100)
    pod.wait_for(r"\[0\] step 2/")
    pod.processes[victim].kill()
    began = time.monotonic()
    pod.wait()
    assert time.monotonic() - began < 3 * heartbeat, pod.text
    assert f"pod: process {victim} was ended by SIGKILL" in pod.text
    assert pod.processes[1 - victim].returncode not in (0, -signal.SIGKILL)
    if victim == 1:
        assert "unhealthy (stopped sending heartbeats):\n[0] 1\n" in pod.text
    else:  # the service lived in it; jax calls it the leader
        assert "the leader task was preempted/died" in pod.text


@slow
def test_an_error_in_one_process_ends_the_other_with_its_words(data, tmp_path):
    """A shard that one process reads is damaged."""
    root, shard = stress.copy_with_damage(data, tmp_path / "data")
    pod = Pod(arguments(root, tmp_path / "run", num_steps=2000))
    assert pod.wait() == 1, pod.text
    assert [p.returncode for p in pod.processes] == [1, 1]
    found = re.search(
        rf"process (\d) ends because process (\d) failed: ValueError: .*{shard.name}: "
        "record 0",
        pod.text,
    )
    assert found and found[1] != found[2], pod.text


def test_half_of_the_flags_is_an_error():
    with pytest.raises(ValueError, match="--process_id belong together: give all"):
        distributed.initialize("auto", "localhost:1", None, None, 60)


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({}, False),
        ({"SLURM_STEP_NUM_TASKS": "2"}, True),
        ({"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
    ],
)
def test_launchers_are_recognised(environment, expected):
    assert distributed.is_expected(environment) is expected


def test_supervisor_names_and_kills(monkeypatch, tmp_path):
    """One ends with an error, the other ignores it."""
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, time\n"
        "if '--process_id=1' in sys.argv: time.sleep(1); sys.exit(3)\n"
        "print('hello', flush=True); time.sleep(100)\n"
    )
    lines = []
    processes = pod_sim.start_processes([], 2, program=program)
    assert pod_sim.supervise(processes, 0.5, lines.append) == 3
    assert "[0] hello" in lines
    assert "pod: process 1 ended with exit code 3; the others have 0 s to end" in lines
    assert "pod: killing process 0" in lines
