"""Reports in words: the rows of Table 1, adherence, memorization and findings as grids."""

from collections.abc import Mapping, Sequence

from musiclm.evaluation.distances import Interval
from musiclm.evaluation.document import Grid
from musiclm.evaluation.findings import Finding
from musiclm.evaluation.listening.results import StudyResult
from musiclm.evaluation.memorization import MemorizationReport
from musiclm.evaluation.suite import EvaluationReport
from musiclm.evaluation.token_information import InformationReport


def scores_grid(
    report: EvaluationReport,
    study: StudyResult | None = None,
    conditions: Mapping[str, str] | None = None,
) -> Grid:
    """The paper's Table 1: a line a row; FAD by embedder, KLD, similarity by joint space, wins.

    Args:
        report: The figures.
        study: What listeners said.
        conditions: The study's name of a row, where it has another one.
    """
    embedders = list(dict.fromkeys(n for row in report.rows.values() for n in row.fad))
    without = list(report.too_few_windows)
    spaces = list(dict.fromkeys(n for row in report.rows.values() for n in row.similarity))
    header = ["row"]
    for name in embedders:
        header += [f"FAD {name}", f"FAD-inf {name}"]
    header += [f"FAD {name}" for name in without]
    header.append(f"KLD {report.class_judge}")
    for name in spaces:
        header += [
            f"MCC {name}, right / shuffled",
            f"MCC {name}, right - shuffled",
            f"R@1 / R@10 {name}",
        ]
    header.append(
        "MUSHRA [95 %]" if study is not None and study.kind == "mushra" else "wins [95 %]"
    )
    rows: list[tuple[str, ...]] = []
    for name, row in report.rows.items():
        cells = [name]
        for embedder in embedders:
            fad = row.fad.get(embedder)
            if fad is None:
                cells += ["too few windows", "-"]
            else:
                cells += [_number(fad.fad), _number(fad.fad_infinity)]
        cells += ["too few windows"] * len(without)
        cells.append("-" if row.kld is None else _interval(row.kld))
        for space in spaces:
            similarity, found = row.similarity[space], row.retrieval[space]
            cells += [
                f"{similarity.right:.3f} / {similarity.shuffled:.3f}",
                _interval(similarity.difference),
                f"{found.recall_at_1.value:.1%} / {found.recall_at_10.value:.1%}",
            ]
        cells.append(_listened(name, study, conditions or {}))
        rows.append(tuple(cells))
    if report.shuffled_kld is not None:
        shuffled = ["other captions' real audio"] + ["-"] * (len(header) - 1)
        shuffled[1 + 2 * len(embedders) + len(without)] = _interval(report.shuffled_kld)
        rows.append(tuple(shuffled))
    return Grid(tuple(header), tuple(rows))


def _listened(row: str, study: StudyResult | None, conditions: Mapping[str, str]) -> str:
    """Wins of a row, or its mean score."""
    if study is None:
        return "no study"
    for found in study.conditions:
        if found.condition == conditions.get(row, row):
            score = found.score
            if study.kind == "mushra":
                return f"{score.mean:.1f} [{score.low:.1f}, {score.high:.1f}]"
            return (
                f"{found.num_wins} of {found.num_trials} "
                f"({score.mean:.0%} [{score.low:.0%}, {score.high:.0%}])"
            )
    return "-"


def adherence_grid(report: EvaluationReport) -> Grid:
    """What was asked and is heard: a line a row and attribute."""
    rows: list[tuple[str, ...]] = []
    for name, row in report.rows.items():
        for attribute, score in row.adherence.items():
            rows.append(
                (
                    name,
                    attribute.replace("_", " "),
                    str(score.num_clips),
                    f"{score.rate:.1%}",
                    f"{score.chance:.1%}",
                    _interval(score.gain),
                )
            )
        if row.instruments is not None:
            lead = row.instruments
            cells = (str(lead.num_clips), f"{lead.rate:.1%}", f"{lead.chance:.1%}", "-")
            rows.append((name, "lead instrument", *cells))
    return Grid(("row", "attribute", "clips asked", "heard", "chance", "gain [95 %]"), tuple(rows))


def memorization_grid(report: MemorizationReport) -> Grid:
    """The curves: a line a point."""
    rows = [
        (
            f"{name} ({report.num_examples[name]})",
            str(point.prompt_frames),
            _share(point.exact),
            _share(point.approximate),
            _number(point.mean_cost),
            f"{point.entropy_bits:.2f}",
            "-" if point.match_entropy_bits is None else f"{point.match_entropy_bits:.2f}",
            f"{point.truth_entropy_bits:.2f}",
        )
        for name, points in report.curves.items()
        for point in points
    ]
    header = (
        "examples", "tokens given", "exact", "approximate", "mean cost", "bits", "bits of matches",
        "bits of the truth",
    )  # fmt: skip
    return Grid(header, tuple(rows))


def information_grid(report: InformationReport) -> Grid:
    """What shared semantic tokens keep: a line a measure."""
    rows = [
        (
            name,
            f"{report.same_semantic[name]:.3f}",
            f"{report.same_caption[name]:.3f}",
            _interval(report.difference[name]),
        )
        for name in report.difference
    ]
    return Grid(("similarity", "same semantic tokens", "same caption", "difference"), tuple(rows))


def findings_grid(findings: Sequence[Finding]) -> Grid:
    """Claims and whether they hold."""
    rows = [
        (
            finding.claim,
            finding.verdict,
            "-" if finding.difference is None else _interval(finding.difference),
            finding.measure or "-",
        )
        for finding in findings
    ]
    return Grid(("the paper's finding", "here", "difference [95 %]", "measured as"), tuple(rows))


def _interval(interval: Interval) -> str:
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _share(interval: Interval) -> str:
    return f"{interval.mean:.1%} [{interval.low:.1%}, {interval.high:.1%}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
