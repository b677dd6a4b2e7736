"""Pictures: a PNG with one panel a waveform, its energy where the tone is."""

import numpy as np
import pytest
import torch

from musiclm.audio.waveform import Waveform
from musiclm.core.errors import AudioError, ConfigError
from musiclm.evaluation.pictures import log_mel_picture, write_log_mel_picture
from musiclm.evaluation.token_pictures import token_picture, write_token_picture
from tests.support.fake_judges import tone


def panel(figure, number: int) -> np.ndarray:
    return np.asarray(figure.axes[number].images[0].get_array())


def test_a_higher_tone_is_drawn_higher():
    figure = log_mel_picture({"low": tone("cello", 0.5), "high": tone("flute", 0.5)})
    low, high = (panel(figure, number).mean(axis=1).argmax() for number in range(2))
    assert high > low + 10
    assert [axes.get_title() for axes in figure.axes] == ["low", "high"]


def test_panels_share_their_scale_and_show_what_was_asked():
    sounds = {"loud": tone("piano", 1.0), "quiet": tone("piano", 2.0, loudness=0.03)}
    figure = log_mel_picture(sounds, seconds_shown=0.5)
    loud, quiet = panel(figure, 0), panel(figure, 1)
    assert loud.shape == quiet.shape == (80, 50)
    assert loud.max() - quiet.max() == pytest.approx(20, abs=0.1)  # a tenth is 20 dB
    limits = {axes.images[0].get_clim() for axes in figure.axes}
    assert len(limits) == 1


def test_writes_a_png(tmp_path):
    path = tmp_path / "pictures" / "two.png"
    write_log_mel_picture({"a": tone("piano", 0.3), "b": tone("flute", 0.3)}, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert list(path.parent.iterdir()) == [path]


def test_nothing_to_draw_is_refused():
    with pytest.raises(AudioError, match="Give at least one"):
        log_mel_picture({})
    with pytest.raises(AudioError, match="too short"):
        log_mel_picture({"short": Waveform(torch.zeros(3), 24_000)})


def test_tokens_are_drawn_under_the_spectrogram_in_time_with_it(tmp_path):
    waveform = Waveform(0.1 * torch.sin(torch.arange(48_000) / 5), 24_000)
    melody = torch.arange(100).reshape(2, 50)
    melody[:, :10] = -1  # no tune yet
    streams = {
        "mulan": torch.arange(5)[:, None],  # hold for the whole piece
        "melody": melody,
        "semantic": torch.arange(50)[None],
        "acoustic": torch.zeros(12, 100).long(),
    }
    figure = token_picture(waveform, streams)
    panels = figure.axes
    assert [axes.get_ylabel().split("\n")[0] for axes in panels[1:]] == list(streams)
    assert {axes.get_xlim() for axes in panels} == {(0.0, 2.0)}
    for axes, codes in zip(panels[1:], streams.values(), strict=True):
        drawn = axes.images[0].get_array()
        assert drawn is not None
        assert drawn.shape == codes.shape
        assert list(axes.images[0].get_extent())[:2] == [0.0, 2.0]
        assert (np.ma.getmaskarray(drawn) == (codes < 0).numpy()).all()
    assert len(set(panel(figure, 1).flat)) == 5  # a colour a level, from end to end
    write_token_picture(waveform, streams, tmp_path / "tokens.png")
    assert (tmp_path / "tokens.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ConfigError):
        token_picture(waveform, {})
