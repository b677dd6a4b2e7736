"""How well a codec keeps music: notes, spectra, and Opus beside it on the same clips.

Conventions: waveforms are mono in [-1, 1]; a reference and its estimate start together and are
compared over the shorter of the two.
Metrics:
    Note F1: frame-level F1 of the notes that basic-pitch (Bittner 2022) hears in the estimate
        against those it hears in the reference, posterior above 0.3; 1 is best.
    Log-mel distance: mean difference of 80-band log-mel spectra, in decibels; 0 is best.
    SI-SDR: scale-invariant signal-to-distortion ratio (Le Roux et al. 2019, equation 3) without the
        mean, in decibels, at most 100 (the same but for rounding) and at least -100. It compares
        waveforms sample by sample: a codec that makes sound anew with other phases may be below 0
        however well it sounds.
"""

import importlib.util
import math
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from musiclm.audio.waveform import Waveform
from musiclm.core.errors import DependencyError

NOTE_THRESHOLD = 0.3
_BASIC_PITCH_RATE_HZ = 22_050
_WINDOW_SAMPLES = 43_844
_HOP_SAMPLES = 256
_OVERLAP_FRAMES = 30
_LOWEST_PITCH = 21
_OPUS_RATE_HZ = 48_000
_LARGEST_SDR_DB = 100.0

Posteriors = Float[np.ndarray, "_ 88"]


class NoteListener:
    """basic-pitch's published network, run by onnxruntime: which keys sound, frame by frame."""

    def __init__(self, num_threads: int = 1) -> None:
        """Finds the network inside the installed `basic_pitch`, without importing that package.

        Raises:
            DependencyError: `basic-pitch` or `onnxruntime` is not installed.
        """
        package = importlib.util.find_spec("basic_pitch")
        places = package.submodule_search_locations if package is not None else None
        path = Path(next(iter(places or ["."]))) / "saved_models" / "icassp_2022" / "nmp.onnx"
        if not path.is_file():
            raise DependencyError(
                "Note F1 needs basic-pitch's network. Run `pip install --no-deps basic-pitch`."
            )
        try:
            import onnxruntime
        except ImportError as error:
            raise DependencyError(
                "Note F1 needs onnxruntime. Run `pip install 'musiclm[eval]'`."
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        self._session = onnxruntime.InferenceSession(str(path), options)
        self._input_name = self._session.get_inputs()[0].name
        # Outputs are named `...:0` (contours), `...:1` (notes), `...:2` (onsets).
        names = [output.name for output in self._session.get_outputs()]
        self._note_name = next(name for name in names if name.endswith(":1"))

    def posteriors(self, waveform: Waveform) -> Posteriors:
        """The probability of each key (A0 to C8) in frames of 256 samples at 22,050 Hz."""
        samples = waveform.resampled(_BASIC_PITCH_RATE_HZ).samples.cpu().numpy().astype(np.float32)
        overlap = _OVERLAP_FRAMES * _HOP_SAMPLES
        padded = np.concatenate([np.zeros(overlap // 2, np.float32), samples])
        edge = _OVERLAP_FRAMES // 2
        pieces: list[np.ndarray] = []
        for start in range(0, max(len(padded), 1), _WINDOW_SAMPLES - overlap):
            window = padded[start : start + _WINDOW_SAMPLES]
            window = np.pad(window, (0, _WINDOW_SAMPLES - len(window)))[None, :, None]
            (notes,) = self._session.run([self._note_name], {self._input_name: window})
            pieces.append(np.asarray(notes)[0, edge:-edge])
        return np.concatenate(pieces)[: len(samples) // _HOP_SAMPLES]

    def note_f1(self, reference: Waveform, estimate: Waveform) -> float:
        """The F1 of the estimate's notes against the reference's."""
        return note_f1(self.posteriors(reference), self.posteriors(estimate))


def note_f1(
    reference: Posteriors, estimate: Posteriors, threshold: float = NOTE_THRESHOLD
) -> float:
    """Frame-level F1 of two sets of note posteriors; 1 when neither holds a note."""
    frames = min(len(reference), len(estimate))
    wanted, given = reference[:frames] > threshold, estimate[:frames] > threshold
    total = int(wanted.sum()) + int(given.sum())
    return 2 * int((wanted & given).sum()) / total if total else 1.0


def si_sdr_db(reference: Float[Tensor, " samples"], estimate: Float[Tensor, " samples"]) -> float:
    """How far an estimate is from any scaled copy of a reference, in decibels; more is nearer."""
    reference, estimate = reference.double(), estimate.double()
    reference, estimate = reference - reference.mean(), estimate - estimate.mean()
    if torch.equal(reference, estimate):  # two silences too
        return _LARGEST_SDR_DB
    energy = float(reference @ reference)
    if not energy:
        return -_LARGEST_SDR_DB
    target = reference * (float(reference @ estimate) / energy)
    kept, lost = float(target @ target), float((estimate - target).square().sum())
    if not kept or not lost:
        return _LARGEST_SDR_DB if kept else -_LARGEST_SDR_DB
    return min(max(10 * math.log10(kept / lost), -_LARGEST_SDR_DB), _LARGEST_SDR_DB)


def opus_round_trip(waveform: Waveform, bitrate_kbps: int) -> Waveform:
    """What Opus (`opusenc`, `opusdec`) makes of a waveform at a bitrate, at the waveform's rate.

    Raises:
        DependencyError: The programs are not installed, or fail.
    """
    if shutil.which("opusenc") is None or shutil.which("opusdec") is None:
        raise DependencyError(
            "Opus needs the programs opusenc and opusdec. Install `opus-tools` (apt, brew)."
        )
    with tempfile.TemporaryDirectory() as folder:
        source, packed, result = (Path(folder) / name for name in ("in.wav", "a.opus", "out.wav"))
        waveform.write(source)
        rate = ["--bitrate", str(bitrate_kbps)]
        _run(["opusenc", "--quiet", *rate, str(source), str(packed)])
        _run(["opusdec", "--quiet", "--rate", str(_OPUS_RATE_HZ), str(packed), str(result)])
        decoded = Waveform.read(result, sample_rate_hz=waveform.sample_rate_hz)
    return decoded.crop(0, waveform.num_samples)


def _run(command: Sequence[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (subprocess.CalledProcessError, OSError) as error:
        raise DependencyError(f"{command[0]} failed ({error}). Reinstall opus-tools.") from error
