"""Ranges over threads."""

import os
import threading
import time

import pytest
from threadpoolctl import threadpool_info

from pvq_ref.errors import DomainError
from pvq_ref.parallel import map_ranges, one_thread_each, read_ahead, thread_count


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("total", [0, 1, 9, 10, 95])
def test_ranges_cover_everything_in_order(threads, total):
    got = list(map_ranges(lambda a, b: (a, b), total, 10, threads))
    assert got == [(a, min(a + 10, total)) for a in range(0, total, 10)]


def test_an_error_comes_through_and_stops_the_rest():
    done = []

    def work(start, stop):
        if start == 3:
            raise KeyError("three")
        time.sleep(0.01)
        done.append(start)

    with pytest.raises(KeyError, match="three"):
        list(map_ranges(work, 1000, 1, 2))
    assert len(done) < 20


def test_results_do_not_pile_up():
    seen = []
    results = map_ranges(lambda a, b: seen.append(a), 100, 1, 2)
    next(results)
    time.sleep(0.05)
    assert len(seen) <= 6
    results.close()


def test_threads_are_gone_afterwards():
    before = threading.active_count()
    list(map_ranges(lambda a, b: a, 10, 1, 4))
    assert threading.active_count() == before


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("total", [0, 1, 20])
def test_what_is_read_ahead_comes_in_order(total, count):
    before, asked = threading.active_count(), []

    def items():
        for item in range(total):
            asked.append(item)
            yield item

    for i, item in enumerate(read_ahead(items(), count)):
        assert item == i
        assert len(asked) <= i + 1 + count
    assert len(asked) == total
    assert threading.active_count() == before


def test_an_error_in_reading_ahead_comes_in_its_place():
    def items():
        yield from range(5)
        raise KeyError("five")

    got = []
    with pytest.raises(KeyError, match="five"):
        for item in read_ahead(items(), 3):
            got.append(item)  # a list would lose them
    assert got == list(range(5))


def test_reading_ahead_can_end_early():
    before, items = threading.active_count(), iter(range(100))
    ahead = read_ahead(items, 4)
    assert next(ahead) == 0
    ahead.close()
    assert threading.active_count() == before
    assert next(items) <= 6


def test_all_threads_by_default():
    assert thread_count(None) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("bad", [0, -1, 2.0, 5000])
def test_refused(bad):
    with pytest.raises(DomainError, match="threads must be"):
        thread_count(bad)


def test_products_take_one_thread_inside_and_as_many_as_before_outside():
    def pools():
        return {one["filepath"]: one["num_threads"] for one in threadpool_info()}

    with one_thread_each():  # which finds them
        pass
    before = pools()
    with one_thread_each():
        assert before.keys() == pools().keys() != set()
        assert set(pools().values()) == {1}
    assert pools() == before
