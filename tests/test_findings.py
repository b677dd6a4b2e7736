"""Findings: verdicts follow the interval, differences are paired, nothing missing is hidden."""

from dataclasses import replace

import numpy as np
import pytest

from musiclm.cli.reproduction import memorization_section
from musiclm.core.errors import DataError
from musiclm.evaluation.distances import Interval
from musiclm.evaluation.fad import FadEstimate
from musiclm.evaluation.findings import (
    Finding,
    comparison_findings,
    fad_findings,
    listening_findings,
    memorization_findings,
    share_difference,
)
from musiclm.evaluation.intervals import proportion_interval
from musiclm.evaluation.listening.results import PairResult, StudyResult
from musiclm.evaluation.memorization import MemorizationPoint, MemorizationReport, Threshold
from musiclm.evaluation.suite import CaptionSimilarity, EvaluationReport, RowScores


def row(similarity: np.ndarray, kld: np.ndarray) -> RowScores:
    by_clip = tuple(similarity.tolist())
    nothing = Interval(0.0, 0.0, 0.0)
    return RowScores(
        num_windows=1,
        fad={},
        kld=nothing,
        kld_by_clip=tuple(kld.tolist()),
        similarity={"mulan": CaptionSimilarity(0.0, 0.0, nothing, by_clip)},
        retrieval={},
        adherence={},
        instruments=None,
    )


def report(**rows: RowScores) -> EvaluationReport:
    return EvaluationReport(50, 10.0, 0, "musicnn", "", None, rows)


def test_verdicts_follow_the_interval():
    verdicts = [
        Finding("", "", difference).verdict
        for difference in (
            Interval(1.0, 0.5, 1.5),
            Interval(0.1, -0.2, 0.4),
            Interval(-1.0, -1.5, -0.5),
            None,
        )
    ]
    assert verdicts == ["holds", "undecided", "does not hold", "not measured"]


def test_a_handful_of_pairs_decides_nothing():
    sure = Interval(1.0, 0.5, 1.5)
    assert [Finding("", "", sure, count).verdict for count in (9, 10)] == ["undecided", "holds"]


def test_comparisons_are_paired_by_caption():
    """A small gain on every caption shows through a spread that is a hundred times larger."""
    draw = np.random.default_rng(0)
    hard = draw.standard_normal(50)
    ours = row(hard + 0.01 + 0.001 * draw.standard_normal(50), hard + 5)
    theirs = row(hard, hard + 5.0 + draw.standard_normal(50))
    better, same, missing, also_missing = comparison_findings(
        report(ours=ours, theirs=theirs),
        "ours",
        ("theirs", "absent"),
        "ahead of {other}: {measure}",
    )
    assert better.verdict == "holds"
    assert better.claim == "ahead of theirs: MCC (mulan)"
    assert better.difference is not None
    assert better.difference.mean == pytest.approx(0.01, abs=0.001)
    assert same.claim == "ahead of theirs: KLD"
    assert same.verdict == "undecided"
    assert missing.verdict == also_missing.verdict == "not measured"
    (worse, _) = comparison_findings(
        report(ours=theirs, theirs=ours), "ours", ("theirs",), "{other}"
    )
    assert worse.verdict == "does not hold"
    with pytest.raises(DataError, match="no row 'nobody'"):
        comparison_findings(report(ours=ours), "nobody", (), "")


def fad(value: float, spread: tuple[float, ...]) -> dict[str, FadEstimate]:
    return {"musicnn": FadEstimate(value, None, None, 600, 600, spread)}


def test_fad_findings_pair_resamples_and_name_what_is_missing():
    noise = tuple(np.random.default_rng(0).standard_normal(50).tolist())
    nothing = row(np.zeros(50), np.zeros(50))
    ours = replace(nothing, fad=fad(1.0, noise))
    theirs = replace(nothing, fad=fad(1.5, tuple(value + 0.5 for value in noise)))
    better, missing = fad_findings(
        report(ours=ours, theirs=theirs), "ours", ("theirs", "absent"), "{other}: {measure}"
    )
    assert (better.claim, better.verdict) == ("theirs: FAD (musicnn)", "holds")
    assert missing.verdict == "not measured"
    few = replace(report(ours=nothing, theirs=nothing), too_few_windows={"musicnn": "18 windows"})
    (told,) = fad_findings(few, "ours", ("theirs",), "{other}: {measure}")
    assert (told.verdict, told.measure) == ("not measured", "18 windows")


def test_listening_findings_follow_the_sign_of_the_preference():
    pairs = (
        PairResult("retrieval", "musiclm", 2, 20, 3, Interval(-0.9, -1.2, -0.5), 0.001),
        PairResult("musiclm", "real", 12, 11, 2, Interval(0.1, -0.3, 0.4), 1.0),
    )
    study = StudyResult("ab", 5, 0, 50, (), pairs)
    liked, absent, real = listening_findings(study, "musiclm", ("retrieval", "other"), "real")
    assert liked.verdict == "holds"
    assert liked.difference == Interval(0.9, 0.5, 1.2)
    assert (absent.verdict, absent.measure) == ("not measured", "not in the study")
    assert real.verdict == "undecided"
    assert real.difference == Interval(-0.1, -0.4, 0.3)
    nobody = listening_findings(None, "musiclm", ("retrieval",), "real")
    assert [(found.verdict, found.measure) for found in nobody] == [
        ("not measured", "no study")
    ] * 2


def curve(shares: list[int], count: int) -> tuple[MemorizationPoint, ...]:
    return tuple(
        MemorizationPoint(
            25 * number,
            proportion_interval(0, count),
            proportion_interval(share, count),
            1.0,
            4.0,
            None,
        )
        for number, share in enumerate(shares)
    )


def test_memorization_findings_say_what_the_curves_show():
    found = MemorizationReport(
        {"training": curve([2, 10, 40], 200), "held out": curve([1, 2, 3], 200)},
        {"training": 200, "held out": 200},
        Threshold(1.0, 100_000, 9),
        0.0,
    )
    rise, apart, exact, dull = memorization_findings(found)
    assert rise.verdict == apart.verdict == "holds"
    assert rise.difference is not None
    assert rise.difference.mean == pytest.approx(0.19)
    assert dull.verdict == "not measured"  # no example matched
    assert exact.verdict == "undecided"  # none of 200 does not show less than 0.2 %
    assert [finding.verdict for finding in memorization_findings(None)] == ["not measured"] * 4


def test_dull_continuations_are_told_in_the_findings_and_in_the_report():
    """Greedy music that holds one token matches nothing, which proves nothing."""
    dull = tuple(
        replace(point, entropy_bits=0.01, truth_entropy_bits=4.25) for point in curve([0, 0], 200)
    )
    found = MemorizationReport(
        {"training": dull, "held out": dull},
        {"training": 200, "held out": 200},
        Threshold(1.0, 100_000, 9),
        0.004,
    )
    assert found.is_dull
    assert found.bits == pytest.approx((0.01, 4.25))
    for finding in memorization_findings(found):
        assert finding.verdict in ("undecided", "not measured")
        assert finding.measure.endswith("continuations of 0.01 bits, music of 4.25")
    section = memorization_section(found)
    assert "0.01 on average where the music has 4.25" in section.text
    assert "Read this with care" in section.text
    assert "--temperature 1" in section.text
    assert "at most 0.4% above exact transport" in section.text
    assert section.grid is not None
    assert section.grid.rows[0][5:] == ("0.01", "-", "4.25")
    lively = tuple(replace(point, entropy_bits=4.0) for point in dull)
    told = memorization_section(replace(found, curves={"training": lively}))
    assert "Read this with care" not in told.text
    assert "--temperature 1" in told.text


def test_share_differences_agree_with_newcombe():
    """Newcombe 1998, Table II: 56/70 - 48/80 is 0.2 [0.0524, 0.3339]."""
    difference = share_difference(proportion_interval(56, 70), proportion_interval(48, 80))
    assert difference.mean == pytest.approx(0.2)
    assert difference.low == pytest.approx(0.0524, abs=1e-4)
    assert difference.high == pytest.approx(0.3339, abs=1e-4)


def test_wilson_agrees_with_the_textbook_and_is_sensible_at_the_ends():
    """Newcombe 1998: 81 of 263 is 0.308 [0.2553, 0.3662]; 0 of 20 is at most 0.1611."""
    share = proportion_interval(81, 263)
    assert (share.low, share.high) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    none = proportion_interval(0, 20)
    assert (none.mean, none.low) == (0, 0)
    assert none.high == pytest.approx(0.1611, abs=1e-4)
    assert proportion_interval(20, 20).high == 1
    with pytest.raises(DataError, match="3 of 2"):
        proportion_interval(3, 2)
