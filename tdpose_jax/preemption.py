"""SIGTERM: save at the same step on all processes, and exit.

With several processes jax's preemption service watches for SIGTERM and makes them agree
on a step; alone, a handler of our own sets a flag. The signal arrives where schedulers
give notice: SLURM (`--signal`), Kubernetes, preemptible TPU and GPU machines.
"""

import logging
import signal
import threading
from pathlib import Path

import jax
from jax.experimental import multihost_utils

log = logging.getLogger(__name__)

# EX_TEMPFAIL of sysexits.h, "try again later": saved and not finished.
EXIT_CODE = 75


def end_on_sigterm() -> None:
    """SIGTERM ends this process, where there is nothing to save and nobody polls.

    With several processes jax's preemption service has taken the signal: it would only
    be noted, and the process live on until SIGKILL.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class Preempted(Exception):
    """Everything is saved; the same command continues. `EXIT_CODE` is for it."""

    def __init__(self, step: int, where: str | Path):
        super().__init__(
            f"preempted: step {step} is saved in {where}; the same command continues"
        )


class PreemptionNotice:
    """Whether to stop. A context manager, since it holds the signal's handler."""

    def __init__(self):
        self._received = threading.Event()
        self._previous = None

    def __enter__(self) -> "PreemptionNotice":
        alone = jax.process_count() == 1
        # Elsewhere than in the main thread (a notebook's, a test's) Python refuses.
        if alone and threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._receive)
        return self

    def __exit__(self, *_):
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def _receive(self, *_):
        self._received.set()

    def reached(self, step: int) -> bool:
        """True at the step to stop at, the same on every process; call at each step."""
        if jax.process_count() == 1:
            return self._received.is_set()
        return multihost_utils.reached_preemption_sync_point(step)

    @property
    def received(self) -> bool:
        """True as soon as this process, being the only one, should stop.

        Between steps processes cannot agree; several go on to the next step.
        """
        return self._received.is_set()
