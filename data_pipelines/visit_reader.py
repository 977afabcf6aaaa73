"""Visits of `example_order`, read and cropped in parallel, given back in their order."""

import itertools
import os
import re
import threading
from collections.abc import Iterator

import numpy as np
from absl import logging

from data_pipelines.crop_clips import ClipCropper
from data_pipelines.example_order import Visit
from data_pipelines.split import Split

Fields = dict[str, np.ndarray]


class VisitReader:
    """Makes visits in parallel, in order, and keeps count of corrupt records.

    Args:
      batch_size: of this process; visits for about two batches are made ahead.
      max_corrupt: records that may be corrupt before reading stops.
    """

    def __init__(
        self, split: Split, cropper: ClipCropper, batch_size: int, max_corrupt: int
    ):
        self.split = split
        self.cropper = cropper
        self.visits_ahead = -(-2 * batch_size * len(split.length) // split.num_persons)
        self.max_corrupt = max_corrupt
        self.corrupt_records: set[int] = set()

    def _read(self, visit: Visit) -> tuple[bytes, np.ndarray, np.int64]:
        persons = visit.persons - self.split.first_person[visit.record]
        return self.split.read(visit.record), persons, np.int64(visit.epoch)

    def visits(
        self, visits: Iterator[Visit], count: int | None
    ) -> Iterator[tuple[Visit, Fields | None]]:
        """Yields the visits in their order; None for a corrupt record.

        Args:
          count: how many there are; None: endless.

        Raises:
          ValueError: more records are corrupt than `max_corrupt`.
        """
        import tensorflow as tf

        planned: dict[int, Visit] = {}
        numbers = itertools.count()
        lock = threading.Lock()

        def read(number):
            with lock:  # tf.data's threads may ask out of order
                while number not in planned:
                    planned[next(numbers)] = next(visits)
                visit = planned[number]
            return self._read(visit)

        @tf.autograph.experimental.do_not_convert  # nothing to convert: saves 0.2 s
        def load(number):
            raw, persons, epoch = tf.numpy_function(
                read, [number], (tf.string, tf.int64, tf.int64)
            )
            return self.cropper(raw, tf.ensure_shape(persons, [None]), epoch)

        threads = len(os.sched_getaffinity(0))
        options = tf.data.Options()
        options.deterministic = True
        options.autotune.enabled = False
        options.threading.private_threadpool_size = threads
        end = np.iinfo(np.int64).max if count is None else count
        dataset = (
            tf.data.Dataset.range(end)
            .map(load, num_parallel_calls=threads)
            .prefetch(max(threads, self.visits_ahead))
            .with_options(options)
        )
        results = iter(dataset)
        for number in itertools.count() if count is None else range(count):
            try:
                fields = {name: value.numpy() for name, value in next(results).items()}
            except tf.errors.OpError:
                # The element failed; the iterator goes on behind it. Once more here,
                # for an error that says what happened.
                fields = self.visit(planned[number])
            yield planned.pop(number), fields

    def visit(self, visit: Visit) -> Fields | None:
        """One visit, here and now; None if the record is corrupt.

        Raises:
          ValueError: more records are corrupt than `max_corrupt`.
        """
        import tensorflow as tf

        try:
            raw, persons, epoch = map(tf.constant, self._read(visit))
            fields = self.cropper(raw, persons, epoch)
            return {name: value.numpy() for name, value in fields.items()}
        except (ValueError, tf.errors.OpError) as error:
            message = f"{self.split.where(visit.record)}: {_reason(error)}"
            if visit.record in self.corrupt_records:
                return None
            self.corrupt_records.add(visit.record)
            found = f"{len(self.corrupt_records)} corrupt record(s) so far, "
            found += f"config.data.max_corrupt_records is {self.max_corrupt}"
            if len(self.corrupt_records) > self.max_corrupt:
                raise ValueError(
                    f"{message}; {found}. Copy the shard again or rebuild it "
                    "(`python -m data_pipelines.build --verify` checks all), or raise "
                    "the limit"
                ) from error
            logging.warning("skipped %s; %s", message, found)
            return None


def _reason(error: Exception) -> str:
    """The one line that says what happened, without TensorFlow's framing."""
    message = getattr(error, "message", str(error))
    message = re.sub(r"\{\{[^}]*\}\}|\[Op:.*\]", "", message).strip()
    return message.splitlines()[0]
