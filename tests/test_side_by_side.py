"""Jobs side by side: the same results in the same order for any number of threads."""

import threading

import pytest
import torch

from musiclm.core.errors import DataError
from musiclm.core.side_by_side import side_by_side


@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_results_come_in_order_and_do_not_depend_on_the_number_of_threads(num_threads):
    layer = torch.nn.Conv1d(4, 4, 9)
    generator = torch.Generator().manual_seed(0)
    items = [torch.randn(1, 4, 200 + number, generator=generator) for number in range(11)]
    told: list[int] = []
    with torch.no_grad():
        alone = [layer(item) for item in items]

    def job(item: torch.Tensor) -> torch.Tensor:
        assert torch.get_num_threads() == 1
        with torch.no_grad():
            return layer(item)

    made = side_by_side(job, items, num_threads=num_threads, on_done=told.append)
    assert [tuple(result.shape) for result in made] == [tuple(result.shape) for result in alone]
    again = side_by_side(job, items, num_threads=1)
    assert all(torch.equal(one, other) for one, other in zip(made, again, strict=True))
    assert told == list(range(1, 12))


def test_items_are_taken_a_few_ahead_and_threads_are_put_back():
    before, taken, release = torch.get_num_threads(), [0], threading.Event()

    def items():
        for number in range(50):
            taken[0] = number + 1
            if number == 3:
                release.set()
            yield number

    def job(number: int) -> int:
        assert release.wait(10)
        assert taken[0] <= number + 5
        return number

    assert side_by_side(job, items(), num_threads=2) == list(range(50))
    assert torch.get_num_threads() == before


def test_an_error_of_a_job_is_raised():
    def job(number: int) -> int:
        if number == 2:
            raise DataError("the third is broken")
        return number

    with pytest.raises(DataError, match="third"):
        side_by_side(job, range(9), num_threads=2)
