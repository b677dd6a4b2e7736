"""A folder of reference audio: the floor, a treatment beside it, and nothing heard twice."""

from pathlib import Path

import pytest

from musiclm.audio.waveform import Waveform
from musiclm.core.errors import DataError
from musiclm.evaluation.analysis import AnalysisCache, Judges
from musiclm.evaluation.musicnn import MusicNNOutput
from musiclm.evaluation.reference import HALF, reference_rows
from musiclm.evaluation.suite import noise_treatment
from tests.support.fake_judges import PITCH_OF_LEAD_HZ, FakeTagger, tone

NOISY = f"{HALF}, noise"
LEADS = list(PITCH_OF_LEAD_HZ)


class CountingTagger(FakeTagger):
    def __init__(self) -> None:
        self.num_heard = 0

    def analyse(self, waveform: Waveform) -> MusicNNOutput:
        self.num_heard += 1
        return super().analyse(waveform)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Forty tones of 2 or 3 s in two folders: any half of them is much like the other."""
    for number in range(40):
        clip = tone(LEADS[number % 4], 2.0 + number % 2, loudness=0.1 + 0.01 * (number % 8))
        clip.write(tmp_path / "real" / f"{number % 2}" / f"{number}.wav")
    return tmp_path / "real"


def judges(tagger: FakeTagger) -> Judges:
    treatments = {"same": lambda clip: clip, "noise": noise_treatment(0.0, 0)}
    return Judges(tagger, treatments=treatments, identity="fakes")


def test_the_floor_is_below_a_treatment_and_the_same_when_nothing_is_done(folder, tmp_path):
    tagger = CountingTagger()
    cache = AnalysisCache(tmp_path / "cache")
    rows = reference_rows(folder, judges(tagger), cache=cache)
    assert list(rows) == [HALF, f"{HALF}, same", NOISY]
    floor, noisy = rows[HALF].fad["musicnn"], rows[NOISY].fad["musicnn"]
    assert floor.fad < 0.1 * noisy.fad
    assert rows[f"{HALF}, same"].fad == rows[HALF].fad
    assert abs(floor.num_windows - floor.num_reference_windows) <= 20  # 20 files on either side
    assert floor.num_windows + floor.num_reference_windows == 100
    assert rows[HALF].kld is None
    assert not rows[HALF].similarity
    assert tagger.num_heard == 20 * 4  # the other half, and one half three times
    assert reference_rows(folder, judges(tagger), cache=cache) == rows
    assert tagger.num_heard == 20 * 4
    dealt_anew = reference_rows(folder, judges(tagger), seed=1, cache=cache)
    assert dealt_anew[HALF].fad["musicnn"].fad != floor.fad


def test_too_little_audio_for_halves_gives_no_figures(tmp_path):
    with pytest.raises(DataError, match="holds no audio"):
        reference_rows(tmp_path, judges(FakeTagger()))
    tone("flute", 3.0).write(tmp_path / "one.wav")
    assert reference_rows(tmp_path, judges(FakeTagger())) == {}
    tone("cello", 2.0).write(tmp_path / "two.wav")  # no covariance of two windows
    assert [row.fad for row in reference_rows(tmp_path, judges(FakeTagger())).values()] == [{}] * 3
