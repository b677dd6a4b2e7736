"""The melody embedder: audio to a contour of pitch classes, and to embeddings blind to timbre.

MusicLM, Section 6 and Appendix C: an embedding that is the same for one melody in any voice. Here a
small network that is equivariant in pitch: what it learns in one key it knows in all, so minutes
of training do. Axes: `frames` at 25 Hz; `pitches`, keys; `bins`, thirds of keys.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from musiclm.conditioning.interval_profile import NUM_FEATURES, window_profiles
from musiclm.conditioning.log_frequency import (
    BINS_PER_SEMITONE,
    LogFrequency,
    LogFrequencyConfig,
)
from musiclm.core.config import Config

# Bins above the fundamental at which harmonics 1/2, 1, 2, 3, 4, 5 and 6 lie.
_HARMONIC_BINS = (-36, 0, 36, 57, 72, 84, 93)
_HIGHEST_HARMONIC_BINS = 36


class MelodyEmbedderConfig(Config):
    """Sizes of the embedder."""

    front_end: LogFrequencyConfig = LogFrequencyConfig()
    """Its spectrogram."""
    channels: int = Field(default=24, gt=0)
    """Width of the layers that find the sounding key."""
    num_blocks: int = Field(default=4, ge=0, le=6)
    """Those layers."""
    embedding_dim: int = Field(default=192, gt=0)
    """Width of an embedding (Appendix C)."""
    window_seconds: float = Field(default=4.0, gt=0)
    """Audio behind one embedding (Appendix C)."""

    @property
    def num_pitches(self) -> int:
        """Keys that can be told; the top ones of the front end serve as their harmonics only."""
        return self.front_end.num_semitones - _HIGHEST_HARMONIC_BINS // BINS_PER_SEMITONE


@dataclass(frozen=True)
class MelodyHearing:
    """What is heard, frame by frame.

    Attributes:
        pitch_logits: Of each key and, last, of no melody.
        onset_logits: That a note begins.
    """

    pitch_logits: Float[Tensor, "batch pitches frames"]
    onset_logits: Float[Tensor, "batch frames"]

    def contour(self) -> Float[Tensor, "batch 14 frames"]:
        """Square roots of the shares of the 12 pitch classes (C first) and of silence; the onset.

        The octave is folded away: a low voice may lead a flute.
        """
        shares = self.pitch_logits.float().softmax(dim=1)
        folded = shares[:, :-1].unflatten(1, (-1, 12)).sum(dim=1)
        onset = self.onset_logits.float().sigmoid()[:, None]
        return torch.cat([(folded + 1e-6).sqrt(), (shares[:, -1:] + 1e-6).sqrt(), onset], dim=1)


class _Block(nn.Module):
    """A residual layer: every key looks at its neighbours or octaves, now and at other times."""

    def __init__(self, channels: int, dilation: tuple[int, int]) -> None:
        super().__init__()
        pitches, frames = dilation
        self.norm = nn.GroupNorm(1, channels)
        self.look = nn.Conv2d(
            channels, channels, (3, 5), padding=(pitches, 2 * frames), dilation=dilation
        )
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(
        self, x: Float[Tensor, "batch channels pitches frames"]
    ) -> Float[Tensor, "batch channels pitches frames"]:
        normed = self.norm(x)
        if self.look.dilation[0] > 1:
            # oneDNN (PyTorch 2.13) reads past the end of such an input if its channels are last and
            # bfloat16: the weights' gradient is not a number, or the process ends.
            normed = normed.contiguous()
        return x + self.mix(functional.gelu(self.look(normed)))


_DILATIONS = ((1, 1), (12, 1), (1, 3), (12, 3), (1, 9), (12, 9))


class MelodyEmbedder(nn.Module):
    """Hears the predominant melody and embeds passages of it."""

    def __init__(self, config: MelodyEmbedderConfig) -> None:
        super().__init__()
        self.config = config
        width = config.channels
        self.front_end = LogFrequency(config.front_end)
        self.stem = nn.Conv2d(len(_HARMONIC_BINS), width // 2, (5, 3), padding=(2, 1))
        self.to_keys = nn.Conv2d(width // 2, width, (3, 1), stride=(BINS_PER_SEMITONE, 1))
        self.blocks = nn.ModuleList(
            _Block(width, dilation) for dilation in _DILATIONS[: config.num_blocks]
        )
        self.pitch_out = nn.Linear(width, 1)
        self.silence_out = nn.Linear(2 * width, 1)
        self.onset_out = nn.Linear(2 * width, 1)
        self.profile_mean: Tensor
        self.register_buffer("profile_mean", torch.zeros(NUM_FEATURES))
        self.window_out = nn.Linear(NUM_FEATURES, config.embedding_dim, bias=False)

    @property
    def sample_rate_hz(self) -> int:
        """Rate of the audio it reads."""
        return self.config.front_end.sample_rate_hz

    def hear(self, samples: Float[Tensor, "batch samples"]) -> MelodyHearing:
        """The melody's key and onsets in each frame."""
        x = self._harmonics(self.front_end(samples))
        x = functional.gelu(self.stem(x))
        x = functional.gelu(self.to_keys(x))
        for block in self.blocks:
            x = block(x)
        x = x.permute(0, 3, 2, 1)  # batch frames pitches channels
        pitch = self.pitch_out(x)[..., 0]
        pooled = torch.cat([x.amax(dim=2), x.mean(dim=2)], dim=-1)
        logits = torch.cat([pitch, self.silence_out(pooled)], dim=2).transpose(1, 2)
        return MelodyHearing(logits, self.onset_out(pooled)[..., 0])

    def embed_windows(
        self,
        contour: Float[Tensor, "batch 14 frames"],
        starts: Int[Tensor, "batch windows"],
    ) -> Float[Tensor, "batch windows dim"]:
        """Unit vectors of the windows that begin at the given frames; the same in every key."""
        with torch.autocast(contour.device.type, enabled=False):
            profiles = window_profiles(contour.float(), starts, self.num_window_frames)
            embedded = self.window_out(profiles - self.profile_mean)
        return functional.normalize(embedded, dim=-1)

    @property
    def num_window_frames(self) -> int:
        """Frames behind one embedding."""
        return round(self.config.window_seconds * self.config.front_end.frame_rate_hz)

    @torch.no_grad()
    def embed(
        self, samples: Float[Tensor, "1 samples"], *, stride_seconds: float = 0.5
    ) -> Float[Tensor, "windows dim"]:
        """Embeddings of all windows of one clip; one at least."""
        contour = self.hear(samples).contour()
        rate = self.config.front_end.frame_rate_hz
        last = max(contour.shape[2] - self.num_window_frames, 0)
        stride = max(round(stride_seconds * rate), 1)
        starts = torch.arange(0, last + 1, stride, device=contour.device)[None]
        return self.embed_windows(contour, starts)[0]

    @torch.no_grad()
    def set_directions(
        self, mean: Float[Tensor, " features"], directions: Float[Tensor, "directions features"]
    ) -> None:
        """Starts the embedding with linear discriminants of profiles; missing ones are zero."""
        self.profile_mean.copy_(mean)
        self.window_out.weight.zero_()
        self.window_out.weight[: len(directions)].copy_(directions)

    def _harmonics(
        self, spectrum: Float[Tensor, "batch bins frames"]
    ) -> Float[Tensor, "batch harmonics low_bins frames"]:
        """The spectrum beside itself, shifted so that a note's harmonics lie over one another."""
        low, high = -min(_HARMONIC_BINS), max(_HARMONIC_BINS)
        count = self.config.num_pitches * BINS_PER_SEMITONE
        padded = functional.pad(spectrum, (0, 0, low, high))
        # Channels last in memory: the convolutions that follow take a third less time on a CPU.
        stacked = torch.stack(
            [padded[:, low + shift : low + shift + count] for shift in _HARMONIC_BINS], dim=-1
        )
        return rearrange(stacked, "batch bins frames harmonics -> batch harmonics bins frames")


def triplet_loss(
    embeddings: Float[Tensor, "rows dim"],
    groups: Int[Tensor, " rows"],
    melodies: Int[Tensor, " rows"],
    margin: float = 0.2,
) -> Float[Tensor, ""]:
    """The semi-hard triplet loss (FaceNet, Section 3.2; MusicLM, Appendix C).

    For every pair of one group, the negative is the nearest row of another melody that is still
    farther than the positive; where there is none, the farthest.

    Args:
        embeddings: Unit vectors.
        groups: Rows of one group are versions of one passage.
        melodies: Rows of one melody are never negatives of each other.
        margin: By how much a negative should be farther (squared distance).
    """
    distances = 2 - 2 * embeddings @ embeddings.T
    is_other = melodies[:, None] != melodies[None]
    own = torch.eye(len(groups), dtype=torch.bool, device=groups.device)
    anchors, positives = ((groups[:, None] == groups[None]) & ~own).nonzero(as_tuple=True)
    near = distances[anchors, positives]
    to_others = distances[anchors]
    with torch.no_grad():
        usable = is_other[anchors]
        is_semi_hard = usable & (to_others > near[:, None])
        hard = to_others.masked_fill(~is_semi_hard, torch.inf).argmin(dim=1)
        easy = to_others.masked_fill(~usable, -torch.inf).argmax(dim=1)
        chosen = torch.where(is_semi_hard.any(dim=1), hard, easy)
    far = to_others.gather(1, chosen[:, None])[:, 0]
    return functional.relu(near - far + margin).mean()
