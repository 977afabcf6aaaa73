"""Kills training runs at random moments, resumes them, and compares the ends.

    python -m tests.stress --kills=30 --terms=10

A tiny run (`tests/tiny_config.py`: every kind of state) is made undisturbed. Then the
same run is started again and again and ended by SIGKILL or SIGTERM: a quarter of the
times while it starts, else while it trains, saves or evaluates. Whenever a disturbed
run reaches its end, all of its state, metrics and results must equal the undisturbed
run's, bit for bit; then another one is begun, until all signals have been sent.
"""

import argparse
import atexit
import os
import random
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NUM_STEPS, SAVE_EVERY, EVAL_EVERY = 30, 3, 12
PREEMPTED = 75


def make_data(folder: Path) -> Path:
    """A built data set of 40 training and 40 evaluation people."""
    from data_pipelines.build import build
    from tests.data_pipelines import small_sets

    source = folder / "source"
    sequences = {"train": ("a", "b"), "val": ("c", "d")}
    small_sets.make_posetrack18(source, sequences, num_frames=12)
    build(small_sets.pose_options(source, folder / "data", boxes=None))
    return folder / "data"


def copy_with_damage(data: Path, target: Path) -> tuple[Path, Path]:
    """(copy of the data set, its shard with one byte of the first record flipped)."""
    shutil.copytree(data, target)
    shard = sorted(target.glob("*-train.tfrecord-*"))[0]
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    return target, shard


def arguments(data: Path, workdir: Path) -> list[str]:
    return [
        "--config=" + str(ROOT / "tests" / "tiny_config.py"),
        f"--config.data.root={data}",
        f"--config.train.num_steps={NUM_STEPS}",
        f"--config.train.save_every_steps={SAVE_EVERY}",
        f"--config.train.eval_every_steps={EVAL_EVERY}",
        f"--workdir={workdir}",
    ]


class Run:
    """main.py in a process forked from this one, which has imported the libraries.

    Forking halves the time of a start; this process itself never uses a device.
    """

    def __init__(self, args: list[str]):
        read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(read)
            _run_main(args, write)
        os.close(write)
        self.lines: list[str] = []
        self._trains = threading.Event()
        self._reader = threading.Thread(target=self._read, args=(read,), daemon=True)
        self._reader.start()

    def _read(self, pipe: int) -> None:
        with open(pipe, errors="replace") as stream:
            for line in stream:
                self.lines.append(line.rstrip())
                if line.startswith(("step ", "evaluated ")):
                    self._trains.set()
        self._trains.set()

    def wait_until_it_trains(self) -> None:
        self._trains.wait()

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        """The exit code, or minus the signal."""
        _, status = os.waitpid(self.pid, 0)
        self._reader.join()
        return os.waitstatus_to_exitcode(status)

    def numbers(self, pattern: str) -> list[int]:
        found = (re.match(pattern, line) for line in self.lines)
        return [int(match[1]) for match in found if match]


def _run_main(args: list[str], output: int) -> None:
    """The child's whole life."""
    code = 1
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = os.fdopen(1, "w", buffering=1)
        sys.stderr = os.fdopen(2, "w", buffering=1)
        sys.argv = [str(ROOT / "main.py"), *args]
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as error:
        code = error.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(code if isinstance(code, int) else 1)


def compare(workdir: Path, other: Path) -> str:
    """What differs between two finished runs, from `tests.same_run`.

    In a new process: reading checkpoints starts JAX's threads, and a process that has
    them cannot be forked; the child would wait for a lock that nobody holds.
    """
    command = [sys.executable, "-m", "tests.same_run", str(workdir), str(other)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert done.returncode in (0, 1), f"exit {done.returncode}: {command}"
    return done.stdout


def stress(kills: int, terms: int, folder: Path, seed: int) -> dict:
    """Runs all of it.

    Returns:
      Counts: runs completed, exit codes, most steps lost to a SIGKILL, seconds.

    Raises:
      AssertionError: naming what was lost.
    """
    began = time.time()
    rng = random.Random(seed)
    data = make_data(folder)
    undisturbed = folder / "undisturbed"
    run = Run(arguments(data, undisturbed))
    assert run.wait() == 0, "\n".join(run.lines)
    print(f"undisturbed run: {time.time() - began:.0f} s", flush=True)

    signals = [signal.SIGKILL] * kills + [signal.SIGTERM] * terms
    rng.shuffle(signals)
    codes, completed, most_lost, sent = Counter(), 0, 0, 0
    workdir = folder / "disturbed"
    last_step, exact = None, False  # where the run should go on
    while signals or workdir.exists():
        run = Run(arguments(data, workdir))
        number = None
        if signals:
            if rng.random() < 0.75:
                run.wait_until_it_trains()
                time.sleep(rng.uniform(0, 4))
            else:
                time.sleep(rng.uniform(0, 8))
            number = signals[-1]
            try:
                run.signal(number)
            except ProcessLookupError:
                number = None
        code = run.wait()
        text = "\n".join(run.lines)
        resumed = run.numbers(r"resumed at step (\d+)")
        if last_step is not None and resumed:
            lost = last_step - resumed[0]
            most_lost = max(most_lost, lost)
            # A save goes on while training does: the one before it is what counts.
            assert lost <= (0 if exact else 2 * SAVE_EVERY), (
                f"lost {lost} steps\n{text}"
            )
        steps = run.numbers(r"step (\d+)/")
        if steps or resumed:
            last_step = (steps or resumed)[-1]
        if code == 0:
            found = compare(undisturbed, workdir)
            assert not found, f"after {sent} signals: {found}"
            completed += 1
            shutil.rmtree(workdir)
            last_step, exact = None, False
            continue
        allowed = {
            signal.SIGKILL: {-signal.SIGKILL},
            # Before training begins the signal ends the process as usual.
            signal.SIGTERM: {PREEMPTED, -signal.SIGTERM},
        }
        assert number is not None and code in allowed[number], f"exit {code}\n{text}"
        signals.pop()
        sent += 1
        exact = code == PREEMPTED
        codes[{PREEMPTED: "saved and left", -9: "SIGKILL", -15: "SIGTERM"}[code]] += 1
        print(
            f"{sent}: {number.name} at {last_step or 'the start'}, exit {code}, "
            f"{time.time() - began:.0f} s",
            flush=True,
        )
    return {
        "signals": sent,
        "exits": dict(codes),
        "completed_runs_equal": completed,
        "most_steps_lost": most_lost,
        "seconds": round(time.time() - began),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--terms", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    # Not a TemporaryDirectory: a forked child that ends would remove it.
    folder = tempfile.mkdtemp(prefix="tdpose_stress")
    os.environ.setdefault("XDG_CACHE_HOME", folder)
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    import clu.metric_writers  # noqa: F401
    import orbax.checkpoint  # noqa: F401
    import tensorflow  # noqa: F401

    import data_pipelines.input_pipeline  # noqa: F401
    import tdpose_jax.train  # noqa: F401

    try:
        print(stress(options.kills, options.terms, Path(folder), options.seed))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
