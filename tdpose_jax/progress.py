"""Where a step's time goes, speed, memory, time left; the profile on request."""

import contextlib
import resource
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import jax

# Steps that compile and fill caches are not what a profile is taken for.
PROFILE_AFTER_STEPS = 5


def format_seconds(seconds: float) -> str:
    """75 -> '1:15', 3675 -> '1:01:15'."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def memory_bytes() -> dict[str, float]:
    """Peak bytes of this process, and of its fullest device where devices count."""
    # Linux reports kilobytes.
    peaks = {"memory_host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0}
    stats = [device.memory_stats() for device in jax.local_devices()]
    on_device = [
        s["peak_bytes_in_use"] for s in stats if s and "peak_bytes_in_use" in s
    ]
    if on_device:
        peaks["memory_device"] = float(max(on_device))
    return peaks


class Progress:
    """Seconds of the host by kind, between one log line and the next.

    Kinds are "input" (waiting for a batch), "device" (handing over a step and waiting
    for an earlier one's metrics) and "save" (blocked by a checkpoint). A loop that
    keeps the device busy spends nearly all of its time in "device". Evaluation counts
    nowhere: it is neither in the times nor in the speed.
    """

    def __init__(self, batch_size: int, num_steps: int):
        self._batch_size, self._num_steps = batch_size, num_steps
        self._rate = 0.0
        self._start()

    def _start(self) -> None:
        self._steps, self._paused = 0, 0.0
        self._seconds: dict[str, float] = defaultdict(float)
        self._began = time.perf_counter()

    @contextlib.contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        """Adds what happens inside to "input", "device" or "save"."""
        began = time.perf_counter()
        yield
        self._seconds[kind] += time.perf_counter() - began

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves out what happens inside."""
        began = time.perf_counter()
        yield
        self._paused += time.perf_counter() - began

    def step_done(self) -> None:
        """Counts a step of training."""
        self._steps += 1

    def scalars(self) -> dict[str, float]:
        """Means over the steps since the last call; seconds are per step."""
        total = max(time.perf_counter() - self._began - self._paused, 1e-9)
        steps = max(self._steps, 1)
        self._rate = self._steps / total
        clips = self._rate * self._batch_size
        result = {
            "clips_per_second": clips,
            "clips_per_second_per_device": clips / jax.device_count(),
            "seconds_per_step": total / steps,
            **{
                f"seconds_{kind}": self._seconds[kind] / steps
                for kind in ("input", "device", "save")
            },
            "input_wait_share": self._seconds["input"] / total,
            **memory_bytes(),
        }
        self._start()
        return result

    def line(self, step: int, scalars: dict[str, float]) -> str:
        """One log line; call after `scalars`."""
        left = (self._num_steps - step) / max(self._rate, 1e-9)
        memory = scalars.get("memory_device", scalars["memory_host"])
        return (
            f"step {step}/{self._num_steps}  loss {scalars['loss_model']:.5f}  "
            f"pck {scalars['pck']:.3f}  {scalars['clips_per_second']:.1f} clips/s  "
            f"input wait {scalars['input_wait_share']:.0%}  "
            f"{memory / 2**30:.1f} GiB  {format_seconds(left)} left"
        )


class Profiler:
    """A TensorBoard profile of `num_steps` steps, once a run, from process 0.

    Call it before each step; the first steps are left out.
    """

    def __init__(self, folder: Path, num_steps: int):
        self._folder, self._left = folder, PROFILE_AFTER_STEPS + num_steps
        self._num_steps = num_steps if jax.process_index() == 0 else 0
        self._running = False

    def before_step(self) -> None:
        """Starts or ends the trace when it is time; call before every step."""
        if not self._num_steps or self._left < 0:
            return
        if self._left == self._num_steps:
            jax.profiler.start_trace(str(self._folder))
            self._running = True
        elif self._left == 0:
            self.close()
        self._left -= 1

    def close(self) -> None:
        """Writes what there is; a run may end inside its profile."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
