"""The codec with both backbones: lengths, levels, causality, streaming = whole, determinism."""

import math

import pytest
import torch
from pydantic import ValidationError

from musiclm.codec.closed_form import fit_shortcuts
from musiclm.codec.seanet import SeanetConfig
from musiclm.codec.soundstream import SoundStream, SoundStreamConfig
from musiclm.codec.spectral import (
    AnalysisWindow,
    SpectralConfig,
    SpectralDecoder,
    SpectralEncoder,
)
from musiclm.codec.synthesis import OscillatorBank, Synthesis, SynthesisConfig
from musiclm.core.errors import ConfigError, DataError
from musiclm.core.runtime import RandomStreams
from musiclm.quantization.residual import QuantizerConfig

HOP = 480
SMALL = {
    "seanet": SoundStreamConfig(
        backbone="seanet",
        seanet=SeanetConfig(channels=4, latent_dim=16),
        quantizer=QuantizerConfig(num_quantizers=4, codebook_size=32, codebook_dim=16),
    ),
    "spectral": SoundStreamConfig(
        spectral=SpectralConfig(
            latent_dim=16, encoder_dim=24, encoder_blocks=2, decoder_dim=24, decoder_blocks=2
        ),
        quantizer=QuantizerConfig(num_quantizers=4, codebook_size=32, codebook_dim=16),
    ),
}


def audio(seconds=0.6, batch=2):
    generator = RandomStreams(5).generator("audio")
    return 0.1 * torch.randn(batch, round(24_000 * seconds), generator=generator)


def built(backbone):
    """A small codec with random weights and a codebook that has seen one batch."""
    codec = SoundStream(SMALL[backbone])
    generator = RandomStreams(6).generator(backbone)
    with torch.no_grad():
        for parameter in codec.parameters():
            if parameter.ndim > 1:
                fan_in = parameter[0].numel()
                draw = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(draw / math.sqrt(fan_in))
        codec.quantizer.train()(codec.encoder(audio()), generator=generator)
    return codec.eval()


@pytest.fixture(params=["seanet", "spectral"])
def codec(request):
    return built(request.param)


@pytest.mark.parametrize(("samples", "frames"), [(1, 1), (480, 1), (481, 2), (9_600, 20)])
def test_lengths(codec, samples, frames):
    codes = codec.encode(audio()[:, :samples])
    assert codes.shape == (2, 4, frames)
    assert codec.decode(codes).shape == (2, HOP * frames)


def test_any_number_of_levels(codec):
    codes = codec.encode(audio())
    for count in range(1, 5):
        assert torch.equal(codec.encode(audio(), count), codes[:, :count])
        assert bool(torch.isfinite(codec.decode(codes[:, :count])).all())
    assert not torch.equal(codec.decode(codes), codec.decode(codes[:, :2]))


@pytest.mark.parametrize("piece", [1, 7])
def test_streamed_decoding_equals_whole(codec, piece):
    codes = codec.encode(audio())
    whole = codec.decode(codes)
    state = codec.decoder_state(batch_size=2)
    parts = []
    for part in codes.split(piece, dim=-1):
        samples, state = codec.decode_stream(part, state)
        assert samples.shape[-1] == HOP * part.shape[-1]
        parts.append(samples)
    assert torch.allclose(torch.cat(parts, dim=-1), whole, atol=1e-5)


@pytest.mark.parametrize("piece", [100, 1_111])
def test_streamed_encoding_equals_whole(codec, piece):
    samples = audio()[:, :7_000]
    whole, latents = codec.encode(samples), codec.encoder(samples)
    state, latent_state = codec.encoder_state(2), codec.encoder_state(2)
    pieces = samples.split(piece, dim=-1)
    parts, latent_parts = [], []
    for number, part in enumerate(pieces, start=1):
        is_last = number == len(pieces)
        codes, state = codec.encode_stream(part, state, is_last=is_last)
        parts.append(codes)
        part_latents, latent_state = codec.encoder.stream(part, latent_state, is_last=is_last)
        latent_parts.append(part_latents)
    assert torch.cat(parts, dim=-1).shape == whole.shape
    assert torch.equal(torch.cat(parts, dim=-1)[:, 0], whole[:, 0])  # later levels may tie
    assert torch.allclose(torch.cat(latent_parts, dim=-1), latents, atol=1e-5)


def test_decoding_is_causal(codec):
    codes = codec.encode(audio())
    changed = codes.clone()
    changed[..., 10:] = (changed[..., 10:] + 1) % 32
    before, after = codec.decode(codes), codec.decode(changed)
    assert torch.allclose(before[:, : 10 * HOP], after[:, : 10 * HOP], atol=1e-6)
    assert not torch.allclose(before[:, 10 * HOP :], after[:, 10 * HOP :], atol=1e-4)


def test_encoding_hears_no_further_than_its_lookahead(codec):
    samples = audio()
    changed = samples.clone()
    lookahead = codec.config.spectral.lookahead_samples
    lookahead = lookahead if codec.config.backbone == "spectral" else 0
    changed[:, 10 * HOP + lookahead :] *= -3
    before, after = codec.encoder(samples), codec.encoder(changed)
    assert torch.allclose(before[..., :10], after[..., :10], atol=1e-5)
    assert not torch.allclose(before[..., 10:], after[..., 10:], atol=1e-4)


def test_decoding_is_deterministic_and_batch_equals_singles(codec):
    codes = codec.encode(audio())
    whole = codec.decode(codes)
    assert torch.equal(whole, codec.decode(codes))
    for row in range(2):
        assert torch.allclose(codec.decode(codes[row : row + 1]), whole[row : row + 1], atol=1e-5)


def test_gradients_reach_every_parameter(codec):
    codec.train()
    generator = RandomStreams(1).generator("step")
    output = codec(audio(0.2), generator=generator)
    (output.samples.square().mean() + output.quantizer.commitment_loss).backward()
    missing = [name for name, p in codec.named_parameters() if p.grad is None]
    assert missing == []


def test_token_spec_and_bitrate():
    codec = built("spectral")
    assert codec.token_spec.frame_rate_hz == 50
    assert codec.token_spec.num_quantizers == 4
    assert codec.hop_length == HOP
    assert SoundStreamConfig().bitrate_bps == 6_000


def test_impossible_requests_are_refused():
    with pytest.raises(ConfigError, match="0 samples"):
        built("spectral").encode(torch.zeros(1, 0))
    with pytest.raises(ValidationError, match="codebook_dim"):
        SoundStreamConfig(quantizer=QuantizerConfig(codebook_dim=8))


def test_published_shape():
    codec = SoundStream(
        SoundStreamConfig(backbone="seanet", quantizer=QuantizerConfig(codebook_dim=128))
    )
    assert codec.hop_length == 3 * 4 * 5 * 8
    millions = sum(p.numel() for p in codec.parameters()) / 1e6
    assert 9.0 < millions < 10.5


def test_the_closed_form_start_keeps_the_notes_of_a_chord():
    config = SpectralConfig(
        windows=(AnalysisWindow(window_length=2048, fall_length=960, high_hz=2_000.0),),
        latent_dim=32,
        encoder_dim=16,
        encoder_blocks=1,
        decoder_dim=16,
        decoder_blocks=1,
    )
    encoder, decoder = SpectralEncoder(config), SpectralDecoder(config)
    clips = [chord(index) for index in range(16)]
    report = fit_shortcuts(encoder, decoder, clips)
    assert report.num_frames == 16 * 50
    assert report.explained > 0.8
    with torch.no_grad():
        rebuilt = decoder(encoder(clips[3][None]))[0]
    wanted, given = (torch.fft.rfft(samples[-12_000:]).abs() for samples in (clips[3], rebuilt))
    strongest = wanted[: 2_000 // 2].argmax()
    assert abs(int(given[: 2_000 // 2].argmax()) - int(strongest)) <= 1
    with pytest.raises(DataError, match="needs at least"):
        fit_shortcuts(encoder, decoder, clips[:1])


def chord(index):
    """A second of three random notes of the scale, decaying, with a little noise."""
    generator = RandomStreams(9).generator("chord", index)
    time = torch.arange(24_000) / 24_000
    pitches = torch.randint(48, 84, (3,), generator=generator)
    tones = [torch.sin(2 * math.pi * 440 * 2 ** ((int(p) - 69) / 12) * time) for p in pitches]
    noise = 1e-3 * torch.randn(24_000, generator=generator)
    return 0.1 * torch.stack(tones).sum(dim=0) * torch.exp(-2 * time) + noise


def test_an_oscillator_sounds_at_its_frequency():
    config = SynthesisConfig()
    bank = OscillatorBank(config)
    amplitudes = torch.zeros(1, 100, config.num_oscillators)
    amplitudes[..., 4 * 48] = 0.5  # four octaves above 27.5 Hz: A4
    samples = bank(amplitudes, amplitudes[:, 0], torch.tensor([1_000]))
    time = torch.arange(samples.shape[1], dtype=torch.float64) / config.sample_rate_hz
    wave = samples[0].double() * torch.exp(-2j * math.pi * 440.0 * time)
    assert math.isclose(2 * float(wave.mean().abs()), 0.5, rel_tol=1e-3)


def test_noise_has_the_level_and_place_it_is_given():
    config = SynthesisConfig()
    synthesis = Synthesis(config)
    split = config.num_oscillators * config.amplitudes_per_frame
    controls = torch.full((1, 100, config.num_outputs), -30.0)
    controls[..., split:] = math.log(0.1)
    samples, _ = synthesis.stream(controls, synthesis.initial_state(controls))
    assert math.isclose(float(samples[:, HOP:].square().mean().sqrt()), 0.1, rel_tol=0.05)
    bands = controls[..., split:].reshape(1, 100, config.noise_gains_per_frame, -1)
    bands[..., config.noise_bands // 2 :] = -30.0
    controls[..., split:] = bands.flatten(2)
    low, _ = synthesis.stream(controls, synthesis.initial_state(controls))
    power = torch.fft.rfft(low[0]).abs().square()
    half = len(power) // 2
    assert float(power[: half + 500].sum() / power.sum()) > 0.97
