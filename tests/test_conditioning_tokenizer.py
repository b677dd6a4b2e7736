import pytest
import torch
from torch.nn import functional

from musiclm.conditioning.audio_tower import AudioTowerConfig
from musiclm.conditioning.conditioner import Conditioner, ConditionerConfig
from musiclm.conditioning.mulan import MuLanConfig
from musiclm.conditioning.resnet import ResNetConfig
from musiclm.conditioning.text_tower import TextTowerConfig
from musiclm.conditioning.tokenizer import ConditioningTokenizer, ConditioningTokenizerConfig
from musiclm.conditioning.word_pieces import SPECIAL_PIECES
from musiclm.core.errors import CheckpointError, ConfigError
from musiclm.core.pretrained import save_weights
from musiclm.core.runtime import RandomStreams
from musiclm.quantization.residual import QuantizerConfig

QUANTIZER = QuantizerConfig(num_quantizers=4, codebook_size=16, codebook_dim=8)


def unit_vectors(count, name):
    rows = torch.randn(count, 8, generator=RandomStreams(0).generator(name))
    return functional.normalize(rows, dim=1)


def fitted(num_levels):
    config = ConditioningTokenizerConfig(quantizer=QUANTIZER, num_levels=num_levels)
    tokenizer = ConditioningTokenizer(config)
    generator = RandomStreams(0).generator("fit")
    residual = unit_vectors(400, "fit")
    for level in tokenizer.quantizer.quantizers:
        level.initialise(residual, generator)
        residual = residual - level.embed(level.nearest(residual))
    return tokenizer.eval()


def test_codes_have_the_promised_shape_and_fewer_levels_are_a_prefix():
    tokenizer = fitted(3)
    codes = tokenizer.tokenize(unit_vectors(5, "x"))
    assert codes.shape == (5, tokenizer.token_spec.num_quantizers, 1)
    assert tokenizer.token_spec.num_frames(12.3) == 1
    every = tokenizer.tokenize(unit_vectors(5, "x"), num_levels=4)
    torch.testing.assert_close(every[:, :3], codes)
    with pytest.raises(ConfigError, match="5 levels"):
        tokenizer.tokenize(unit_vectors(5, "x"), num_levels=5)


def test_every_level_brings_the_embedding_closer():
    tokenizer = fitted(4)
    x = unit_vectors(50, "x")
    errors = [
        float((tokenizer.embedding(tokenizer.tokenize(x, num_levels=n)) - x).square().mean())
        for n in range(1, 5)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.5 * errors[0]


def test_text_that_lies_beside_the_audio_is_moved_onto_it():
    tokenizer = fitted(1)
    audio = unit_vectors(200, "audio")
    gap = torch.zeros(8)
    gap[0] = 3.0
    text = audio + gap
    codes = tokenizer.tokenize(audio)
    before = (tokenizer.tokenize_text(text) == codes).double().mean()
    tokenizer.learn_text_shift(text, audio)
    after = (tokenizer.tokenize_text(text) == codes).double().mean()
    assert after == 1.0 > before


def test_config_refuses_more_levels_than_there_are():
    with pytest.raises(ValueError, match="num_levels is 5"):
        ConditioningTokenizerConfig(quantizer=QUANTIZER, num_levels=5)


@pytest.fixture
def conditioner():
    resnet = ResNetConfig(
        block="separable",
        stem_width=4,
        stem_stride=(8, 8),
        stem_kernel=3,
        stage_widths=(8,),
        stage_blocks=(1,),
    )
    text = TextTowerConfig(
        vocabulary=(*SPECIAL_PIECES, "slow", "fast", "piano"),
        hidden_dim=16,
        num_layers=1,
        num_heads=2,
        feedforward_dim=16,
        embedding_dim=8,
    )
    mulan = MuLanConfig(audio=AudioTowerConfig(resnet=resnet, embedding_dim=8), text=text)
    tokenizer = ConditioningTokenizerConfig(quantizer=QUANTIZER, num_levels=2)
    conditioner = Conditioner(ConditionerConfig(mulan=mulan, tokenizer=tokenizer)).eval()
    conditioner.tokenizer.load_state_dict(fitted(2).state_dict())
    return conditioner


@pytest.mark.parametrize(("storage", "tolerance"), [("float32", 0.0), ("int8", 0.02)])
def test_one_file_holds_everything(conditioner, tmp_path, storage, tolerance):
    path = tmp_path / "mulan.safetensors"
    conditioner.save(path, storage=storage)
    again = Conditioner.load(path)
    assert again.config == conditioner.config
    texts = ["slow piano", "fast, zzz"]
    one, two = conditioner.mulan.embed_text(texts), again.mulan.embed_text(texts)
    torch.testing.assert_close(one, two, atol=tolerance, rtol=0)
    assert again.tokenize_text(texts).shape == (2, 2, 1)


def test_audio_goes_in_and_codes_come_out_alike_for_one_and_for_many(conditioner):
    generator = RandomStreams(0).generator("audio")
    samples = 0.1 * torch.randn(2, 24_000 * 11, generator=generator)
    codes = conditioner.tokenize(samples)
    assert codes.shape == (2, 2, 1)
    torch.testing.assert_close(conditioner.tokenize(samples[1:]), codes[1:])
    assert conditioner.sample_rate_hz == 24_000


def test_a_foreign_file_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="No weights"):
        Conditioner.load(tmp_path / "absent.safetensors")
    other = fitted(2)
    save_weights(other, tmp_path / "x.safetensors", config_json=other.config.to_json())
    with pytest.raises(ConfigError, match="ConditionerConfig"):
        Conditioner.load(tmp_path / "x.safetensors")
