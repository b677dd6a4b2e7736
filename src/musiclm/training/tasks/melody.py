"""The melody task: hear the notes, and put versions of one passage close together."""

from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from musiclm.conditioning.interval_profile import discriminants, window_profiles
from musiclm.conditioning.melody import (
    MelodyEmbedder,
    MelodyEmbedderConfig,
    MelodyHearing,
    triplet_loss,
)
from musiclm.core.config import Config
from musiclm.training.task import Batch, LossOutput, OptimizerConfig, StepContext, Task


class MelodyTaskConfig(Config):
    """The embedder and its losses."""

    embedder: MelodyEmbedderConfig = MelodyEmbedderConfig()
    """The model."""
    margin: float = Field(default=0.2, gt=0)
    """Of the triplets; FaceNet's (MusicLM states none)."""
    note_weight: float = Field(default=1.0, ge=0)
    """Of the cross-entropy of the sounding key: the corpus knows its notes, and a short run that
    is told them need not find out from triplets what a pitch is."""
    onset_weight: float = Field(default=0.5, ge=0)
    """Of the onsets' cross-entropy."""
    optimizer: OptimizerConfig = OptimizerConfig(
        learning_rate=3e-3, betas=(0.9, 0.98), weight_decay=0.01, warmup_steps=20
    )
    """MusicLM states none."""


class MelodyTask(Task):
    """Batches of `MelodySource`: the sounding rows are heard, all rows are embedded."""

    def __init__(self, config: MelodyTaskConfig) -> None:
        self.config = config
        self._model = MelodyEmbedder(config.embedder)

    @torch.no_grad()
    def start_windows(self, batches: Iterable[Batch]) -> None:
        """Starts the embedding of windows in closed form, from written versions of passages.

        Args:
            batches: Of `MelodySource.written_batch`; some thousand rows in all.
        """
        profiles: list[Tensor] = []
        passages: list[Tensor] = []
        num_passages = 0
        for batch in batches:
            first = window_profiles(
                _roll_contour(batch), batch["windows"][:, :1], self._model.num_window_frames
            )
            profiles.append(first[:, 0])
            passages.append(batch["melodies"] + num_passages)
            num_passages += int(batch["melodies"].max()) + 1
        dim = min(self.config.embedder.embedding_dim, num_passages - 1)
        mean, directions = discriminants(torch.cat(profiles), torch.cat(passages), dim)
        self._model.set_directions(mean, directions)

    @property
    def model(self) -> nn.Module:
        """The embedder."""
        return self._model

    @property
    def optimizers(self) -> Mapping[str, tuple[OptimizerConfig, list[nn.Parameter]]]:
        """One optimizer for everything."""
        return {"melody": (self.config.optimizer, list(self._model.parameters()))}

    def loss(self, optimizer_name: str, batch: Batch, context: StepContext) -> LossOutput:
        """Triplets, notes and onsets."""
        del optimizer_name, context
        return self._losses(batch)

    def validation_metrics(self, batch: Batch) -> Mapping[str, float]:
        """The losses; share of frames with the right pitch class; retrieval in the batch."""
        output = self._losses(batch)
        return {"loss": float(output.loss)} | {
            name: float(value) for name, value in output.metrics.items()
        }

    def _losses(self, batch: Batch) -> LossOutput:
        config = self.config
        hearing = self._model.hear(batch["samples"])
        targets = self._targets(batch["pitches"])
        notes = functional.cross_entropy(hearing.pitch_logits.float(), targets)
        onset = functional.binary_cross_entropy_with_logits(
            hearing.onset_logits.float(),
            _widened(batch["onsets"]),
            pos_weight=hearing.onset_logits.new_tensor(2.0),
        )
        contours = torch.cat([hearing.contour(), _roll_contour(batch)])
        embedded = self._model.embed_windows(contours, batch["windows"])
        melodies = batch["melodies"][:, None].expand(-1, embedded.shape[1])
        groups = melodies * embedded.shape[1] + torch.arange(
            embedded.shape[1], device=melodies.device
        )
        triplets = triplet_loss(
            embedded.flatten(0, 1), groups.flatten(), melodies.flatten(), config.margin
        )
        loss = triplets + config.note_weight * notes + config.onset_weight * onset
        num_sounding = len(batch["samples"])
        metrics: dict[str, Tensor | float] = {
            "triplets": triplets.detach(),
            "notes_nats": notes.detach(),
            "onsets_nats": onset.detach(),
            "pitch_class_accuracy": _pitch_class_accuracy(hearing, targets),
            "recall_at_1": _recall(embedded[:num_sounding, 0].detach(), batch["melodies"]),
        }
        return LossOutput(loss, metrics)

    def _targets(self, pitches: Tensor) -> Tensor:
        """Keys as classes; those out of range moved by octaves; the last class for no note."""
        low = self.config.embedder.front_end.low_pitch
        count = self.config.embedder.num_pitches
        classes = pitches - low
        classes = torch.where(classes < 0, classes % 12, classes)
        classes = torch.where(classes >= count, classes % 12 + count - 12, classes)
        return torch.where(pitches < 0, count, classes)


def _roll_contour(batch: Batch) -> Float[Tensor, "rows 14 frames"]:
    rolls: Tensor = batch["rolls"]
    silence = (1 - rolls.sum(dim=1, keepdim=True)).clamp(min=0)
    onset = _widened(batch["roll_onsets"])[:, None]
    return torch.cat([(rolls + 1e-6).sqrt(), (silence + 1e-6).sqrt(), onset], dim=1)


def _widened(onsets: Float[Tensor, "rows frames"]) -> Float[Tensor, "rows frames"]:
    """Onsets that reach half into the frames beside them: no performance is exact to a frame."""
    beside = functional.max_pool1d(onsets[:, None], 3, stride=1, padding=1)[:, 0]
    return torch.maximum(onsets, 0.5 * beside)


def _pitch_class_accuracy(hearing: MelodyHearing, targets: Tensor) -> Tensor:
    """Share of the frames with a note whose pitch class is the likeliest key's."""
    is_note = targets < hearing.pitch_logits.shape[1] - 1
    heard = hearing.pitch_logits[:, :-1].argmax(dim=1)
    return ((heard - targets) % 12 == 0)[is_note].float().mean()


def _recall(embedded: Tensor, melodies: Tensor) -> Tensor:
    """Share of sounding rows whose nearest other row is the same melody."""
    scores = embedded @ embedded.T
    scores.fill_diagonal_(-2)
    own = melodies[: len(embedded)]
    return (own[scores.argmax(dim=1)] == own).float().mean()
