import threading
import time

import pytest

from orl.datasets.threads import map_in_threads


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_results_come_in_the_order_of_the_items(threads: int) -> None:
    found: list[int] = []

    def work(item: int) -> int:
        time.sleep(0.001 * (5 - item % 5))
        return item * item

    map_in_threads(work, range(20), threads, found.append)
    assert found == [item * item for item in range(20)]


def test_results_are_computed_in_threads_and_consumed_by_the_caller() -> None:
    made, taken = set(), set()
    map_in_threads(lambda _: made.add(threading.get_ident()), range(9), 2, lambda _: taken.add(threading.get_ident()))
    assert taken == {threading.get_ident()}
    assert not made & taken


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_a_failure_queued_items_are_dropped(error: type[BaseException]) -> None:
    begun = []

    def fail(_: object) -> None:
        raise error("stop")

    def work(item: int) -> None:
        begun.append(item)
        time.sleep(0.01)

    with pytest.raises(error, match="stop"):
        map_in_threads(work, range(1000), 2, fail)
    assert len(begun) < 50
