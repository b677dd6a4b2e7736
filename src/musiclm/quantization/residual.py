"""Vector quantization with EMA codebooks, and its residual stack (SoundStream, Section III-C).

Everything here runs in float32 whatever the autocast mode: the residuals of the last levels are
smaller than the rounding of half precision. Legend: `vectors` are `[num, dim]` rows, `latents` are
`[batch, dim, frames]`, `codes` are `[batch, quantizers, frames]`.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from musiclm.core.config import Config
from musiclm.core.errors import ConfigError


class QuantizerConfig(Config):
    """A residual stack of vector quantizers."""

    num_quantizers: int = Field(default=12, gt=0)
    """Levels."""
    codebook_size: int = Field(default=1024, gt=1)
    """Entries of each codebook."""
    codebook_dim: int = Field(default=128, gt=0)
    """Width of the vectors."""
    decay: float = Field(default=0.99, gt=0, lt=1)
    """Of the moving averages of counts and of code vectors."""
    dead_fraction: float = Field(default=0.1, ge=0, lt=1)
    """A code is dead when its average count falls below this fraction of an even share."""
    dropout_probability: float = Field(default=1.0, ge=0, le=1)
    """Share of training examples that use `n ~ U{1..num_quantizers}` levels instead of all."""
    kmeans_iterations: int = Field(default=10, ge=0)
    """Lloyd iterations when codebooks are initialised."""


@dataclass(frozen=True)
class QuantizerOutput:
    """What a residual quantizer makes of a batch.

    Attributes:
        quantized: The sum of the chosen vectors of the levels in use, straight-through.
        codes: Indices of all levels, also of those an example left out.
        commitment_loss: Squared distance of each residual to its (fixed) code vector, averaged over
            batch, frames and dims, summed over the levels in use.
        perplexity: `exp(entropy)` of the codes used in this batch, by level.
    """

    quantized: Float[Tensor, "batch dim frames"]
    codes: Int[Tensor, "batch quantizers frames"]
    commitment_loss: Float[Tensor, ""]
    perplexity: Float[Tensor, " quantizers"]


class VectorQuantizer(nn.Module):
    """One codebook, learned as a moving average of the vectors that choose its entries."""

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__()
        self.config = config
        self.codebook: Tensor
        self.cluster_size: Tensor
        self.initialised: Tensor
        size, dim = config.codebook_size, config.codebook_dim
        self.register_buffer("codebook", torch.zeros(size, dim))
        self.register_buffer("cluster_size", torch.ones(size))
        self.register_buffer("initialised", torch.tensor(False))

    @torch.no_grad()
    def nearest(self, vectors: Float[Tensor, "num dim"]) -> Int[Tensor, " num"]:
        """The index of the closest code of each vector."""
        return _nearest(vectors.float(), self.codebook)

    def embed(self, codes: Int[Tensor, "*any"]) -> Float[Tensor, "*any dim"]:
        """The code vectors of indices."""
        return functional.embedding(codes, self.codebook)

    @torch.no_grad()
    def initialise(self, vectors: Float[Tensor, "num dim"], generator: torch.Generator) -> None:
        """Sets the codebook to the k-means centres of `vectors`.

        With fewer vectors than codes, the missing codes are copies with a little noise, which the
        restart of dead codes soon replaces.
        """
        vectors = vectors.float()
        size = self.config.codebook_size
        order = torch.randperm(len(vectors), generator=generator).to(vectors.device)
        centres = vectors[order[:size]].clone()
        if len(vectors) > size:
            for _ in range(self.config.kmeans_iterations):
                counts, sums = _count(vectors, _nearest(vectors, centres), size)
                filled = counts > 0
                centres[filled] = sums[filled] / counts[filled, None]
        missing = size - len(centres)
        if missing:
            noise = torch.randn(missing, vectors.shape[1], generator=generator).to(vectors.device)
            spread = vectors.std(dim=0, correction=0).mean()
            extra = vectors[_draw(len(vectors), missing, generator).to(vectors.device)]
            centres = torch.cat([centres, extra + 0.1 * spread * noise])
        self.codebook.copy_(centres)
        self.cluster_size.fill_(len(vectors) / size)
        self.initialised.fill_(True)

    @torch.no_grad()
    def update(
        self,
        vectors: Float[Tensor, "num dim"],
        codes: Int[Tensor, " num"],
        generator: torch.Generator,
    ) -> None:
        """Moves the codebook towards the vectors that chose it and restarts dead codes.

        `codebook += (1 - decay) (sum - count * codebook) / cluster_size` equals the usual pair of
        moving averages (sums over counts) and needs one buffer less.
        """
        if not len(vectors):
            return
        vectors = vectors.float()
        decay = self.config.decay
        counts, sums = _count(vectors, codes, self.config.codebook_size)
        self.cluster_size.mul_(decay).add_(counts, alpha=1 - decay)
        step = (1 - decay) / self.cluster_size.clamp(min=1e-6)
        self.codebook.add_((sums - counts[:, None] * self.codebook) * step[:, None])
        share = self.cluster_size.mean()
        dead = self.cluster_size < self.config.dead_fraction * share
        num_dead = int(dead.sum())
        if num_dead:
            chosen = _draw(len(vectors), num_dead, generator).to(vectors.device)
            self.codebook[dead] = vectors[chosen]
            self.cluster_size[dead] = share

    def usage_perplexity(self) -> float:
        """`exp(entropy)` of the moving average of code usage; at most `codebook_size`."""
        return float(_perplexity(self.cluster_size))


class ResidualVectorQuantizer(nn.Module):
    """A stack of quantizers, each of which codes what the ones before left over (Algorithm 1)."""

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__()
        self.config = config
        self.levels = nn.ModuleList(VectorQuantizer(config) for _ in range(config.num_quantizers))

    @property
    def quantizers(self) -> list[VectorQuantizer]:
        """The levels, coarsest first."""
        return [level for level in self.levels if isinstance(level, VectorQuantizer)]

    @property
    def codebooks(self) -> Float[Tensor, "levels entries dim"]:
        """The vectors of every level, coarsest first."""
        return torch.stack([level.codebook for level in self.quantizers])

    def forward(
        self,
        latents: Float[Tensor, "batch dim frames"],
        num_levels: Int[Tensor, " batch"] | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> QuantizerOutput:
        """Quantizes a batch; in training mode also learns the codebooks from it.

        Args:
            latents: What to quantize.
            num_levels: Levels each example uses; by default drawn in training mode (quantizer
                dropout) and all of them otherwise.
            generator: Source of every draw (dropout, first batch, restarts).

        Raises:
            ConfigError: There is no generator in training mode.
        """
        if self.training and generator is None:
            raise ConfigError("A quantizer in training mode draws numbers: pass a generator.")
        batch, _, frames = latents.shape
        if num_levels is None:
            num_levels = self._drawn_levels(batch, generator if self.training else None)
        num_levels = num_levels.to(latents.device)
        with torch.autocast(latents.device.type, enabled=False):
            inputs = rearrange(latents.float(), "batch dim frames -> (batch frames) dim")
            residual = inputs
            total = torch.zeros_like(inputs)
            commitment = inputs.new_zeros(())
            all_codes: list[Tensor] = []
            perplexities: list[Tensor] = []
            for index, level in enumerate(self.quantizers):
                used = (num_levels > index).repeat_interleave(frames)
                if self.training and generator is not None and not bool(level.initialised):
                    level.initialise(residual.detach(), generator)
                codes = level.nearest(residual)
                vectors = level.embed(codes)
                if self.training and generator is not None:
                    level.update(residual.detach()[used], codes[used], generator)
                distance = (residual - vectors.detach()).square().mean(dim=1)
                commitment = commitment + (distance * used).mean()
                total = total + vectors * used[:, None]
                residual = residual - vectors.detach()
                all_codes.append(codes)
                perplexities.append(_perplexity(torch.bincount(codes[used]).float()))
            straight = inputs + (total - inputs).detach()
        return QuantizerOutput(
            rearrange(straight, "(batch frames) dim -> batch dim frames", batch=batch),
            rearrange(
                torch.stack(all_codes), "levels (batch frames) -> batch levels frames", batch=batch
            ),
            commitment,
            torch.stack(perplexities),
        )

    @torch.no_grad()
    def initialise(
        self, latents: Float[Tensor, "batch dim frames"], generator: torch.Generator
    ) -> None:
        """Sets every codebook to the k-means centres of its residual, from many latents at once."""
        residual = rearrange(latents.float(), "batch dim frames -> (batch frames) dim")
        for level in self.quantizers:
            level.initialise(residual, generator)
            residual = residual - level.embed(level.nearest(residual))

    @torch.no_grad()
    def encode(
        self, latents: Float[Tensor, "batch dim frames"], num_levels: int | None = None
    ) -> Int[Tensor, "batch quantizers frames"]:
        """Codes of the first `num_levels` levels (all by default).

        Raises:
            ConfigError: There are not that many levels.
        """
        count = self._checked_levels(num_levels)
        with torch.autocast(latents.device.type, enabled=False):
            residual = rearrange(latents.float(), "batch dim frames -> (batch frames) dim")
            all_codes: list[Tensor] = []
            for level in self.quantizers[:count]:
                codes = level.nearest(residual)
                residual = residual - level.embed(codes)
                all_codes.append(codes)
        return rearrange(
            torch.stack(all_codes),
            "levels (batch frames) -> batch levels frames",
            batch=len(latents),
        )

    def decode(
        self, codes: Int[Tensor, "batch quantizers frames"]
    ) -> Float[Tensor, "batch dim frames"]:
        """The sum of the code vectors of the first levels, as many as `codes` holds.

        Raises:
            ConfigError: There are more levels than quantizers.
        """
        count = self._checked_levels(codes.shape[1])
        total = self.quantizers[0].embed(codes[:, 0])
        for index in range(1, count):
            total = total + self.quantizers[index].embed(codes[:, index])
        return rearrange(total, "batch frames dim -> batch dim frames")

    def usage_perplexity(self) -> list[float]:
        """The moving-average perplexity of each codebook, coarsest first."""
        return [level.usage_perplexity() for level in self.quantizers]

    def _drawn_levels(self, batch: int, generator: torch.Generator | None) -> Tensor:
        count = self.config.num_quantizers
        if generator is None:
            return torch.full((batch,), count)
        drawn = torch.randint(1, count + 1, (batch,), generator=generator)
        is_dropped = torch.rand(batch, generator=generator) < self.config.dropout_probability
        return torch.where(is_dropped, drawn, count)

    def _checked_levels(self, num_levels: int | None) -> int:
        count = self.config.num_quantizers if num_levels is None else num_levels
        if not 1 <= count <= self.config.num_quantizers:
            raise ConfigError(
                f"{count} levels were asked for; this quantizer has 1 to "
                f"{self.config.num_quantizers}."
            )
        return count


def _nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    distance = codebook.square().sum(dim=1) - 2 * vectors @ codebook.T
    return distance.argmin(dim=1)


def _count(vectors: Tensor, codes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """How many vectors chose each code, and their sums."""
    counts = torch.bincount(codes, minlength=size).to(vectors.dtype)
    sums = vectors.new_zeros(size, vectors.shape[1]).index_add_(0, codes, vectors)
    return counts, sums


def _draw(num_choices: int, num_draws: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, num_choices, (num_draws,), generator=generator)


def _perplexity(counts: Tensor) -> Tensor:
    share = counts / counts.sum().clamp(min=1e-9)
    return torch.exp(-(share * share.clamp(min=1e-12).log()).sum())
