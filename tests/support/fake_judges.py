"""Small stand-ins for the models that judge audio: they hear pitch and know the word for it."""

import torch
from torch import Tensor

from musiclm.audio.waveform import Waveform
from musiclm.evaluation.musicnn import MusicNNOutput
from musiclm.evaluation.musicnn_tags import MTT_TAGS

PITCH_OF_LEAD_HZ = {"flute": 1760.0, "violin": 880.0, "piano": 440.0, "cello": 110.0}


def tone(lead: str, seconds: float, loudness: float = 0.3) -> Waveform:
    times = torch.arange(round(seconds * 8_000)) / 8_000
    return Waveform(loudness * torch.sin(2 * torch.pi * PITCH_OF_LEAD_HZ[lead] * times), 8_000)


def heard_lead(waveform: Waveform) -> str:
    crossings = (waveform.samples[1:] * waveform.samples[:-1] < 0).sum().item()
    pitch_hz = crossings / 2 / waveform.duration_seconds
    return min(PITCH_OF_LEAD_HZ, key=lambda lead: abs(PITCH_OF_LEAD_HZ[lead] - pitch_hz))


class FakeTagger:
    """Two-dimensional embeddings (loudness, brightness) of one-second windows."""

    tags = MTT_TAGS

    def analyse(self, waveform: Waveform) -> MusicNNOutput:
        rate = waveform.sample_rate_hz
        windows = waveform.samples[: waveform.num_samples // rate * rate].reshape(-1, rate)
        loudness = windows.square().mean(dim=1).sqrt()
        brightness = (windows[:, 1:] * windows[:, :-1] < 0).float().mean(dim=1)
        logits = torch.zeros(len(windows), len(MTT_TAGS))
        logits[:, MTT_TAGS.index(heard_lead(waveform))] = 3.0
        embeddings = torch.stack([loudness, brightness], dim=1)
        return MusicNNOutput(logits, embeddings, embeddings)


class FakeMuLan:
    """Texts and tones meet where the text names the instrument that the tone stands for."""

    sample_rate_hz = 8_000

    def embed_text(self, texts: list[str]) -> Tensor:
        return torch.stack(
            [self._vector(next(lead for lead in PITCH_OF_LEAD_HZ if lead in t)) for t in texts]
        )

    def embed_audio(self, samples: Tensor) -> Tensor:
        return torch.stack(
            [self._vector(heard_lead(Waveform(row, self.sample_rate_hz))) for row in samples]
        )

    def _vector(self, lead: str) -> Tensor:
        return torch.eye(len(PITCH_OF_LEAD_HZ))[list(PITCH_OF_LEAD_HZ).index(lead)]
