import pytest
import torch

from musiclm.audio.spectrogram import LogMelConfig
from musiclm.conditioning.audio_tower import AudioTower, AudioTowerConfig, SpecAugmentConfig
from musiclm.conditioning.resnet import ResNetConfig
from musiclm.core.runtime import RandomStreams


def tiny_config(**changes):
    settings = {
        "log_mel": LogMelConfig(num_mels=16, hop_length=240),
        "window_frames": 100,
        "stride_frames": 10,
        "resnet": ResNetConfig(
            block="separable",
            stem_width=4,
            stem_kernel=3,
            has_max_pool=False,
            stage_widths=(4, 8),
            stage_blocks=(1, 2),
        ),
        "embedding_dim": 8,
        "spec_augment": SpecAugmentConfig(max_frames=30, max_mels=4),
    }
    return AudioTowerConfig.model_validate(settings | changes)


@pytest.fixture
def tower():
    return AudioTower(tiny_config()).eval()


def noise(*shape, name="noise"):
    return torch.randn(*shape, generator=RandomStreams(1).generator(name))


def test_embeddings_have_unit_length_and_do_not_depend_on_the_batch(tower):
    log_mel = noise(3, 16, 100)
    together = tower(log_mel)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(3))
    for row, picture in zip(together, log_mel, strict=True):
        torch.testing.assert_close(row, tower(picture[None])[0], atol=1e-5, rtol=0)


def test_windows_start_at_every_stride_and_drop_the_rest(tower):
    samples = noise(2, 240 * 137 + 17)
    windows = tower.windows(samples)
    assert windows.shape == (2, 4, 16, 100)
    whole = tower.log_mel(samples)
    torch.testing.assert_close(windows[1, 3], whole[1, :, 30:130])


def test_short_audio_is_looped(tower):
    samples = noise(1, 240 * 40)
    windows = tower.windows(samples)
    assert windows.shape == (1, 1, 16, 100)
    torch.testing.assert_close(windows[0, 0, :, 45:55], windows[0, 0, :, 5:15])
    assert tower.windows(samples[:, :1]).isfinite().all()


def test_spec_augment_is_seeded_and_hides_parts(tower):
    log_mel = noise(4, 16, 100)
    streams = RandomStreams(3)
    one, two, other = (
        tower(log_mel, generator=streams.generator("augment", step)) for step in (0, 0, 1)
    )
    torch.testing.assert_close(one, two)
    assert not torch.allclose(one, other)
    mask = tower._mask(log_mel, streams.generator("augment"))
    assert 0.3 < mask.mean() < 1
    hidden_frames = (mask.sum(dim=1) == 0).sum(dim=1)
    assert hidden_frames.max() <= 60


def test_gradients_reach_every_weight(tower):
    tower.train()
    # Branches end in a norm of scale zero: one step away from it, all weights matter.
    for block in tower.resnet.blocks:
        torch.nn.init.ones_(block.branch[-1].weight)
    tower(noise(4, 16, 100))[:, 0].sum().backward()
    assert all(weight.grad is not None for weight in tower.parameters())
    assert all(bool(weight.grad.abs().sum() > 0) for weight in tower.resnet.parameters())


def test_the_default_is_resnet_50():
    with torch.device("meta"):
        tower = AudioTower(AudioTowerConfig())
    count = sum(weight.numel() for weight in tower.resnet.parameters())
    # torchvision's 25,557,032 less its classifier (2,049,000) and two input channels (6,272).
    assert count == 25_557_032 - 2_049_000 - 2 * 64 * 49
    assert tower.config.window_samples == 240_000
    assert tower.config.stride_samples == 24_000


def test_config_refuses_nonsense():
    with pytest.raises(ValueError, match="fit in the window"):
        tiny_config(spec_augment=SpecAugmentConfig(max_mels=17))
    with pytest.raises(ValueError, match="odd"):
        ResNetConfig(stem_kernel=4)
    with pytest.raises(ValueError, match="one entry a stage"):
        ResNetConfig(stage_blocks=(1,))
