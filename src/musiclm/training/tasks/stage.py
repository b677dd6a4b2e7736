"""StageTask: trains one stage's language model on crops of tokens."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from musiclm.core.config import Config
from musiclm.core.errors import ConfigError
from musiclm.stages.codebook_start import Codebooks, start_from_codebooks
from musiclm.stages.language_model import Codes, StageConfig, StageModel
from musiclm.training.task import Batch, LossOutput, OptimizerConfig, StepContext, Task

ConditioningTokenizer = Callable[
    [Float[Tensor, "batch dim"]], Int[Tensor, "batch quantizers frames"]
]
TextTokenizer = Callable[[list[str]], Int[Tensor, "batch quantizers frames"]]


class StageTaskConfig(Config):
    """A stage and how it is trained."""

    stage: StageConfig
    """The model."""
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=3e-4, weight_decay=0.01)
    """MusicLM states no optimizer."""
    optional_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Chance that a sample's optional segments (conditioning) are absent; guidance needs some."""
    caption_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the crops of captioned clips that are conditioned on the MuLan tokens of a caption
    instead of those of the audio; MusicLM's 0 needs no captions."""


class StageTask(Task):
    """Next-token cross-entropy on `{"semantic", "acoustic", "embedding"}` batches.

    `semantic` is `[batch 1 frames]`, `acoustic` is `[batch levels frames]` with coarse and fine
    levels together, `embedding` is `[batch dim]`, the MuLan embedding of the crop's audio. Only
    what the layout reads has to be there; any other segment's codes are found by its name. With a
    `caption_share`, training batches hold `texts` too, empty where a clip has no caption.

    Args:
        config: The stage and its optimizer.
        conditioning: Turns embeddings into conditioning codes; needed by layouts that read them.
        text_conditioning: Turns captions into conditioning codes; a `caption_share` needs it.
        generator: Draws the first weights; the default generator when there is none.

    Raises:
        ConfigError: The layout reads conditioning tokens and there is nothing to make them of.
    """

    def __init__(
        self,
        config: StageTaskConfig,
        conditioning: ConditioningTokenizer | None = None,
        *,
        text_conditioning: TextTokenizer | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        names = [segment.name for segment in config.stage.layout.segments]
        if "conditioning" in names and conditioning is None:
            raise ConfigError(
                f"The {config.stage.layout.name} stage reads conditioning tokens: give the task "
                "the conditioning tokenizer that makes them from MuLan embeddings."
            )
        if "conditioning" in names and config.caption_share and text_conditioning is None:
            raise ConfigError(
                f"caption_share is {config.caption_share}: give the task the tokenizer of texts, "
                "or set it to 0."
            )
        self.config = config
        self._conditioning = conditioning
        self._text_conditioning = text_conditioning
        self._model = StageModel(config.stage, generator=generator)

    @property
    def model(self) -> nn.Module:
        """The StageModel."""
        return self._model

    @property
    def optimizers(self) -> Mapping[str, tuple[OptimizerConfig, list[nn.Parameter]]]:
        """One optimizer for everything."""
        return {"stage": (self.config.optimizer, list(self._model.parameters()))}

    def start_from_codebooks(
        self, codebooks: Mapping[str, Codebooks], generator: torch.Generator
    ) -> None:
        """See `stages.codebook_start`; a resumed run reads its own weights back."""
        start_from_codebooks(self._model, codebooks, generator=generator)

    def loss(self, optimizer_name: str, batch: Batch, context: StepContext) -> LossOutput:
        """Cross-entropy in nats a token, and that of each level beside it."""
        del optimizer_name
        codes = self._with_captions(self.codes(batch), batch, context.generator)
        codes = self._drop_optional(codes, context.generator)
        output = self._model.loss(codes)
        metrics = {
            f"level_{level}_nats": value
            for level, value in enumerate(output.level_losses.unbind(0), start=1)
        }
        return LossOutput(output.loss, {"nats_per_token": output.loss.detach(), **metrics})

    def validation_metrics(self, batch: Batch) -> Mapping[str, float]:
        """Cross-entropy beside the unigram entropy of the same tokens, in all and by level.

        `loss_without_conditioning` is the same with the optional segments absent, when the
        model has learned to do without them: the gap is what conditioning tells.
        """
        codes = self.codes(batch)
        target = self.config.stage.layout.target
        output = self._model.loss(codes)
        entropies = unigram_entropy(codes[target.name], target.spec.codebook_size)
        figures = {
            "loss": float(output.loss),
            "unigram_nats": float(entropies.mean()),
        }
        for level, (loss, entropy) in enumerate(
            zip(output.level_losses.tolist(), entropies.tolist(), strict=True), start=1
        ):
            figures[f"level_{level}_nats"] = loss
            figures[f"level_{level}_unigram_nats"] = entropy
        if self.config.optional_dropout:
            without = self._model.loss(self._without_optional(codes))
            figures["loss_without_conditioning"] = float(without.loss)
        return figures

    def codes(self, batch: Batch) -> dict[str, Codes]:
        """The codes of each segment of the layout, cut out of a batch.

        Raises:
            ConfigError: The batch lacks something the layout reads.
        """
        codes: dict[str, Codes] = {}
        num_coarse = 0
        for segment in self.config.stage.layout.segments:
            levels = segment.spec.num_quantizers
            key = _BATCH_KEYS.get(segment.name, segment.name)
            if key not in batch:
                raise ConfigError(
                    f"The {self.config.stage.layout.name} stage needs {key!r} in its batches; "
                    f"there is {', '.join(batch) or 'nothing'}."
                )
            if segment.name == "conditioning":
                assert self._conditioning is not None
                with torch.no_grad():
                    codes[segment.name] = self._conditioning(batch[key])[:, :levels]
            elif segment.name == "coarse":
                num_coarse = levels
                codes[segment.name] = batch[key][:, :levels]
            elif segment.name == "fine":
                codes[segment.name] = batch[key][:, num_coarse : num_coarse + levels]
            else:
                codes[segment.name] = batch[key]
        return codes

    def _with_captions(
        self, codes: dict[str, Codes], batch: Batch, generator: torch.Generator
    ) -> dict[str, Codes]:
        """Puts the codes of captions in the place of those of the audio, for some crops."""
        if self._text_conditioning is None or "conditioning" not in codes:
            return codes
        heard = codes["conditioning"]
        draws = torch.rand(heard.shape[0], generator=generator) < self.config.caption_share
        rows = [row for row, text in enumerate(batch["texts"]) if text and draws[row]]
        if not rows:
            return codes
        with torch.no_grad():
            told = self._text_conditioning([batch["texts"][row] for row in rows])
        mixed = heard.clone()
        mixed[rows] = told[:, : heard.shape[1]].to(heard)
        return {**codes, "conditioning": mixed}

    def _drop_optional(
        self, codes: Mapping[str, Codes], generator: torch.Generator
    ) -> Mapping[str, Codes]:
        if not self.config.optional_dropout:
            return codes
        batch_size = codes[self.config.stage.layout.target.name].shape[0]
        is_dropped = torch.rand(batch_size, generator=generator) < self.config.optional_dropout
        without = self._without_optional(codes)
        return {
            name: torch.where(is_dropped.to(value.device)[:, None, None], without[name], value)
            for name, value in codes.items()
        }

    def _without_optional(self, codes: Mapping[str, Codes]) -> dict[str, Codes]:
        return {
            segment.name: torch.full_like(codes[segment.name], segment.absent_code)
            if segment.is_optional
            else codes[segment.name]
            for segment in self.config.stage.layout.segments
        }


_BATCH_KEYS = {"conditioning": "embedding", "coarse": "acoustic", "fine": "acoustic"}


def unigram_entropy(
    codes: Int[Tensor, "batch quantizers frames"], codebook_size: int
) -> Float[Tensor, " quantizers"]:
    """Entropy of each level's code frequencies in nats: what a model without context pays at best.

    The frequencies are those of the very tokens given, so on few tokens it is an underestimate.
    Absent codes (`codebook_size`) do not count.
    """
    entropies: list[Tensor] = []
    for level in range(codes.shape[1]):
        flat = codes[:, level].reshape(-1)
        counts = torch.bincount(flat[flat != codebook_size], minlength=codebook_size).float()
        frequencies = counts / counts.sum().clamp(min=1)
        entropies.append(-torch.xlogy(frequencies, frequencies).sum())
    return torch.stack(entropies)
