"""Which example stands at which place of which batch: integers only, no file is read.

An epoch is a permutation of the N examples (people). The epochs follow one another
without a gap: the batch of step s holds the places [s * B, (s + 1) * B) of the endless
sequence, whatever N is, so nothing is dropped and every process takes the same number of
steps. Each *row* of the global batch (place modulo B) walks through its own contiguous
piece of the epoch's record order, and each process owns a contiguous range of rows. From
this follow, all of them tested:

* the global batch of a step is a function of (seed, step, B) and the data, not of the
  number of processes; a run resumed on another number of processes continues exactly;
* a process reads its own part of the shards (only pieces' ends are shared);
* the people of a record meet the same row within a few steps, so each JPEG is decoded
  once for all of them, while the rows of one batch come from B far-apart records;
* any step can be reached directly (random access), so resuming costs one permutation.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator

import numpy as np

# Records whose people are shuffled together within a row. More mixes better and holds
# more decoded clips: about rows * GROUP_RECORDS * people / 2 of them.
GROUP_RECORDS = 2


@dataclasses.dataclass(frozen=True)
class Visit:
    """One record to be decoded once, for some of its people, in one epoch.

    Attributes:
      epoch: decides the augmentation draw.
      record: index into the split's records.
      persons: [n] global person indices, all of this record.
      steps: [n] the step in whose batch each of them stands.
      slots: [n] and its row in the process's part of that batch.
    """

    epoch: int
    record: int
    persons: np.ndarray
    steps: np.ndarray
    slots: np.ndarray


@dataclasses.dataclass(frozen=True)
class EpochOrder:
    """One epoch's permutation.

    Attributes:
      records: [R] record indices in reading order.
      persons: [N] person indices in training order.
      place: [N] inverse of `persons`.
      piece: [B + 1] row r walks `persons[piece[r]:piece[r + 1]]`.
      first_place: [B] place of that piece's first example in the endless sequence.
    """

    records: np.ndarray
    persons: np.ndarray
    place: np.ndarray
    piece: np.ndarray
    first_place: np.ndarray


class TrainOrder:
    """The endless training order of one split.

    Args:
      shard_of_record: [R] sorted shard numbers.
      first_person: [R + 1] people of record r are `first_person[r]:first_person[r+1]`.
      seed: the run's seed.
      global_batch_size: B, over all processes.
      segment_shards: shards whose records are shuffled together.
    """

    def __init__(
        self,
        shard_of_record: np.ndarray,
        first_person: np.ndarray,
        seed: int,
        global_batch_size: int,
        segment_shards: int,
    ):
        self.shard_of_record = np.asarray(shard_of_record)
        self.first_person = np.asarray(first_person)
        self.num_examples = int(self.first_person[-1])
        self.record_of_person = np.repeat(
            np.arange(len(self.first_person) - 1), np.diff(self.first_person)
        )
        self.seed = seed
        self.global_batch_size = global_batch_size
        self.segment_shards = segment_shards
        self.epoch_order = functools.lru_cache(maxsize=4)(self._epoch_order)

    def _epoch_order(self, epoch: int) -> EpochOrder:
        rng = np.random.Generator(
            np.random.Philox(np.random.SeedSequence([self.seed, epoch]))
        )
        # 1. Shards in random order, a few of them form a segment; records are shuffled
        # inside their segment.
        shards = np.unique(self.shard_of_record)
        rank = np.empty(shards[-1] + 1, np.int64)
        rank[rng.permutation(shards)] = np.arange(len(shards))
        segment = rank[self.shard_of_record] // self.segment_shards
        records = np.lexsort((rng.random(len(segment)), segment))
        # 2. People in the order of their records, shuffled inside groups of records.
        group = np.empty(len(records), np.int64)
        group[records] = np.arange(len(records)) // GROUP_RECORDS
        n = self.num_examples
        persons = np.lexsort((rng.random(n), group[self.record_of_person]))
        place = np.empty(n, np.int64)
        place[persons] = np.arange(n)
        # 3. Row r owns the places congruent to r modulo B; there are about N / B.
        batch = self.global_batch_size
        first = epoch * n
        first_place = first + (np.arange(batch) - first) % batch
        count = np.maximum(0, -(-(first + n - first_place) // batch))
        piece = np.concatenate([[0], np.cumsum(count)])
        return EpochOrder(records, persons, place, piece, first_place)

    def batch(self, step: int, rows: range) -> tuple[np.ndarray, np.ndarray]:
        """[b] epochs and [b] person indices of these rows of the global batch."""
        epochs, persons = [], []
        for row in rows:
            epoch, at = self._locate(step, row)
            epochs.append(epoch)
            persons.append(self.epoch_order(epoch).persons[at])
        return np.array(epochs), np.array(persons)

    def _locate(self, step: int, row: int) -> tuple[int, int]:
        """Epoch, and index into its `persons`, of one row of one step."""
        place = step * self.global_batch_size + row
        epoch = place // self.num_examples
        order = self.epoch_order(epoch)
        rank = (place - order.first_place[row]) // self.global_batch_size
        return epoch, int(order.piece[row] + rank)

    def visits(self, start_step: int, rows: range) -> Iterator[Visit]:
        """Endless visits, in the order in which these rows need them from a step on.

        A batch is complete once the visits up to its last row have been made: a record
        is visited when its first person is due, and its other people are due later,
        or were before `start_step`: they are to be left out of the batches.
        """
        for step in itertools.count(start_step):
            for row in rows:
                epoch, at = self._locate(step, row)
                order = self.epoch_order(epoch)
                record = self.record_of_person[order.persons[at]]
                persons = np.arange(*self.first_person[record : record + 2])
                places = order.place[persons]
                # Those of this row's piece, also those that stood before `start_step`:
                # the part of the picture that is decoded depends on all of them, and
                # a pixel at its edge by a level on where the edge is.
                first_at, offset = int(order.piece[row]), order.first_place[row]
                inside = (places >= first_at) & (places < order.piece[row + 1])
                steps = (
                    offset + (places[inside] - first_at) * self.global_batch_size
                ) // self.global_batch_size
                if step == steps[steps >= start_step].min():
                    slots = np.full(len(steps), row - rows.start)
                    yield Visit(epoch, int(record), persons[inside], steps, slots)

    def next_record(self, epoch: int, record: int) -> int:
        """The record after this one in the epoch's reading order, the first after the
        last: what is read in the place of a corrupt one."""
        order = self.epoch_order(epoch).records
        at = int(np.flatnonzero(order == record)[0])
        return int(order[(at + 1) % len(order)])


def eval_visits(
    persons: np.ndarray, record_of_person: np.ndarray, batch_size: int
) -> Iterator[Visit]:
    """Visits of one process in evaluation: these people, in this order, once.

    Args:
      persons: [M] increasing global person indices.
      batch_size: people per step of this process.
    """
    places = np.arange(len(persons))
    ends = np.flatnonzero(np.diff(record_of_person[persons])) + 1
    for part in np.split(places, ends) if len(places) else ():
        record = int(record_of_person[persons[part[0]]])
        steps, slots = np.divmod(part, batch_size)
        yield Visit(0, record, persons[part], steps, slots)
