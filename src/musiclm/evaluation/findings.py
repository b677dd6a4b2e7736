"""Findings: the paper's statements, each with what was measured here and whether it holds.

A statement is about a difference. It *holds* when the whole 95 % interval lies on its side of zero,
*does not hold* when the whole interval lies on the other side, and is *undecided* in between: too
few clips to tell. So is every difference over fewer than ten pairs, whose bootstrap interval is too
short to be believed. What was not run is said to be *not measured*.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from musiclm.core.errors import DataError
from musiclm.evaluation.distances import Interval, bootstrap_mean
from musiclm.evaluation.fad import fad_difference
from musiclm.evaluation.listening.results import StudyResult
from musiclm.evaluation.memorization import MemorizationReport
from musiclm.evaluation.suite import EvaluationReport

LEAST_PAIRS = 10
Verdict = Literal["holds", "does not hold", "undecided", "not measured"]


@dataclass(frozen=True)
class Finding:
    """One statement.

    Attributes:
        claim: In words.
        measure: The difference that was taken, and over what.
        difference: Its mean and interval; positive speaks for the claim. None if not measured.
        num_pairs: Over how many pairs, where the interval is a bootstrap's.
    """

    claim: str
    measure: str
    difference: Interval | None
    num_pairs: int | None = None

    @property
    def verdict(self) -> Verdict:
        """Whether the claim holds here."""
        if self.difference is None:
            return "not measured"
        if self.num_pairs is not None and self.num_pairs < LEAST_PAIRS:
            return "undecided"
        if self.difference.low > 0:
            return "holds"
        return "does not hold" if self.difference.high < 0 else "undecided"


def comparison_findings(
    report: EvaluationReport, system: str, others: Sequence[str], claim: str
) -> list[Finding]:
    """Whether a system is ahead of others on similarity in each joint space, and on KLD.

    Differences are taken clip by clip (the same captions), their interval by bootstrap over clips.
    FAD, which has no clips of its own, is compared in `fad_findings`.

    Args:
        report: With a row for each.
        system: The row that should be ahead.
        others: The rows it is compared with; one that is missing gives findings not measured.
        claim: Such as `MusicLM is ahead of {other} on {measure}`.

    Raises:
        DataError: The report lacks the system.
    """
    if system not in report.rows:
        raise DataError(f"The report has no row {system!r}; it has {', '.join(report.rows)}.")
    own = report.rows[system]
    findings: list[Finding] = []
    for other in others:
        row = report.rows.get(other)
        for space, similarity in own.similarity.items():
            values = np.array(similarity.by_clip)
            theirs = np.array(row.similarity[space].by_clip) if row else None
            how = f"cosine in space {space!r}, {system} - {other}, {report.num_clips} captions"
            words = claim.format(other=other, measure=f"MCC ({space})")
            found = _mean_of(values, theirs, report.seed)
            findings.append(Finding(words, how, found, report.num_clips))
        if own.kld_by_clip:
            values = -np.array(own.kld_by_clip)
            theirs = -np.array(row.kld_by_clip) if row else None
            how = f"{report.class_judge}-KLD in nats, {other} - {system}, {report.num_clips} clips"
            words = claim.format(other=other, measure="KLD")
            found = _mean_of(values, theirs, report.seed)
            findings.append(Finding(words, how, found, report.num_clips))
    return findings


def fad_findings(
    report: EvaluationReport, system: str, others: Sequence[str], claim: str
) -> list[Finding]:
    """Whether a system's FAD is lower than that of others, by embedder.

    Args:
        report: With a row for each.
        system: The row that should be ahead.
        others: The rows it is compared with; missing ones, and embedders with too few windows, give
            findings not measured.
        claim: Such as `MusicLM is ahead of {other} on {measure}`.

    Raises:
        DataError: The report lacks the system.
    """
    if system not in report.rows:
        raise DataError(f"The report has no row {system!r}; it has {', '.join(report.rows)}.")
    own = report.rows[system].fad
    findings: list[Finding] = []
    for other in others:
        theirs = report.rows[other].fad if other in report.rows else {}
        for name in dict.fromkeys([*own, *report.too_few_windows]):
            words = claim.format(other=other, measure=f"FAD ({name})")
            how = report.too_few_windows.get(name, "")
            difference = None
            if name in own:
                how = f"{other} - {system}, 1.96 deviations of resampled clips"
            if name in own and name in theirs:
                difference = fad_difference(own[name], theirs[name])
            findings.append(Finding(words, how, difference))
    return findings


def listening_findings(
    study: StudyResult | None, system: str, others: Sequence[str], reference: str
) -> list[Finding]:
    """Whether listeners prefer a system to others, and the real audio to the system (Figure 8).

    Args:
        study: Results of an `ab` study; without them nothing is measured.
        system: A condition of it.
        others: Conditions that the system should be preferred to.
        reference: The condition that is the real audio.
    """
    claims = [(f"Listeners prefer MusicLM to {other}", system, other) for other in others]
    claims.append(("Listeners prefer real music to MusicLM", reference, system))
    findings: list[Finding] = []
    for claim, one, other in claims:
        difference, how, count = None, "no study", 0
        if study is not None:
            how = "not in the study"
            for pair in study.pairs:
                if {pair.first, pair.second} == {one, other}:
                    found = pair.preference
                    if found is not None and pair.first == other:
                        found = Interval(-found.mean, -found.high, -found.low)
                    difference, count = found, pair.num_trials
                    how = f"mean preference on the study's scale, {pair.num_trials} trials"
        findings.append(Finding(claim, how, difference, count))
    return findings


def memorization_findings(report: MemorizationReport | None) -> list[Finding]:
    """Whether matches rise with the prompt, stay rare, are dull, and rarer on held-out music.

    Where continuations are so dull that they can match nothing, every measure says so.
    """
    rise = "Approximate matches rise with T"
    apart = "Training music is matched more than held-out music"
    rare = "Exact matches stay below 0.2 %"
    dull = "Matches are of little diversity"
    if report is None or not report.curves:
        return [Finding(claim, "", None) for claim in (rise, apart, rare, dull)]
    names = list(report.curves)
    points = report.curves[names[0]]
    count = report.num_examples[names[0]]
    first, last = points[0], points[-1]
    made, true = report.bits
    care = f"; continuations of {made:.2f} bits, music of {true:.2f}" if report.is_dull else ""
    findings = [
        Finding(
            rise,
            f"share at T = {last.prompt_frames} minus share at T = {first.prompt_frames}, "
            f"{count} training examples{care}",
            share_difference(last.approximate, first.approximate),
        )
    ]
    if len(names) > 1:
        control = report.curves[names[1]][-1]
        difference = share_difference(last.approximate, control.approximate)
        how = f"approximate matches at T = {last.prompt_frames}, training minus {names[1]}{care}"
        findings.append(Finding(apart, how, difference))
    else:
        findings.append(Finding(apart, "", None))
    exact = max(point.exact.mean for point in points)
    worst = max(points, key=lambda point: point.exact.mean)
    findings.append(
        Finding(
            rare,
            f"0.2 % minus the largest share ({exact:.2%}, T = {worst.prompt_frames}), {count} "
            f"training examples{care}",
            Interval(0.002 - exact, 0.002 - worst.exact.high, 0.002 - worst.exact.low),
        )
    )
    how = f"bits of all continuations - bits of matches, T = {last.prompt_frames}{care}"
    findings.append(Finding(dull, how, last.entropy_gap))
    return findings


def share_difference(one: Interval, other: Interval) -> Interval:
    """The difference of two shares with Newcombe's interval, from their Wilson intervals."""
    difference = one.mean - other.mean
    low = np.hypot(one.mean - one.low, other.high - other.mean)
    high = np.hypot(one.high - one.mean, other.mean - other.low)
    return Interval(difference, difference - float(low), difference + float(high))


def _mean_of(own: np.ndarray, theirs: np.ndarray | None, seed: int) -> Interval | None:
    if theirs is None:
        return None
    return bootstrap_mean(own - theirs, generator=np.random.default_rng(seed))
