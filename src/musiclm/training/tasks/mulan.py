"""The MuLan task: both towers by contrast, the warm-started text layers at a lower rate."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from musiclm.conditioning.mulan import JointSpace, collapsed_loss, contrastive_loss
from musiclm.core.config import Config
from musiclm.training.diagnostics import Alarm
from musiclm.training.task import Batch, LossOutput, OptimizerConfig, StepContext, Task


class MuLanTaskConfig(Config):
    """How MuLan is trained."""

    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-3, betas=(0.9, 0.98))
    """For the audio tower, the text projection and the temperature."""
    text_optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-4, betas=(0.9, 0.98))
    """For the text layers that were trained before."""
    num_frozen_text_layers: int = Field(default=0, ge=0)
    """Lowest text layers that stay as they are, together with the embeddings below them: words
    that no caption has then keep their meaning beside those that some have. 0 trains all."""
    text_rest_fraction: float = Field(default=0.0, ge=0, le=1)
    """For this part of the run all warm-started text layers rest, and every caption is read only
    once: the audio tower starts from noise, and should not drag the text tower there."""
    use_bf16: bool = False
    """bfloat16 autocast in the towers on every device: twice as fast on CPUs that have it."""


class MuLanTask(Task):
    """Batches of what is heard and `texts` (`data/pairs.py`) through both towers.

    One forward pass serves two optimizers. The first loss reaches everything but the warm-started
    text layers; the second one reaches those alone, through the text projection as it was before
    its update. Both are taken at the same point, so the gradients are those of one joint loss.
    """

    def __init__(
        self, mulan: JointSpace, config: MuLanTaskConfig, *, heard: str = "log_mel"
    ) -> None:
        """Takes the towers; `heard` is the name, in a batch, of what the audio side reads."""
        self.config = config
        self._heard = heard
        self._mulan = mulan
        self._alarm = Alarm("MuLan collapse", patience=50)
        self._last_ratio = torch.zeros(())
        self._read_texts: dict[str, Tensor] = {}
        tower = mulan.text_tower
        if config.num_frozen_text_layers:
            frozen = [tower.piece_embedding, tower.position_embedding, tower.norm]
            for module in [*frozen, *tower.layers[: config.num_frozen_text_layers]]:
                module.requires_grad_(False)

    @property
    def model(self) -> nn.Module:
        """MuLan, or another joint space."""
        return self._mulan

    @property
    def optimizers(self) -> Mapping[str, tuple[OptimizerConfig, list[nn.Parameter]]]:
        """`new` for what starts at random, then `text` for what was trained before."""
        warm = [p for p in self._mulan.text_tower.pretrained_parameters() if p.requires_grad]
        known = {id(parameter) for parameter in self._mulan.text_tower.pretrained_parameters()}
        new = [p for p in self._mulan.parameters() if id(p) not in known]
        groups = {"new": (self.config.optimizer, new)}
        if warm:
            groups["text"] = (self.config.text_optimizer, warm)
        return groups

    def loss(self, optimizer_name: str, batch: Batch, context: StepContext) -> LossOutput:
        """The contrastive loss; the forward pass is shared between the optimizers."""
        scratch = context.scratch
        if optimizer_name == "text":
            loss = contrastive_loss(scratch["audio"], scratch["text"], scratch["temperature"])
            return LossOutput(loss, {})
        mulan = self._mulan
        heard: Tensor = batch[self._heard]
        with torch.autocast(heard.device.type, torch.bfloat16, self._is_bf16()):
            audio = mulan.embed_heard(heard, generator=context.generator)
            if context.progress < self.config.text_rest_fraction:
                pooled = self._pooled_at_rest(batch["texts"])
            else:
                self._read_texts.clear()
                pooled = mulan.text_tower.pool_texts(batch["texts"])
            text = mulan.text_tower.project(pooled.detach())
        temperature = mulan.temperature
        loss = contrastive_loss(audio, text, temperature)
        scratch["audio"], scratch["temperature"] = audio.detach(), temperature.detach()
        if pooled.requires_grad:
            projection = mulan.text_tower.projection
            before = {name: w.detach().clone() for name, w in projection.named_parameters()}
            projected = functional_call(projection, before, (pooled,))
            scratch["text"] = functional.normalize(projected.float(), dim=-1)
        else:
            scratch["text"] = text.detach()
        metrics: dict[str, Tensor | float] = _batch_recalls(audio.detach(), text.detach())
        self._last_ratio = loss.detach() / collapsed_loss(len(audio))
        metrics |= {"collapse_ratio": self._last_ratio, "temperature": temperature.detach()}
        return LossOutput(loss, metrics)

    @torch.no_grad()
    def _pooled_at_rest(self, texts: list[str]) -> Tensor:
        """Pooled texts of layers that rest: without dropout, each text read once."""
        tower = self._mulan.text_tower
        new = [text for text in dict.fromkeys(texts) if text not in self._read_texts]
        if new:
            was_training = tower.training
            tower.eval()
            self._read_texts.update(zip(new, tower.pool_texts(new), strict=True))
            tower.train(was_training)
        return torch.stack([self._read_texts[text] for text in texts])

    def after_step(self, context: StepContext) -> Mapping[str, float]:
        """Rings when the loss stays at the value of embeddings that are all alike."""
        if context.step % 10 == 0 and context.step >= self.config.optimizer.warmup_steps:
            ratio = float(self._last_ratio)
            self._alarm.check(
                ratio > 0.98,
                f"loss is {ratio:.3f} of a collapsed one; lower the learning rate, check captions.",
            )
        return {}

    def validation_metrics(self, batch: Batch) -> Mapping[str, float]:
        """Loss, retrieval in the batch, and the cosine of right pairs beyond wrong ones."""
        mulan = self._mulan
        audio = mulan.embed_heard(batch[self._heard])
        text = mulan.text_tower.embed(batch["texts"])
        scores = text @ audio.T
        own = scores.diagonal().mean()
        others = (scores.sum() - scores.diagonal().sum()) / max(scores.numel() - len(scores), 1)
        loss = contrastive_loss(audio, text, mulan.temperature)
        recalls = {name: float(value) for name, value in _batch_recalls(audio, text).items()}
        gain = {"similarity_gain": float(own - others)}
        return {"loss": float(loss), "temperature": float(mulan.temperature)} | recalls | gain

    def _is_bf16(self) -> bool:
        # Where the loop has switched autocast on already, this must not switch it off.
        device = self._mulan.log_temperature.device.type
        return self.config.use_bf16 or torch.is_autocast_enabled(device)


def _batch_recalls(
    audio: Float[Tensor, "batch dim"], text: Float[Tensor, "batch dim"]
) -> dict[str, Tensor | float]:
    """Share of texts whose audio is the closest, and among the ten closest, in this batch."""
    scores = text @ audio.T
    places = (scores >= scores.diagonal()[:, None]).sum(dim=1)
    return {
        "recall_at_1": (places <= 1).float().mean(),
        "recall_at_10": (places <= 10).float().mean(),
    }
