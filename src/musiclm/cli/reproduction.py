"""What `musiclm reproduce` found, and how it is told: sections, findings, examples."""

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from musiclm.audio.waveform import Waveform
from musiclm.evaluation.curves import memorization_picture
from musiclm.evaluation.document import Document, Example, Section
from musiclm.evaluation.findings import Finding, comparison_findings, memorization_findings
from musiclm.evaluation.memorization import MemorizationReport
from musiclm.evaluation.pictures import log_mel_picture
from musiclm.evaluation.plan import EvaluationPlan
from musiclm.evaluation.suite import EvaluationReport
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
            )
            for measure, difference in self.information.difference.items()
        ]
        return (
            *comparison_findings(
                self.scores,
                "musiclm",
                (*BASELINES, *measured),
                "MusicLM is ahead of {other} on {measure}",
            ),
            *comparison_findings(
                self.scores, "musiclm", (ABLATION,), "The semantic stage improves {measure}"
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
            "not hold when it lies below, and is undecided in between.",
            findings_grid(result.findings),
        ),
        Section(
            "Table 1, in miniature",
            f"{scores.num_clips} held-out captions, clips of {scores.clip_seconds:g} s. "
            + _TABLE_TEXT,
            scores_grid(scores),
        ),
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
    if (found := result.memorization) is None:
        sections.append(Section("Memorization", f"Not measured. {result.why_no_memorization}"))
    else:
        sections.append(
            Section(
                "Memorization",
                "Greedy continuations of training music after T of its semantic tokens. An "
                f"approximate match costs less than {found.threshold.cost:.3g}, as "
                f"{found.threshold.num_false_positives} of {found.threshold.num_negatives} wrong "
                "pairs do. Held-out music is the control.",
                memorization_grid(found),
                memorization_picture(found),
                "memorization.png",
            )
        )
    sections.append(Section("Listen", examples=tuple(_examples(result, clips))))
    return Document(
        f"MusicLM's evaluation on {result.model_name}",
        f"Model {result.model_name} ({result.model_sha256[:12]}), seed {scores.seed}. "
        "Made by `musiclm reproduce`; every figure is in report.json.",
        tuple(sections),
    )


def _examples(
    result: Reproduction, clips: Mapping[str, Callable[[], Iterable[Waveform]]]
) -> Iterable[Example]:
    first = {name: list(itertools.islice(read(), _NUM_EXAMPLES)) for name, read in clips.items()}
    for number, asked in enumerate(result.plan.asked[:_NUM_EXAMPLES]):
        heard = {name: made[number] for name, made in first.items()}
        yield Example(asked.prompt, heard, log_mel_picture(heard, num_columns=3))
