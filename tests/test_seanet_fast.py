"""The compiled SEANet: the plain one but for bfloat16's rounding; streams, batches, fallbacks."""

import copy
import importlib.util
import math

import pytest
import torch
from einops import rearrange
from torch.nn import functional

from musiclm.codec import inference
from musiclm.codec.seanet import SeanetConfig, SeanetEncoder
from musiclm.codec.soundstream import SoundStream, SoundStreamConfig
from musiclm.core.errors import ConfigError
from musiclm.core.runtime import RandomStreams
from musiclm.quantization.residual import QuantizerConfig

HAS_NUMBA = importlib.util.find_spec("numba") is not None
NEEDS_BFLOAT16 = pytest.mark.skipif(
    not (HAS_NUMBA and inference.has_fast_bfloat16()), reason="needs numba and AVX-512 BF16"
)
SMALL = SoundStreamConfig(
    backbone="seanet",
    seanet=SeanetConfig(channels=8, latent_dim=16),
    quantizer=QuantizerConfig(num_quantizers=4, codebook_size=32, codebook_dim=16),
)
UNLIKE = SoundStreamConfig(
    backbone="seanet",
    sample_rate_hz=15_000,
    seanet=SeanetConfig(channels=40, strides=(5, 6), dilations=(2,), kernel_size=4, latent_dim=20),
    quantizer=QuantizerConfig(num_quantizers=2, codebook_size=32, codebook_dim=20),
)


def audio(config=SMALL, frames=30, batch=2):
    generator = RandomStreams(5).generator("audio")
    return 0.1 * torch.randn(batch, frames * config.hop_length, generator=generator)


def built(config=SMALL):
    """A codec whose weights keep signals as loud as they come, and a codebook that has seen one."""
    codec = SoundStream(config)
    generator = RandomStreams(6).generator("weights")
    with torch.no_grad():
        for parameter in codec.parameters():
            scale = 1 / math.sqrt(parameter[0].numel()) if parameter.ndim > 1 else 0.05
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
        codec.quantizer.train()(codec.encoder(audio(config)), generator=generator)
    return codec.eval()


def si_sdr_db(given, wanted):
    """Of all examples together: what is like the wanted over what is not."""
    like = (given * wanted).sum() / wanted.square().sum() * wanted
    return 10 * torch.log10(like.square().sum() / (given - like).square().sum())


def _floats(bits):
    return torch.from_numpy(bits.view("int16")).view(torch.bfloat16).float()


@pytest.fixture(params=["small", "unlike"])
def plain(request):
    return built(SMALL if request.param == "small" else UNLIKE)


@pytest.fixture
def fast(plain):
    codec = copy.deepcopy(plain).for_inference()
    assert codec.encoder.fast is not None
    assert codec.decoder.fast is not None
    return codec


@NEEDS_BFLOAT16
@torch.no_grad()
def test_latents_and_audio_are_the_plain_ones_but_for_rounding(plain, fast):
    samples = audio(plain.config)
    wanted, latents = plain.encoder(samples), fast.encoder(samples)
    assert latents.shape == wanted.shape
    assert latents.is_contiguous()
    assert (latents - wanted).norm() < 0.01 * wanted.norm()
    wanted, given = plain.decoder(latents), fast.decoder(latents)
    assert given.shape == wanted.shape
    assert si_sdr_db(given, wanted) > 40


@NEEDS_BFLOAT16
@pytest.mark.parametrize(
    ("taps", "ins", "outs", "stride", "dilation"),
    [
        (7, 32, 32, 1, 9),
        (7, 64, 64, 1, 1),
        (8, 32, 64, 4, 1),
        (1, 96, 32, 1, 1),
        (3, 64, 192, 1, 2),
    ],
)
def test_sums_are_torchs_of_the_rounded_numbers(taps, ins, outs, stride, dilation):
    from musiclm.codec.seanet_fast import _packed, _to_bits
    from musiclm.codec.seanet_kernels import Following, convolve

    generator = RandomStreams(7).generator("kernel")
    weight = torch.randn(taps, ins, outs, generator=generator) / math.sqrt(taps * ins)
    bias = torch.randn(outs, generator=generator)
    inputs = torch.randn(100, ins, generator=generator).bfloat16()
    turned = rearrange(weight.bfloat16().float(), "taps ins outs -> outs ins taps")
    wanted = functional.conv1d(inputs.float().T, turned, bias, stride, dilation=dilation).T
    hidden = torch.randn(wanted.shape, generator=generator)
    wanted = wanted + hidden
    activated = _to_bits(torch.zeros(hidden.shape, dtype=torch.bfloat16))
    convolve(
        _packed(weight, bias, stride=stride, dilation=dilation),
        Following(is_added=True, is_kept=True, is_activated=True),
        _to_bits(inputs).reshape(-1),
        hidden.numpy().reshape(-1),
        activated.reshape(-1),
        len(wanted),
    )
    assert torch.allclose(hidden, wanted, atol=2e-5)
    assert torch.allclose(_floats(activated), functional.elu(wanted), atol=1e-4, rtol=2**-8)


@NEEDS_BFLOAT16
def test_elu_is_torchs_to_bfloat16():
    from musiclm.codec.seanet_fast import _packed, _to_bits
    from musiclm.codec.seanet_kernels import Following, convolve

    values = torch.cat([torch.linspace(-100, 20, 2_000), -torch.logspace(-6, 30, 240)]).view(70, 32)
    bits = _to_bits(torch.zeros(70, 32, dtype=torch.bfloat16))
    convolve(
        _packed(torch.zeros(1, 32, 32), torch.zeros(32)),
        Following(is_added=True, is_kept=False, is_activated=True),
        bits.copy().reshape(-1),
        values.numpy().reshape(-1),
        bits.reshape(-1),
        70,
    )
    assert torch.allclose(_floats(bits), functional.elu(values), atol=1e-7, rtol=2**-8)


@NEEDS_BFLOAT16
@torch.no_grad()
def test_streams_have_the_bits_of_the_whole(fast):
    samples = audio(fast.config)
    latents = fast.encoder(samples)
    decoded = fast.decoder(latents)
    state, pieces = fast.encoder.initial_state(samples), []
    total = samples.shape[1]
    for piece in samples.split(
        [7, 1, total // 7, total // 2, total - total // 2 - total // 7 - 8], 1
    ):
        piece, state = fast.encoder.stream(piece, state)
        pieces.append(piece)
    assert torch.equal(torch.cat(pieces, dim=2), latents)
    state, pieces = fast.decoder.initial_state(latents), []
    for piece in latents.split([1, 0, 2, 9, 18], dim=2):
        piece, state = fast.decoder.stream(piece, state)
        pieces.append(piece)
    assert torch.equal(torch.cat(pieces, dim=1), decoded)


@NEEDS_BFLOAT16
@torch.no_grad()
def test_codes_stream_through_the_codec(fast):
    codes = fast.encode(audio(fast.config))
    state, pieces = fast.decoder_state(2), []
    for piece in codes.split(7, dim=2):
        piece, state = fast.decode_stream(piece, state)
        pieces.append(piece)
    assert torch.equal(torch.cat(pieces, dim=1), fast.decode(codes))


@NEEDS_BFLOAT16
@torch.no_grad()
def test_batches_and_threads_change_no_bit(fast, monkeypatch):
    samples = audio(fast.config, frames=100, batch=3)
    latents = fast.encoder(samples)
    decoded = fast.decoder(latents)
    monkeypatch.setattr("musiclm.codec.seanet_fast._SHARE_FRAMES", 30)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for row in range(3):
        single = slice(row, row + 1)
        assert torch.equal(fast.encoder(samples[single]), latents[single])
        assert torch.equal(fast.decoder(latents[single]), decoded[single])


@NEEDS_BFLOAT16
def test_gradients_take_the_plain_path(plain, fast):
    samples = audio(plain.config, frames=3)
    wanted, given = plain(samples), fast(samples)
    assert torch.equal(given.samples, wanted.samples)
    given.samples.square().mean().backward()
    assert all(parameter.grad is not None for parameter in fast.decoder.parameters())


@NEEDS_BFLOAT16
def test_training_ends_it_and_saying_it_again_takes_the_new_weights(plain, fast):
    fast.train()
    assert fast.encoder.fast is None
    assert fast.decoder.fast is None
    with torch.no_grad():
        for codec in (plain, fast):
            for parameter in codec.parameters():
                parameter.mul_(0.9)
        fast.for_inference()
        latents = plain.encoder(audio(plain.config))
        assert not fast.training
        assert si_sdr_db(fast.decoder(latents), plain.decoder(latents)) > 40


@NEEDS_BFLOAT16
def test_a_stream_begun_by_the_plain_path_is_refused():
    codec = built()
    state = codec.decoder_state(2)
    codec.for_inference()
    with pytest.raises(ConfigError, match="begin another"):
        codec.decode_stream(torch.zeros(2, 4, 3, dtype=torch.long), state)


def test_elsewhere_nothing_changes(monkeypatch):
    plain, codec = built(), built()
    assert isinstance(codec.encoder, SeanetEncoder)
    with monkeypatch.context() as patch:
        patch.setattr(inference, "has_fast_bfloat16", lambda: False)
        assert HAS_NUMBA is False or "AVX-512" in str(inference.why_not_fast(codec.encoder))
        codec.for_inference()
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None)
        assert "musiclm[fast]" in str(inference.why_not_fast(codec.encoder))
    assert codec.encoder.fast is None
    assert codec.decoder.fast is None
    codes = plain.encode(audio())
    assert torch.equal(codec.encode(audio()), codes)
    assert torch.equal(codec.decode(codes), plain.decode(codes))
    half, elsewhere = copy.deepcopy(codec.encoder).bfloat16(), codec.encoder.to("meta")
    assert "bfloat16" in str(inference.why_not_fast(half))
    assert "meta" in str(inference.why_not_fast(elsewhere))


def test_the_spectral_backbone_is_left_as_it_is():
    codec = SoundStream(SoundStreamConfig()).train()
    assert codec.for_inference() is codec
    assert not codec.training
    assert not hasattr(codec.encoder, "fast")
