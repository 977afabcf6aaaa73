"""Joins the processes of a run, and ends all of them when one fails.

jax's coordination service (in process 0) does the joining and the heartbeats. On top of
it: a process that stops with an error tells the others why before it goes, so that they
end at once with its message instead of waiting in a collective for ever.
"""

import atexit
import logging
import os
import sys
import threading
import time
from typing import Any

import jax

log = logging.getLogger(__name__)

_FAILURE_KEY = "tdpose/failure"
_POLL_SECONDS = 0.5
# Long enough for every process to have read the message from process 0's service.
_FAREWELL_SECONDS = 4 * _POLL_SECONDS
# What XLA's collectives say when the process at the other end is gone.
_LOST_PEER_MARKS = ("gloo", "nccl", "connection reset", "socket closed", "unavailable")


def is_expected(environment=os.environ) -> bool:
    """Whether this process was started as one of several, by its environment.

    Known: steps of SLURM's srun, Open MPI, TPU slices on GKE. A TPU VM does not say so
    in its environment: there, `--distributed=on`.
    """

    def number(name):
        value = environment.get(name, "")
        return int(value) if value.isdigit() else 1

    return (
        number("SLURM_STEP_NUM_TASKS") > 1
        or number("OMPI_COMM_WORLD_SIZE") > 1
        or "," in environment.get("TPU_WORKER_HOSTNAMES", "")
    )


def initialize(
    mode: str,
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    heartbeat_seconds: int,
) -> None:
    """Joins the other processes; must come before anything asks for a device.

    Args:
      mode: "on"; "off"; "auto": on if a coordinator is given or `is_expected`.
      coordinator, num_processes, process_id: all three, or none where jax can find
        them out itself (TPU, SLURM, Open MPI).
      heartbeat_seconds: a process that was silent for so long is dead, and the others
        end.

    Raises:
      ValueError: if only some of the three are given.
    """
    given = [coordinator is not None, num_processes is not None, process_id is not None]
    if any(given) and not all(given):
        raise ValueError(
            "--coordinator, --num_processes and --process_id belong together: give all "
            "three, or none where jax finds them itself (TPU, SLURM, Open MPI)"
        )
    if mode == "off" or (mode == "auto" and not any(given) and not is_expected()):
        return
    jax.distributed.initialize(
        coordinator,
        num_processes,
        process_id,
        heartbeat_timeout_seconds=heartbeat_seconds,
        # A process that ends without a word leaves the others no longer than this.
        shutdown_timeout_seconds=heartbeat_seconds,
    )
    finished = threading.Event()
    watcher = threading.Thread(target=_end_with_others, args=(finished,), daemon=True)
    watcher.start()

    # Before jax leaves the service, and before Python takes its threads away.
    @atexit.register
    def stop_watching():
        finished.set()
        watcher.join()


def _client() -> Any:
    """The coordination service's client; None in a run of one process."""
    from jax._src import distributed  # no public way to its key-value store

    return distributed.global_state.client


def _end_with_others(finished: threading.Event) -> None:
    """Looks for another process's last words and then ends this one."""
    while not finished.wait(_POLL_SECONDS):
        try:
            words = _client().key_value_try_get(_FAILURE_KEY)
        except Exception as error:  # jax has no class of its own for this
            if "NOT_FOUND" in str(error):
                continue
            return  # the service is gone; jax ends this process and says so
        failed, _, message = words.partition(" ")
        if int(failed) == jax.process_index():
            return
        log.error(
            "process %d ends because process %s failed: %s",
            jax.process_index(),
            failed,
            message,
        )
        _leave(1)


def end_after(error: BaseException, heartbeat_seconds: int) -> None:
    """Ends this process of several; call it where an error would end the run.

    An ordinary exit would wait for the others, and they for this one. If the error is
    that another process was lost, that one should be named: jax does so, and ends this
    process, once the heartbeats have been missed.
    """
    text = f"{type(error).__name__}: {error}"
    if any(mark in text.lower() for mark in _LOST_PEER_MARKS):
        log.error(
            "process %d lost the connection to another one (%s); which one has died is "
            "told within %d s",
            jax.process_index(),
            text.splitlines()[0],
            heartbeat_seconds,
        )
        time.sleep(heartbeat_seconds + 10)
    try:
        _client().key_value_set(_FAILURE_KEY, f"{jax.process_index()} {text}")
    except Exception:  # another process failed first, or the service is gone
        log.debug("could not tell the other processes", exc_info=True)
    time.sleep(_FAREWELL_SECONDS)
    _leave(1)


def _leave(code: int) -> None:
    """Ends without jax's exit hook, which waits for all processes."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
