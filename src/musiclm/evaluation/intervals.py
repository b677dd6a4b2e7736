"""Intervals of shares: how sure one can be of a proportion that was counted."""

import math

from musiclm.core.errors import DataError
from musiclm.evaluation.distances import Interval

Z_95 = 1.959963984540054


def proportion_interval(successes: int, trials: int, *, z: float = Z_95) -> Interval:
    """A share and Wilson's score interval (95 % by default), sensible at 0 and at 1 too.

    Raises:
        DataError: There are no trials, or more successes than trials.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise DataError(f"{successes} of {trials} is no share; there must be at least one trial.")
    share = successes / trials
    scale = 1 + z * z / trials
    middle = (share + z * z / (2 * trials)) / scale
    half = z * math.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2) / scale
    low = 0.0 if successes == 0 else middle - half
    high = 1.0 if successes == trials else middle + half
    return Interval(share, low, high)
