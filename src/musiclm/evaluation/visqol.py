"""ViSQOL: a full-reference estimate of heard quality, through the optional `visqol-python` package.

Conventions: audio mode, which compares at 48 kHz; both signals are resampled to that. The score is
a mean opinion score from 1 to 5; identical audio scores about 4.73, never 5 (the support vector
regression saturates there, in Google's program as in this port). The port scores 12 of Google's 12
conformance files within 0.0024 by its authors' account, audio mode within 0.0002.

Reference: Chinen et al. 2020, "ViSQOL v3"; SoundStream (Zeghidour 2021, Sec. IV-C) selects with it.
"""

import importlib
import math
from typing import Any

import numpy as np

from musiclm.audio.waveform import Waveform
from musiclm.core.errors import AudioError, DependencyError

VISQOL_SAMPLE_RATE_HZ = 48_000
_MIN_SECONDS = 1.0


class Visqol:
    """Scores degraded audio against its original; create one and use it for many clips."""

    def __init__(self) -> None:
        """Loads the regression model of audio mode.

        Raises:
            DependencyError: `visqol-python` is not installed.
        """
        try:
            api: Any = importlib.import_module("visqol.api")
        except ImportError as error:
            raise DependencyError(
                "ViSQOL needs an optional package (Apache-2.0, 0.9 MB; its libsvm is compiled on "
                f"installation): run `pip install visqol-python`. ({error})"
            ) from error
        self._api = api.VisqolApi()
        self._api.create(mode="audio")

    def score(self, reference: Waveform, degraded: Waveform) -> float:
        """The mean opinion score, 1 (bad) to about 4.73 (the same), of `degraded`.

        Raises:
            AudioError: A signal is shorter than one second, the lengths differ by more than a
                tenth, or ViSQOL finds nothing to compare (silence).
        """
        longest = max(reference.duration_seconds, degraded.duration_seconds)
        shortest = min(reference.duration_seconds, degraded.duration_seconds)
        if shortest < _MIN_SECONDS or longest > 1.1 * shortest:
            raise AudioError(
                f"ViSQOL was given {reference.duration_seconds:.2f} s and "
                f"{degraded.duration_seconds:.2f} s; give clips of the same length, 1 s or more."
            )
        result = self._api.measure_from_arrays(
            _at_visqol_rate(reference), _at_visqol_rate(degraded), VISQOL_SAMPLE_RATE_HZ
        )
        score = float(result.moslqo)
        if not math.isfinite(score):
            raise AudioError("ViSQOL found nothing to compare. Give clips that are not silent.")
        return score


def _at_visqol_rate(waveform: Waveform) -> np.ndarray:
    return waveform.resampled(VISQOL_SAMPLE_RATE_HZ).samples.double().cpu().numpy()
