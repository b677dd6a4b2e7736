"""Waveform: samples and their rate as one value; reading, writing, resampling, loudness."""

import errno
import math
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyloudnorm
import soundfile
import soxr
import torch
from jaxtyping import Float
from torch import Tensor

from musiclm.core.errors import AudioError
from musiclm.core.files import written_whole

_MAX_SECONDS = 6 * 3600
_MAX_SAMPLE = 1e6  # far above 16-bit integers stored as floats; beyond it the file is broken


@dataclass(frozen=True)
class Waveform:
    """Mono audio in [-1, 1].

    Attributes:
        samples: Float32, one axis.
        sample_rate_hz: Samples per second.
    """

    samples: Float[Tensor, " samples"]
    sample_rate_hz: int

    def __post_init__(self) -> None:
        if self.samples.ndim != 1:
            raise AudioError(f"A Waveform is mono; got shape {list(self.samples.shape)}.")
        if not 1_000 <= self.sample_rate_hz <= 768_000:
            raise AudioError(
                f"Sample rate {self.sample_rate_hz} Hz; 1,000 to 768,000 Hz is allowed."
            )

    @property
    def num_samples(self) -> int:
        """Number of samples."""
        return self.samples.shape[0]

    @property
    def duration_seconds(self) -> float:
        """Length in seconds."""
        return self.num_samples / self.sample_rate_hz

    @classmethod
    def read(
        cls,
        path: Path | str,
        *,
        sample_rate_hz: int | None = None,
        start_seconds: float = 0.0,
        duration_seconds: float | None = None,
    ) -> "Waveform":
        """Reads a file, mixes it to mono and resamples it when a rate is given.

        Raises:
            AudioError: The file is missing, unreadable, empty, holds NaN, infinite or absurd
                samples, or the piece asked for is not in it.
        """
        path = Path(path)
        _check_piece(start_seconds, duration_seconds)
        try:
            if not path.is_file():
                raise AudioError(f"No audio file at {path}. Check the name.")
            with soundfile.SoundFile(path) as file:
                rate = file.samplerate
                file.seek(min(int(start_seconds * rate), max(file.frames, 0)))
                frames = -1 if duration_seconds is None else math.ceil(duration_seconds * rate)
                if file.frames > _MAX_SECONDS * rate:
                    raise AudioError(
                        f"{path} is longer than {_MAX_SECONDS // 3600} h. Cut it first."
                    )
                data = file.read(frames, dtype="float32", always_2d=True)
        except (soundfile.LibsndfileError, OSError, TypeError, ValueError) as error:
            # A headerless .raw file is the TypeError: soundfile wants its rate as an argument.
            raise AudioError(
                f"Cannot read {path} as audio ({error}). Give WAV, FLAC, OGG or MP3."
            ) from error
        if data.shape[0] == 0:
            where = f" from {start_seconds:g} s on" if start_seconds else ""
            raise AudioError(f"{path} holds no audio{where} (0 samples). Give a longer file.")
        if not np.abs(data).max() < _MAX_SAMPLE:
            raise AudioError(f"{path} holds NaN, infinite or absurd samples. Export it again.")
        waveform = cls(torch.from_numpy(np.ascontiguousarray(data.mean(axis=1))), rate)
        return waveform if sample_rate_hz is None else waveform.resampled(sample_rate_hz)

    def write(self, path: Path | str) -> None:
        """Writes 16-bit audio, whole or not at all; the suffix chooses WAV, FLAC or OGG.

        Raises:
            AudioError: The suffix is unknown or the samples are not finite.
            MusicLMError: The disk refuses the file.
        """
        path = Path(path)
        if path.suffix.lower() not in (".wav", ".flac", ".ogg"):
            raise AudioError(f"Cannot write {path.name}: use a .wav, .flac or .ogg name.")
        if not bool(torch.isfinite(self.samples).all()):
            raise AudioError("The audio holds NaN or infinite samples; it was not written.")
        data = self.samples.detach().clamp(-1, 1).cpu().numpy()
        subtype = None if path.suffix.lower() == ".ogg" else "PCM_16"
        with written_whole(path) as temporary, _disk_errors():
            soundfile.write(temporary, data, self.sample_rate_hz, subtype=subtype)

    def resampled(self, sample_rate_hz: int) -> "Waveform":
        """The same audio at another rate (soxr, high quality).

        Raises:
            AudioError: Nothing is left: the audio is shorter than one sample of the new rate.
        """
        if sample_rate_hz == self.sample_rate_hz:
            return self
        data = soxr.resample(self.samples.cpu().numpy(), self.sample_rate_hz, sample_rate_hz)
        if data.shape[0] == 0:
            raise AudioError(
                f"{self.num_samples} samples at {self.sample_rate_hz} Hz are less than one at "
                f"{sample_rate_hz} Hz. Give longer audio."
            )
        return Waveform(torch.from_numpy(np.ascontiguousarray(data)), sample_rate_hz)

    def crop(self, start_samples: int, num_samples: int) -> "Waveform":
        """A piece of the waveform, padded with zeros at the end when it is too short."""
        piece = self.samples[start_samples : start_samples + num_samples]
        missing = num_samples - piece.shape[0]
        return Waveform(torch.nn.functional.pad(piece, (0, missing)), self.sample_rate_hz)

    def peak_normalised(self, peak: float = 0.97) -> "Waveform":
        """Scaled down so that no sample exceeds `peak`; quiet audio is left as it is."""
        largest = float(self.samples.abs().max()) if self.num_samples else 0.0
        scale = min(1.0, peak / largest) if largest > 0 else 1.0
        return Waveform(self.samples * scale, self.sample_rate_hz)

    def loudness_normalised(self, loudness_lufs: float = -16.0) -> "Waveform":
        """Scaled to an integrated loudness (BS.1770), then kept below clipping.

        Silence, and audio shorter than the 0.4 s that the measure needs, only lose their peaks.
        """
        if self.duration_seconds < 0.4:
            return self.peak_normalised()
        meter = pyloudnorm.Meter(self.sample_rate_hz)
        loudness = float(meter.integrated_loudness(self.samples.double().cpu().numpy()))
        if not math.isfinite(loudness):
            return self.peak_normalised()
        gain = 10 ** ((loudness_lufs - loudness) / 20)
        return Waveform(self.samples * gain, self.sample_rate_hz).peak_normalised()


def _check_piece(start_seconds: float, duration_seconds: float | None) -> None:
    if not 0 <= start_seconds < math.inf:
        raise AudioError(f"The piece starts at {start_seconds} s; give 0 or a later second.")
    if duration_seconds is not None and not 0 < duration_seconds < math.inf:
        raise AudioError(f"The piece is {duration_seconds} s long; give more than 0 s.")


@contextmanager
def _disk_errors() -> Generator[None, None, None]:
    """Libsndfile reports a full disk as its own error; hand it on as the system's."""
    try:
        yield
    except soundfile.LibsndfileError as error:
        raise OSError(errno.ENOSPC, str(error).rstrip(". ")) from error
