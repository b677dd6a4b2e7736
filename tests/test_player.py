"""Limiter, tracks, running ahead, player: however a piece is cut, it sounds the same."""

import pytest
import torch

from musiclm.audio.limiter import Limiter
from musiclm.codec.soundstream import SoundStream
from musiclm.generation.ahead import ahead
from musiclm.generation.player import Player
from musiclm.generation.tracks import Track
from musiclm.recipes.tiny import tiny


def limited(samples, sizes):
    limiter = Limiter(100, 1_000)
    pieces = [limiter.push(piece) for piece in samples.split(sizes)]
    return torch.cat([*pieces, limiter.flush()])


def test_limiter_keeps_the_peak_and_leaves_quiet_audio_alone():
    generator = torch.Generator().manual_seed(0)
    loud = torch.randn(5_050, generator=generator) * torch.linspace(0, 3, 5_050)
    whole = limited(loud, 5_050)
    assert whole.shape == loud.shape
    assert float(whole.abs().max()) <= 0.97 + 1e-6
    assert torch.equal(limited(loud * 0.05, 5_050), loud * 0.05)
    for sizes in (1, 37, 100, 1_000):
        assert torch.equal(limited(loud, sizes), whole)


def test_limiter_recovers_after_a_loud_moment():
    samples = torch.full((10_000,), 0.5)
    samples[300:310] = 5.0
    turned_down = limited(samples, 10_000)
    assert float(turned_down[150]) == 0.5  # until the block before
    assert float(turned_down[500]) < 0.2
    assert float(turned_down[-1]) == 0.5
    assert float(turned_down.diff().abs()[400:].max()) < 0.01


def test_tracks_make_only_what_is_asked_for():
    made = []

    def blocks():
        for number in range(5):
            made.append(number)
            yield torch.full((2, 3, 4), number)

    track = Track(torch.full((2, 3, 1), 9), 21).made_by(blocks())
    assert track.upto(1)[0, 0].tolist() == [9]
    assert not made
    assert track.upto(6)[0, 0].tolist() == [9, 0, 0, 0, 0, 1]
    assert made == [0, 1]
    assert track.upto(21).shape == (2, 3, 21)
    assert made == list(range(5))


def test_ahead_gives_items_errors_and_stops_early():
    assert list(ahead(iter(range(100)), depth=3)) == list(range(100))
    made = []

    def endless():
        while True:
            made.append(len(made))
            yield made[-1]

    items = ahead(endless(), depth=2)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    items.close()
    assert len(made) < 10

    def broken():
        yield 1
        raise ValueError("no more")

    items = ahead(broken())
    assert next(items) == 1
    with pytest.raises(ValueError, match="no more"):
        next(items)


@pytest.mark.parametrize("cuts", [(130,), (1,) * 130, (49, 2, 79), (100, 30)])
def test_player_gives_the_same_samples_however_codes_are_cut(cuts):
    with torch.random.fork_rng():
        codec = SoundStream(tiny().codec.task.codec).eval()
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 32, (12, 130), generator=generator)

    def played(sizes):
        player = Player(codec, num_samples=130 * codec.hop_length - 17)
        pieces = [player.push(piece) for piece in codes.split(list(sizes), dim=1)]
        return torch.cat([*pieces, player.flush()])

    whole = played((130,))
    assert whole.shape == (130 * codec.hop_length - 17,)
    assert torch.equal(played(cuts), whole)
    direct = codec.decode(codes[None])[0, : whole.shape[0]]
    torch.testing.assert_close(whole, direct, atol=1e-4, rtol=1e-3)
