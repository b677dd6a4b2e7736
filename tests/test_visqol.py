"""ViSQOL: the same audio scores best, noise scores worse; without the package, one helpful line."""

import importlib
from importlib.util import find_spec

import pytest
import torch

from musiclm.audio.waveform import Waveform
from musiclm.core.errors import AudioError, DependencyError
from musiclm.evaluation.visqol import Visqol
from tests.support.fake_judges import tone

needs_visqol = pytest.mark.skipif(find_spec("visqol") is None, reason="visqol-python is absent")


@pytest.mark.slow
@needs_visqol
def test_noise_lowers_the_score():
    generator = torch.Generator().manual_seed(0)
    sound = tone("piano", 2.0)
    noise = 0.1 * torch.randn(sound.num_samples, generator=generator)
    visqol = Visqol()
    same = visqol.score(sound, sound)
    assert same == pytest.approx(4.73, abs=0.05)
    assert visqol.score(sound, Waveform(sound.samples + noise, 8_000)) < same - 0.5


@needs_visqol
def test_clips_that_do_not_match_are_refused():
    with pytest.raises(AudioError, match="same length"):
        Visqol().score(tone("piano", 2.0), tone("piano", 1.0))


def test_absent_package_says_what_to_install(monkeypatch):
    def fail(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(DependencyError, match="pip install visqol-python"):
        Visqol()
