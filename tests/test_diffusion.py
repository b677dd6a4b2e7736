"""Spectrogram diffusion and Riffusion's pictures: they learn, repeat themselves, and sound."""

import numpy as np
import pytest
import torch

from musiclm.audio.spectrogram import LogMelConfig, mel_filterbank
from musiclm.baselines.mel_inversion import griffin_lim, linear_magnitudes
from musiclm.baselines.riffusion import (
    FFT_SIZE,
    HOP_LENGTH,
    SAMPLE_RATE_HZ,
    WINDOW_LENGTH,
    RiffusionSystem,
    image_of_mel,
    mel_filters,
    mel_of_image,
)
from musiclm.core.errors import CheckpointError
from musiclm.core.pretrained import save_weights
from musiclm.core.runtime import Runtime
from musiclm.evaluation.systems import System


def test_griffin_lim_finds_audio_with_the_given_spectrum():
    times = torch.arange(8_000) / 8_000
    samples = torch.sin(2 * torch.pi * 440 * times) + 0.5 * torch.sin(2 * torch.pi * 1320 * times)
    window = torch.hann_window(400)
    magnitudes = torch.stft(samples, 512, 100, 400, window, return_complex=True).abs()
    found = griffin_lim(
        magnitudes,
        fft_size=512,
        hop_length=100,
        window=window,
        generator=torch.Generator().manual_seed(0),
    )
    assert len(found) == 8_000
    rebuilt = torch.stft(found, 512, 100, 400, window, return_complex=True).abs()
    assert (rebuilt - magnitudes).norm() / magnitudes.norm() < 0.1


def test_linear_magnitudes_have_the_mel_bands_they_came_from():
    filters = mel_filterbank(8_000, 512, 40, 50.0, 4_000.0)
    draw = torch.rand(257, 12, generator=torch.Generator().manual_seed(0))
    mel = filters @ draw
    found = linear_magnitudes(mel, filters, num_steps=100)
    assert (found >= 0).all()
    assert ((filters @ found - mel).norm() / mel.norm()) < 0.05


def test_an_image_of_riffusion_keeps_the_pitch():
    times = torch.arange(SAMPLE_RATE_HZ // 2) / SAMPLE_RATE_HZ
    samples = torch.sin(2 * torch.pi * 660 * times)
    spectrum = torch.stft(
        samples, FFT_SIZE, HOP_LENGTH, WINDOW_LENGTH, torch.hann_window(WINDOW_LENGTH),
        return_complex=True,
    ).abs()  # fmt: skip
    image = image_of_mel(mel_filters() @ spectrum)
    assert image.shape == (512, 51)
    assert image.min() == 0  # black is loud
    mel = mel_of_image(image)
    assert int(mel[:, 25].argmax()) == int((mel_filters() @ spectrum)[:, 25].argmax())
    seen: list[tuple[str, int]] = []

    def paint(prompt: str, width: int, generator: torch.Generator) -> np.ndarray:
        seen.append((prompt, width))
        return np.tile(image[:, 25:26], (1, width))

    system = RiffusionSystem(paint, "abc")
    assert isinstance(system, System)
    (clip,) = system.generate(["a tone"], [1], 0.4)
    assert seen == [("a tone", 48)]
    assert clip.duration_seconds == pytest.approx(0.4)
    loudest = int(torch.fft.rfft(clip.samples).abs().argmax()) / clip.duration_seconds
    assert loudest == pytest.approx(660, rel=0.03)


@pytest.fixture(scope="module")
def diffusion():
    pytest.importorskip("diffusers", reason="diffusers is not installed")
    from musiclm.baselines import spectrogram_diffusion

    return spectrogram_diffusion


def small_config(diffusion):
    return diffusion.DiffusionConfig(
        log_mel=LogMelConfig(sample_rate_hz=8_000, hop_length=80, window_length=200, fft_size=256,
                             num_mels=16, high_hz=4_000.0),
        image_frames=16,
        patch=2,
        channels=(16, 32),
        word_dim=8,
        num_buckets=64,
        max_words=6,
        num_sample_steps=4,
    )  # fmt: skip


def test_words_have_the_same_buckets_everywhere_and_order_matters(diffusion):
    ids = diffusion.word_ids(["Calm piano!", "piano, calm", ""], 4096, 5)
    assert ids.shape == (3, 5)
    assert ids[0, :2].tolist() == ids[1, :2].flip(0).tolist()
    assert (ids[2] == 0).all()
    assert ids.tolist() == diffusion.word_ids(["CALM piano", "piano calm", " "], 4096, 5).tolist()


def test_patches_are_put_back_where_they_were(diffusion):
    model = diffusion.SpectrogramDiffusion(small_config(diffusion))
    images = torch.arange(2 * 16 * 12.0).reshape(2, 16, 12)
    points = model._points(images)
    assert points.shape == (2, 4, 8, 6)
    assert torch.equal(points[0, :, 0, 0], images[0, :2, :2].flatten())
    assert torch.equal(model._images(points), images)
    with pytest.raises(ValueError, match="give a multiple of 16"):
        diffusion.DiffusionConfig(image_frames=500)


def test_the_baseline_learns_its_words_and_makes_the_same_clip_again(diffusion, tmp_path):
    from musiclm.baselines.diffusion_system import (
        DiffusionTask,
        DiffusionTaskConfig,
        SpectrogramDiffusionSystem,
    )
    from musiclm.training.task import Batch, StepContext

    config = small_config(diffusion)
    task = DiffusionTask(DiffusionTaskConfig(model=config, text_dropout=0.1))
    images = torch.full((8, 16, 16), -6.0)
    images[::2, 2:5] = 2.0  # low music for "bass", high for "flute"
    images[1::2, 11:14] = 2.0
    batch = {"log_mel": images, "texts": ["deep bass", "bright flute"] * 4}

    class Source:
        def batch(self, step: int, microbatch: int) -> Batch:
            return batch

        def validation_batches(self) -> list[Batch]:
            return [batch]

    task.start(Source())
    with torch.no_grad():
        before = task.validation_metrics(batch)["loss"]
    optimizer = torch.optim.Adam(task.optimizers["diffusion"][1], lr=3e-3)
    for step in range(120):
        context = StepContext(step, 120, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        task.loss("diffusion", batch, context).loss.backward()
        optimizer.step()
    with torch.no_grad():
        after = task.validation_metrics(batch)
    assert after["loss"] < 0.5 * before
    assert after["loss"] < after["loss_without_text"]
    path = tmp_path / "last.safetensors"
    save_weights(task.model, path, config_json=config.to_json())
    system = SpectrogramDiffusionSystem(path, Runtime(torch.device("cpu"), 1))
    assert isinstance(system, System)
    clips = system.generate(["deep bass", "bright flute", "deep bass"], [1, 1, 1], 0.5)
    assert all(clip.duration_seconds == pytest.approx(0.5) for clip in clips)
    assert torch.equal(clips[0].samples, clips[2].samples)
    assert not torch.equal(clips[0].samples, clips[1].samples)


def test_absent_riffusion_weights_are_told(diffusion, tmp_path):
    with pytest.raises(CheckpointError, match=r"no model_index\.json"):
        RiffusionSystem.load(tmp_path, Runtime(torch.device("cpu"), 1))
