"""Shards -> `PoseBatch`: the endless training iterator and the finite evaluation one.

`example_order` says which record to visit next and where its people go; tf.data makes
the visits in parallel and returns them in that order; the people are written into
their batches. No result depends on timing or on the number of threads.
"""

import dataclasses
from collections.abc import Iterator

import ml_collections
import numpy as np

from data_pipelines.crop_clips import ClipCropper
from data_pipelines.example_order import TrainOrder, Visit, eval_visits
from data_pipelines.split import open_split
from data_pipelines.visit_reader import Fields, VisitReader
from tdpose_jax.shapes import SAMPLE_ID_BYTES, PoseBatch


class _Batches:
    """Puts people into the batches in which their visits say they stand.

    People of steps before `first_step` are dropped.
    """

    def __init__(
        self,
        data: ml_collections.ConfigDict,
        num_keypoints: int,
        size: int,
        first_step: int = 0,
    ):
        self._first_step = first_step
        height, width = data.crop_size_hw
        t, k = 2 * data.window_delta + 1, num_keypoints
        self._spec = {
            "frames": ((size, t, height, width, 3), np.uint8),
            "keypoints_xy_crop": ((size, k, 2), np.float32),
            "keypoint_weight": ((size, k), np.float32),
            "crop_to_image": ((size, 2, 3), np.float32),
            "frame_is_real": ((size, t), bool),
            "box_score": ((size,), np.float32),
            "example_is_real": ((size,), bool),
            "sample_id": ((size, SAMPLE_ID_BYTES), np.uint8),
        }
        self._open: dict[int, Fields] = {}

    def put(self, visit: Visit, fields: Fields) -> None:
        for i, (step, slot) in enumerate(zip(visit.steps, visit.slots, strict=True)):
            if step < self._first_step:
                continue
            batch = self._batch(int(step))
            for name, value in fields.items():
                batch[name][slot] = value[i]
            batch["example_is_real"][slot] = True

    def _batch(self, step: int) -> Fields:
        if step not in self._open:
            # np.zeros takes memory only when it is written, so batches that are begun
            # many steps ahead cost what is in them.
            batch = {n: np.zeros(shape, t) for n, (shape, t) in self._spec.items()}
            batch["crop_to_image"][:] = np.eye(2, 3)  # invertible, in padding too
            self._open[step] = batch
        return self._open[step]

    def is_full(self, step: int) -> bool:
        return step in self._open and bool(self._open[step]["example_is_real"].all())

    def take(self, step: int) -> PoseBatch:
        """Hands a batch over; what was not put into it is padding."""
        self._batch(step)
        return PoseBatch(**self._open.pop(step))


class TrainIterator:
    """Endless, shuffled, augmented `PoseBatch`es of one process. See `example_order`.

    Which examples a step's global batch holds, in which rows, and how each is
    augmented, is a function of (seed, step, global batch size) and the data alone.

    Args:
      data: `config.data`.
      seed: `config.seed`.
      batch_size_per_process: rows of this process; the same on all.
      start_step: the step of the first batch; any step is reached at once.

    Attributes:
      examples_per_epoch: people in the training split.
      steps_per_epoch: steps that make about one epoch (rounded, at least 1).
      step: of the batch that `next` will return.

    Raises:
      FileNotFoundError, ValueError: see `split.open_split`; while iterating,
        ValueError if more records are corrupt than `data.max_corrupt_records`.
    """

    def __init__(
        self,
        data: ml_collections.ConfigDict,
        seed: int,
        batch_size_per_process: int,
        process_index: int,
        process_count: int,
        start_step: int = 0,
    ):
        split = open_split(data, data.train_split)
        self._data = data
        self._seed = seed
        self._batch_size = batch_size_per_process
        first_row = process_index * batch_size_per_process
        self._rows = range(first_row, first_row + batch_size_per_process)
        self._order = TrainOrder(
            split.shard_of_record,
            split.first_person,
            seed,
            batch_size_per_process * process_count,
            data.shuffle_segment_shards,
        )
        cropper = ClipCropper(data, split.skeleton, split.window_delta_built, seed)
        self._reader = VisitReader(
            split, cropper, batch_size_per_process, data.max_corrupt_records
        )
        self.examples_per_epoch = self._order.num_examples
        self.steps_per_epoch = max(
            1, round(self.examples_per_epoch / self._order.global_batch_size)
        )
        self.step = start_step
        self._iterator = None

    @property
    def num_corrupt_records(self) -> int:
        """Records skipped so far; each was replaced by a readable one."""
        return len(self._reader.corrupt_records)

    def state(self) -> dict[str, int]:
        """What a checkpoint must hold for `restore`; JSON."""
        return {
            "step": self.step,
            "seed": self._seed,
            "global_batch_size": self._order.global_batch_size,
            "examples_per_epoch": self.examples_per_epoch,
        }

    def restore(self, state: dict[str, int]) -> None:
        """Continues where `state` was taken, on any number of processes.

        Raises:
          ValueError: if seed, global batch size or data set differ, so that the data
            order would not continue.
        """
        mine = self.state() | {"step": state["step"]}
        if mine != state:
            raise ValueError(
                f"the input iterator was saved as {state}, this run has {mine}: with "
                "another seed, global batch size or data set the order of the data "
                "cannot continue"
            )
        self.step = state["step"]
        self._iterator = None

    def __iter__(self) -> "TrainIterator":
        return self

    def __next__(self) -> PoseBatch:
        if self._iterator is None:
            self._iterator = self._batches(self.step)
        batch = next(self._iterator)
        self.step += 1
        return batch

    def _batches(self, step: int) -> Iterator[PoseBatch]:
        batches = _Batches(
            self._data,
            self._reader.split.skeleton.num_keypoints,
            self._batch_size,
            step,
        )
        visits = self._order.visits(step, self._rows)
        for visit, fields in self._reader.visits(visits, None):
            batches.put(visit, self._substitute(visit) if fields is None else fields)
            while batches.is_full(step):
                yield batches.take(step)
                step += 1

    def _substitute(self, visit: Visit) -> Fields:
        """People of the next readable record in the place of a corrupt one's.

        A function of the data alone, so that a resumed run sees the same.
        """
        first_person = self._reader.split.first_person
        record = visit.record
        for _ in range(len(first_person) - 1):
            record = self._order.next_record(visit.epoch, record)
            persons = np.arange(first_person[record], first_person[record + 1])
            if len(persons):
                persons = np.resize(persons, len(visit.persons))  # repeats if too few
                instead = dataclasses.replace(visit, record=record, persons=persons)
                fields = self._reader.visit(instead)
                if fields is not None:
                    return fields
        raise ValueError(f"no readable record in {self._reader.split.shard_paths}")


class EvalIterator:
    """Finite `PoseBatch`es of one process; iterating again starts again.

    Every person of the split whose box score reaches `data.box_score_threshold` comes
    exactly once over all processes, in file order; the rest of the last batches is
    padding with `example_is_real` False. All processes get the same number of batches.
    People of records that are skipped as corrupt become padding.

    Attributes:
      num_examples: people over all processes.
    """

    def __init__(
        self,
        data: ml_collections.ConfigDict,
        split: str,
        batch_size_per_process: int,
        process_index: int,
        process_count: int,
    ):
        opened = open_split(data, split)
        # float32 as stored: 0.2 must not be less than 0.2.
        threshold = np.float32(data.box_score_threshold)
        kept = np.flatnonzero(opened.box_score >= threshold)
        if not len(kept):
            raise ValueError(
                f"split {split!r} of {data.root}: none of {len(opened.box_score)} boxes "
                f"reaches config.data.box_score_threshold {data.box_score_threshold}"
            )
        self.num_examples = len(kept)
        # Contiguous parts: each process reads its own records.
        part = -(-len(kept) // process_count)
        self._persons = kept[process_index * part : (process_index + 1) * part]
        self._batch_size = batch_size_per_process
        self._num_batches = -(-part // batch_size_per_process)
        self._data = data
        cropper = ClipCropper(data, opened.skeleton, opened.window_delta_built, None)
        self._reader = VisitReader(
            opened, cropper, batch_size_per_process, data.max_corrupt_records
        )

    @property
    def num_corrupt_records(self) -> int:
        """Records skipped so far; their people are not scored."""
        return len(self._reader.corrupt_records)

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[PoseBatch]:
        split, size = self._reader.split, self._batch_size
        batches = _Batches(self._data, split.skeleton.num_keypoints, size)
        visits = list(eval_visits(self._persons, split.record_of_person, size))
        step = 0
        for visit, fields in self._reader.visits(iter(visits), len(visits)):
            while step < visit.steps[0]:  # visits are in order: these are complete
                yield batches.take(step)
                step += 1
            if fields is not None:
                batches.put(visit, fields)
        while step < len(self):
            yield batches.take(step)
            step += 1


def make_eval_iterator(
    data: ml_collections.ConfigDict,
    split: str,
    batch_size_per_process: int,
    process_index: int,
    process_count: int,
) -> EvalIterator:
    """The evaluation input of one process; see `EvalIterator`."""
    return EvalIterator(
        data, split, batch_size_per_process, process_index, process_count
    )
