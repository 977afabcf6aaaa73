"""Runs the same function over jobs: in this process, in a process pool, or by Beam."""

import concurrent.futures
import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any


class WorkerDied(RuntimeError):
    """A process of the pool was killed."""


def run_jobs(
    function: Callable[[Any], Any],
    jobs: Sequence[Any],
    workers: int,
    done: Callable[[int], None],
) -> list[Any]:
    """Results in the order of `jobs`.

    Args:
      function: importable by name; its jobs and results are picklable.
      workers: processes; 1 works in this one.
      done: called with a job's index when it is finished.

    Raises:
      Exception: the first that a job raised; jobs not yet started are dropped.
      WorkerDied: if a process ended without a word.
    """
    if workers <= 1 or len(jobs) <= 1:
        results = []
        for i, job in enumerate(jobs):
            results.append(function(job))
            done(i)
        return results
    # Spawned: a forked child of a process that runs TensorFlow may hang.
    context = multiprocessing.get_context("spawn")
    workers = min(workers, len(jobs))
    with concurrent.futures.ProcessPoolExecutor(
        workers, context, initializer=_die_with_parent
    ) as pool:
        index = {pool.submit(function, job): i for i, job in enumerate(jobs)}
        try:
            for future in concurrent.futures.as_completed(index):
                future.result()
                done(index[future])
        except BrokenProcessPool as error:
            raise WorkerDied(
                "a worker process died, most likely for want of memory; run the same "
                "command with a smaller --workers"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [future.result() for future in index]


def run_jobs_with_beam(
    function: Callable[[Any], Any], jobs: Sequence[Any], arguments: Sequence[str]
) -> list[Any]:
    """Results in the order of `jobs`, computed by a Beam pipeline.

    Workers need this package, and must see the source and output folders under the
    same paths. A job's result is what `function` returns when asked again here, so
    `function` must be cheap where its work is done (`write_shard` is).

    Args:
      arguments: Beam's own, such as `--runner=FlinkRunner`.

    Raises:
      ImportError: saying how to install Beam.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise ImportError(
            "--beam needs apache-beam, which wants other versions of protobuf and "
            "pyarrow than requirements.txt: install it in an environment of its own "
            "with pip install -r requirements-beam.txt"
        ) from error
    with beam.Pipeline(options=PipelineOptions(list(arguments))) as pipeline:
        _ = (
            pipeline
            | "jobs" >> beam.Create(list(jobs))
            # Otherwise Create and Map fuse, and one worker does everything.
            | "spread" >> beam.Reshuffle()
            | "work" >> beam.Map(function)
        )
    return [function(job) for job in jobs]


def _die_with_parent() -> None:
    """Ends this worker when the build is killed, lest it write into the next one."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            multiprocessing.connection.wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
