"""What `musiclm reproduce` found, and how it is told: sections, findings, examples."""

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from musiclm.audio.waveform import Waveform
from musiclm.cli.reproduction_study import REAL
from musiclm.evaluation.curves import memorization_picture
from musiclm.evaluation.document import Document, Example, Grid, Section
from musiclm.evaluation.findings import (
    LEAST_PAIRS,
    Finding,
    comparison_findings,
    fad_findings,
    listening_findings,
    memorization_findings,
)
from musiclm.evaluation.listening.results import StudyResult
from musiclm.evaluation.memorization import MemorizationReport
from musiclm.evaluation.pictures import log_mel_picture
from musiclm.evaluation.plan import EvaluationPlan
from musiclm.evaluation.suite import FLOOR, EvaluationReport
from musiclm.evaluation.tables import (
    adherence_grid,
    findings_grid,
    information_grid,
    memorization_grid,
    scores_grid,
)
from musiclm.evaluation.token_information import InformationReport

BASELINES = ("retrieval", "spectrogram diffusion")
ABLATION = "no semantic stage"
HOW_TO_ADD = {
    "spectrogram diffusion": "musiclm train-baseline CORPUS --run-folder RUN; then "
    "--systems.diffusion RUN/last.safetensors",
    ABLATION: "musiclm train coarse-only-stage TOKENS --model MODEL --run-folder RUN; then "
    "--systems.coarse-only RUN/last.safetensors",
    "riffusion": "its published weights: --systems.riffusion FOLDER",
}
_NUM_EXAMPLES = 6
_TABLE_TEXT = (
    "FAD is against as many other held-out pieces, by embedding; FAD-inf extrapolates to endless "
    "audio. KLD is KL(real || made) over the softmax of class logits, in nats. MCC is the cosine "
    "of caption and clip. Intervals are 95 %, by bootstrap over clips. `other real pieces` is the "
    "audio that the captions describe: the floor of FAD. The conditioning space favours MusicLM, "
    "which is conditioned by it. No figure compares with the paper's, whose judges differ."
)


@dataclass(frozen=True)
class Reproduction:
    """All that was measured."""

    model_name: str
    model_sha256: str
    plan: EvaluationPlan
    scores: EvaluationReport
    information: InformationReport
    memorization: MemorizationReport | None
    why_no_memorization: str = ""
    study: StudyResult | None = None
    num_asked: int = 0
    """Captions that were asked for; the corpus may have had fewer."""

    @property
    def absent(self) -> tuple[str, ...]:
        """Systems that could be compared and were not given."""
        return tuple(name for name in HOW_TO_ADD if name not in self.scores.rows)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The paper's statements, in its order."""
        measured = [name for name in self.scores.rows if name == "riffusion"]
        information = [
            Finding(
                f"Music that shares semantic tokens keeps the {measure}",
                f"{measure} similarity, same semantic tokens - same caption, "
                f"{self.information.num_captions} captions",
                difference,
                self.information.num_captions,
            )
            for measure, difference in self.information.difference.items()
        ]
        others, ahead = (*BASELINES, *measured), "MusicLM is ahead of {other} on {measure}"
        return (
            *fad_findings(self.scores, "musiclm", others, ahead),
            *comparison_findings(self.scores, "musiclm", others, ahead),
            *listening_findings(self.study, "musiclm", others, REAL),
            *comparison_findings(
                self.scores, "musiclm", (ABLATION,), "The semantic stage improves {measure}"
            ),
            Finding(
                "The semantic stage improves long-term structure",
                "the paper's authors listened; there is no measure of it here",
                None,
            ),
            *memorization_findings(self.memorization),
            *information,
        )


def document_of(
    result: Reproduction, clips: Mapping[str, Callable[[], Iterable[Waveform]]]
) -> Document:
    """The report, with the first captions to listen to."""
    scores = result.scores
    sections = [
        Section(
            "Findings",
            "A finding holds when the whole 95 % interval of its difference lies above zero, does "
            "not hold when it lies below, and is undecided in between, or over fewer than "
            f"{LEAST_PAIRS} pairs." + _unheard_text(scores),
            findings_grid(result.findings),
        ),
        Section(
            "Table 1, in miniature",
            _captions_text(result) + _TABLE_TEXT + _fad_text(scores),
            scores_grid(scores, result.study, {FLOOR: REAL}),
        ),
        *_absent_section(result),
        Section(
            "What was asked, and is heard",
            "Over the captions that say so in words; chance is the same request against the other "
            "clips. The real audio's row is the ceiling of each measure.",
            adherence_grid(scores),
        ),
        Section(
            "What semantic tokens carry",
            "Pairs of clips that share conditioning and semantic tokens, beside pairs that share "
            "the caption only.",
            information_grid(result.information),
        ),
    ]
    if result.memorization is None:
        sections.append(Section("Memorization", f"Not measured. {result.why_no_memorization}"))
    else:
        sections.append(memorization_section(result.memorization))
    sections.append(Section("Listen", examples=tuple(_examples(result, clips))))
    return Document(
        f"MusicLM's evaluation on {result.model_name}",
        f"Model {result.model_name} ({result.model_sha256[:12]}), seed {scores.seed}. "
        "Made by `musiclm reproduce`; every figure is in report.json.",
        tuple(sections),
    )


def _captions_text(result: Reproduction) -> str:
    count, scores = result.scores.num_clips, result.scores
    fewer = ""
    if count < result.num_asked:
        fewer = f" ({result.num_asked} were asked for; the test split has no more on both sides)"
    return f"{count} held-out captions{fewer}, clips of {scores.clip_seconds:g} s. "


def _unheard_text(scores: EvaluationReport) -> str:
    """Which systems do not listen to captions: to be ahead of those is no feat."""
    deaf = [
        name
        for name in (*BASELINES, ABLATION)
        if (row := scores.rows.get(name)) is not None
        and row.similarity
        and all(space.difference.low <= 0 for space in row.similarity.values())
    ]
    if not deaf:
        return ""
    return (
        f" Read with care what is said of {', '.join(deaf)}: right captions suit its clips no "
        "better than shuffled ones (MCC, right - shuffled, is not above zero in any space), so it "
        "has not learned to follow them."
    )


def _fad_text(scores: EvaluationReport) -> str:
    lacks = "; ".join(f"{name}: {why}" for name, why in scores.too_few_windows.items())
    return f" Too few windows for FAD ({lacks}): give more captions." if lacks else ""


def memorization_section(found: MemorizationReport) -> Section:
    """The curves, how a match was defined, and a warning where greedy music can match nothing."""
    made, true = found.bits
    text = (
        "Greedy continuations of training music after T of its semantic tokens. An approximate "
        f"match costs less than {found.threshold.cost:.3g}, as "
        f"{found.threshold.num_false_positives} of {found.threshold.num_negatives} wrong pairs do; "
        f"costs are Sinkhorn's, at most {found.sinkhorn_excess:.1%} above exact transport where "
        "both were computed. Held-out music is the control. Bits are the entropy of a "
        f"continuation's own tokens: {made:.2f} on average where the music has {true:.2f}. "
        "`musiclm evaluate memorization --temperature 1` asks the same with drawn continuations."
    )
    if found.is_dull:
        text += (
            "\n\nRead this with care: a stage that, always taking the likeliest token, stays on "
            "the same few can hardly match anything, so few matches do not show that little is "
            "remembered. Look at drawn continuations too."
        )
    return Section(
        "Memorization",
        text,
        memorization_grid(found),
        memorization_picture(found),
        "memorization.png",
    )


def _absent_section(result: Reproduction) -> list[Section]:
    if not result.absent:
        return []
    rows = tuple((name, HOW_TO_ADD[name]) for name in result.absent)
    return [
        Section(
            "Not compared",
            "These systems were not given. What is said of them above is not measured; made and "
            "given, they join the clips that are there.",
            Grid(("system", "how to add it"), rows),
        )
    ]


def _examples(
    result: Reproduction, clips: Mapping[str, Callable[[], Iterable[Waveform]]]
) -> Iterable[Example]:
    first = {name: list(itertools.islice(read(), _NUM_EXAMPLES)) for name, read in clips.items()}
    for number, asked in enumerate(result.plan.asked[:_NUM_EXAMPLES]):
        heard = {name: made[number] for name, made in first.items()}
        yield Example(asked.prompt, heard, log_mel_picture(heard, num_columns=3))
