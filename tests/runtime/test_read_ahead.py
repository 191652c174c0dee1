"""Reading ahead: order, how far, and where faults show."""

import functools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from cffm_jax.runtime.read_ahead import read_ahead

COUNT = 8


@pytest.mark.parametrize("ahead", [0, 1, 3, COUNT])
def test_things_come_in_order_and_reads_stay_so_far_ahead(ahead):
    begun, used = [], []

    def read(number, part):
        begun.append(number)
        return number, part

    def reads(number):
        return [functools.partial(read, number, part) for part in range(number % 3)]

    with ThreadPoolExecutor(4) as pool:
        for number, results in read_ahead(pool, range(COUNT), reads, ahead):
            assert results == [(number, part) for part in range(number % 3)]
            used.append(number)
            expected = [each for each in range(min(COUNT, number + ahead + 1)) for _ in range(each % 3)]
            until = time.monotonic() + 10
            while len(begun) < len(expected) and time.monotonic() < until:
                time.sleep(0.001)
            assert sorted(begun) == expected
    assert used == list(range(COUNT))
    assert sorted(begun) == [number for number in range(COUNT) for _ in range(number % 3)]


def test_a_fault_shows_at_its_thing_and_ends_what_waits():
    release, begun = threading.Event(), []

    def read(number):
        begun.append(number)
        if number == 2:
            raise OSError("cut off")
        if number == 3:
            release.wait(10)
        return number

    with ThreadPoolExecutor(1) as pool:
        things = read_ahead(pool, range(COUNT), lambda number: [functools.partial(read, number)], ahead=4)
        assert [next(things), next(things)] == [(0, [0]), (1, [1])]
        with pytest.raises(OSError, match="cut off"):
            next(things)
        release.set()
    assert max(begun) <= 3, "the others were cancelled"
