"""Embedders: what turns a clip into the rows of numbers that FAD compares, by name.

Conventions: an embedder takes a clip at any rate and gives `[windows, dim]`, one row a window of
audio. MusicNN: 200-d, windows of 3 s side by side. MuLan: 128-d, windows of 10 s, one a second.
Codec: the encoder's latents, averaged over windows of 1 s every 0.5 s. Everything that reads a
user's own weights (`vggish.py`, `pretrained_judges.py`) has VGGish's windows: 1 s every 0.5 s
(Kilgour et al. 2019; their public code). FAD values of different embedders do not compare.
"""

import hashlib
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from musiclm.audio.waveform import Waveform
from musiclm.codec.soundstream import SoundStream
from musiclm.conditioning.mulan import MuLan
from musiclm.core.errors import AudioError
from musiclm.evaluation.musicnn import MusicNN

WINDOW_SECONDS = 1.0
STEP_SECONDS = 0.5


@runtime_checkable
class Embedder(Protocol):
    """A named way from audio to embeddings."""

    @property
    def name(self) -> str:
        """As in reports, such as `musicnn`."""
        ...

    @property
    def identity(self) -> str:
        """A hash of all that decides its output, for caches."""
        ...

    def embed(self, waveform: Waveform) -> Float[Tensor, "windows dim"]:
        """Embeddings of a clip's windows, on the CPU.

        Raises:
            AudioError: The clip is shorter than a window.
        """
        ...


class MusicNNEmbedder:
    """The penultimate layer of MusicNN: the offline default, and none of our own training."""

    name = "musicnn"

    def __init__(self, model: MusicNN) -> None:
        self._model = model
        self.identity = module_identity(model)

    def embed(self, waveform: Waveform) -> Float[Tensor, "windows dim"]:
        """200-d rows, one a window of 3 s."""
        return self._model.analyse(waveform).embeddings


class MuLanEmbedder:
    """MuLan's audio tower. A 10-s clip is one window, so 129 clips are the least for FAD."""

    name = "mulan"

    def __init__(self, mulan: MuLan) -> None:
        self._mulan = mulan
        self._device = next(mulan.parameters()).device
        self.identity = module_identity(mulan.audio_tower)

    @torch.no_grad()
    def embed(self, waveform: Waveform) -> Float[Tensor, "windows dim"]:
        """Unit vectors, one a second in which a window of 10 s starts."""
        samples = waveform.resampled(self._mulan.sample_rate_hz).samples.to(self._device)
        return self._mulan.embed_windows(samples[None])[0].float().cpu()


class CodecEmbedder:
    """The codec's latents before quantization: hears what the codec keeps, and nothing else."""

    name = "codec"

    def __init__(self, codec: SoundStream) -> None:
        self._codec = codec
        self._device = next(codec.parameters()).device
        self.identity = module_identity(codec.encoder)

    @torch.no_grad()
    def embed(self, waveform: Waveform) -> Float[Tensor, "windows dim"]:
        """The mean latent of each second, every half second."""
        samples = waveform.resampled(self._codec.sample_rate_hz).samples.to(self._device)
        latents = self._codec.encoder(samples[None])[0].T.float().cpu()
        rate = self._codec.token_spec.frame_rate_hz
        windows = sliding_windows(latents, round(WINDOW_SECONDS * rate), round(STEP_SECONDS * rate))
        return windows.mean(dim=1)


def sliding_windows(
    rows: Float[Tensor, "frames ..."], length: int, step: int
) -> Float[Tensor, "windows length ..."]:
    """All whole windows of consecutive rows (samples or frames).

    Raises:
        AudioError: There are fewer rows than one window has.
    """
    if rows.shape[0] < length:
        raise AudioError(
            f"A clip of {rows.shape[0]} frames is shorter than a window of {length}; "
            f"give clips of {WINDOW_SECONDS:g} s or more."
        )
    starts = range(0, rows.shape[0] - length + 1, step)
    return torch.stack([rows[start : start + length] for start in starts])


def vggish_windows(waveform: Waveform, sample_rate_hz: int) -> Float[Tensor, "windows samples"]:
    """Windows of 1 s every 0.5 s of a clip whose quiet level is raised by at most 20 dB.

    Raises:
        AudioError: The clip is shorter than a second.
    """
    samples = waveform.resampled(sample_rate_hz).samples.float().cpu()
    samples = samples / max(0.1, float(samples.max()) if samples.numel() else 0.1)
    length, step = round(WINDOW_SECONDS * sample_rate_hz), round(STEP_SECONDS * sample_rate_hz)
    return sliding_windows(samples, length, step)


def module_identity(module: nn.Module) -> str:
    """A hash of a module's weights and of the names they have."""
    digest = hashlib.sha256(type(module).__name__.encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
