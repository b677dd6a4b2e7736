"""What a listening study shows: wins, preferences, their intervals, and which are significant.

Conventions: a *win* is a strong or weak preference, as in the paper. Preferences between two
conditions are tested with Wilcoxon's signed-rank test (zeros by Pratt's rule) on the 5-point scale,
MUSHRA scores on their differences within a trial; p values are Bonferroni's, times the number of
pairs. MUSHRA listeners who give the hidden reference less than 90 in more than a fifth of their
trials are left out (ITU-R BS.1534; SoundStream, Section 4.2).
"""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import wilcoxon

from musiclm.core.errors import DataError
from musiclm.evaluation.distances import Interval, bootstrap_mean
from musiclm.evaluation.intervals import proportion_interval
from musiclm.evaluation.listening.store import Answer
from musiclm.evaluation.listening.study import Study

_REFERENCE_SCORE = 90
_SHARE_OF_MISSES = 0.2


@dataclass(frozen=True)
class PairResult:
    """Two conditions compared.

    Attributes:
        first: A condition.
        second: Another.
        num_first: Trials in which the first was preferred (or scored higher).
        num_second: Trials in which the second was.
        num_ties: Trials without a preference.
        preference: Mean preference for the first: -2 to 2 (`ab`), or points (`mushra`); None with
            fewer than two trials.
        p_value: Of no preference at all, times the number of pairs, at most 1.
    """

    first: str
    second: str
    num_first: int
    num_second: int
    num_ties: int
    preference: Interval | None
    p_value: float

    @property
    def num_trials(self) -> int:
        """Trials in all."""
        return self.num_first + self.num_second + self.num_ties


@dataclass(frozen=True)
class ConditionResult:
    """One condition over all its trials: its share of wins (`ab`) or mean score (`mushra`)."""

    condition: str
    num_wins: int
    num_trials: int
    score: Interval


@dataclass(frozen=True)
class StudyResult:
    """The whole study."""

    kind: str
    num_listeners: int
    num_left_out: int
    num_answers: int
    conditions: tuple[ConditionResult, ...]
    pairs: tuple[PairResult, ...]


def study_result(
    study: Study, answers: Sequence[Answer], *, generator: np.random.Generator
) -> StudyResult:
    """Counts, tests and intervals of all answers.

    Raises:
        DataError: There are no answers, or none are left after the post-screening.
    """
    if not answers:
        raise DataError("Nobody has answered yet. Invite listeners with `musiclm study serve`.")
    kept = _screened(study, answers)
    if not kept:
        raise DataError("No listener recognised the reference; all answers were left out.")
    preferences: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    scores: defaultdict[str, list[float]] = defaultdict(list)
    for answer in kept:
        shown = answer.trial.conditions
        values = answer.values if study.kind == "mushra" else (-answer.values[0], answer.values[0])
        for one, other in itertools.combinations(range(len(shown)), 2):
            # An `ab` answer is one preference; MUSHRA's is the difference of two scores.
            difference = float(values[one] - values[other]) / (1 if study.kind == "mushra" else 2)
            preferences[shown[one], shown[other]].append(difference)
            preferences[shown[other], shown[one]].append(-difference)
        for condition, value in zip(shown, values, strict=True):
            scores[condition].append(float(value))
    pairs = [p for p in itertools.combinations(study.conditions, 2) if preferences[p]]
    return StudyResult(
        kind=study.kind,
        num_listeners=len({answer.listener for answer in kept}),
        num_left_out=len({a.listener for a in answers} - {a.listener for a in kept}),
        num_answers=len(kept),
        conditions=tuple(
            _condition(study, name, np.array(scores[name]), generator)
            for name in study.conditions
            if scores[name]
        ),
        pairs=tuple(_pair(*p, np.array(preferences[p]), len(pairs), generator) for p in pairs),
    )


def _screened(study: Study, answers: Sequence[Answer]) -> list[Answer]:
    if study.kind != "mushra" or not study.reference:
        return list(answers)
    is_missed: defaultdict[int, list[bool]] = defaultdict(list)
    for answer in answers:
        given = dict(zip(answer.trial.conditions, answer.values, strict=True))
        is_missed[answer.listener].append(given[study.reference] < _REFERENCE_SCORE)
    return [a for a in answers if np.mean(is_missed[a.listener]) <= _SHARE_OF_MISSES]


def _condition(
    study: Study, name: str, values: np.ndarray, generator: np.random.Generator
) -> ConditionResult:
    num_wins = int((values > 0).sum()) if study.kind == "ab" else 0
    if study.kind == "ab":
        score = proportion_interval(num_wins, len(values))
    elif len(values) < 2:
        score = Interval(float(values[0]), 0.0, 100.0)
    else:
        score = bootstrap_mean(values, generator=generator)
    return ConditionResult(name, num_wins, len(values), score)


def _pair(
    first: str,
    second: str,
    preferences: np.ndarray,
    num_pairs: int,
    generator: np.random.Generator,
) -> PairResult:
    p_value = 1.0
    if len(preferences) > 1 and np.any(preferences):
        test: Any = wilcoxon(preferences, zero_method="pratt")
        p_value = float(test.pvalue)
    interval = bootstrap_mean(preferences, generator=generator) if len(preferences) > 1 else None
    return PairResult(
        first,
        second,
        int((preferences > 0).sum()),
        int((preferences < 0).sum()),
        int((preferences == 0).sum()),
        interval,
        min(1.0, p_value * num_pairs),
    )
