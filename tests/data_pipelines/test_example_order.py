"""The training order: integers only, so every claim is checked exhaustively."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.example_order import TrainOrder, eval_visits


def make_order(persons_per_record, records_per_shard=3, batch=4, seed=0, segment=2):
    n = len(persons_per_record)
    first_person = np.concatenate([[0], np.cumsum(persons_per_record)])
    shard = np.arange(n) // records_per_shard
    return TrainOrder(shard, first_person, seed, batch, segment)


def batches(order, steps, rows=None):
    rows = range(order.global_batch_size) if rows is None else rows
    return [order.batch(step, rows) for step in steps]


@settings(max_examples=60, deadline=None)
@given(
    persons=st.lists(st.integers(0, 5), min_size=1, max_size=30).filter(sum),
    batch=st.integers(1, 9),
    seed=st.integers(0, 3),
)
def test_every_example_exactly_once_per_epoch(persons, batch, seed):
    order = make_order(persons, batch=batch, seed=seed)
    n, epochs = sum(persons), 3
    steps = -(-epochs * n // batch)
    seen = np.concatenate([np.stack(b, 1) for b in batches(order, range(steps))])
    for epoch in range(epochs):
        of_epoch = seen[seen[:, 0] == epoch, 1]
        assert sorted(of_epoch) == list(range(n))
    # Epochs follow one another: the first epochs * n places are exactly they.
    np.testing.assert_array_equal(
        seen[: epochs * n, 0], np.repeat(np.arange(epochs), n)
    )


@settings(max_examples=60, deadline=None)
@given(
    persons=st.lists(st.integers(0, 5), min_size=1, max_size=30).filter(sum),
    batch=st.integers(1, 6),
    start=st.integers(0, 20),
    part=st.booleans(),
)
def test_visits_fill_the_batches(persons, batch, start, part):
    """Visits bring exactly the people of each batch, in time, each record once."""
    order = make_order(persons, batch=batch)
    rows = range(batch // 2, batch) if part else range(batch)
    filled, complete, visited = {}, start, set()
    for visit in itertools.islice(order.visits(start, rows), 200):
        # No batch is begun before the visits of the one before have all come.
        due = visit.steps[visit.steps >= start]
        assert due.min() == complete or not filled.get(complete)
        for person, step, slot in zip(
            visit.persons, visit.steps, visit.slots, strict=True
        ):
            assert order.record_of_person[person] == visit.record
            filled.setdefault(int(step), {})[int(slot)] = (visit.epoch, int(person))
        key = visit.epoch, visit.record, int(visit.slots[0])
        assert key not in visited
        visited.add(key)
        while len(filled.get(complete, ())) == len(rows):
            epochs, people = order.batch(complete, rows)
            expected = list(zip(epochs.tolist(), people.tolist(), strict=True))
            assert [filled[complete][s] for s in range(len(rows))] == expected
            complete += 1
    assert complete > start


@pytest.mark.parametrize("process_count", [2, 4])
def test_global_batch_does_not_depend_on_the_process_count(process_count):
    order = make_order([2, 1, 3, 4, 1, 2, 5, 1], batch=8)
    size = 8 // process_count
    for step in range(10):
        whole = order.batch(step, range(8))
        parts = [
            order.batch(step, range(p * size, (p + 1) * size))
            for p in range(process_count)
        ]
        np.testing.assert_array_equal(whole, np.concatenate(parts, axis=1))


def test_processes_read_their_own_shards():
    """16 shards in segments of 2, 4 processes: a segment is read by at most 2."""
    order = make_order([2] * 160, records_per_shard=10, batch=8)
    readers = {}
    for step in range(40):
        for process in range(4):
            _, persons = order.batch(step, range(2 * process, 2 * process + 2))
            for record in order.record_of_person[persons]:
                readers.setdefault(int(record) // 10, set()).add(process)
    assert len(readers) == 16
    assert all(len(processes) == 1 for processes in readers.values())


def test_order_changes_with_seed_and_epoch():
    persons = [3] * 40
    first = make_order(persons).epoch_order(0).persons
    np.testing.assert_array_equal(first, make_order(persons).epoch_order(0).persons)
    assert (first != make_order(persons).epoch_order(1).persons).any()
    assert (first != make_order(persons, seed=1).epoch_order(0).persons).any()


def test_each_record_is_decoded_about_once():
    order = make_order([6] * 200, records_per_shard=25, batch=8)
    visits = itertools.takewhile(
        lambda v: v.steps.min() < 150, order.visits(0, range(8))
    )
    assert 200 <= len(list(visits)) <= 200 + 2 * 8  # a piece's end cuts one group


def test_next_record_goes_round():
    order = make_order([1, 2, 3, 4])
    seen, record = [], 2
    for _ in range(4):
        record = order.next_record(0, record)
        seen.append(record)
    assert sorted(seen) == [0, 1, 2, 3] and record == 2


def test_eval_visits():
    record_of_person = np.repeat([0, 1, 2, 4], [2, 1, 4, 1])
    persons = np.array([1, 2, 3, 5, 6, 7])  # 0 and 4 are below the threshold
    visits = list(eval_visits(persons, record_of_person, batch_size=3))
    assert [v.record for v in visits] == [0, 1, 2, 4]
    assert [v.persons.tolist() for v in visits] == [[1], [2], [3, 5, 6], [7]]
    assert [v.steps.tolist() for v in visits] == [[0], [0], [0, 1, 1], [1]]
    assert [v.slots.tolist() for v in visits] == [[0], [1], [2, 0, 1], [2]]
    assert not list(eval_visits(persons[:0], record_of_person, 3))
