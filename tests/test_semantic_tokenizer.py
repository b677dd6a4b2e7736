"""SemanticTokenizer: frames, windows, batches, files, and refusals."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch.testing import assert_close

from musiclm.audio.spectrogram import LogMelConfig
from musiclm.core.errors import AudioError, CheckpointError, ConfigError
from musiclm.core.runtime import RandomStreams
from musiclm.layers.conformer import ConformerConfig
from musiclm.semantic.tokenizer import SemanticTokenizer, SemanticTokenizerConfig
from musiclm.semantic.w2v_bert import W2vBert
from musiclm.semantic.w2v_bert_config import W2vBertConfig
from musiclm.tokens.spec import Tokenizer

CONFIG = SemanticTokenizerConfig(
    w2v_bert=W2vBertConfig(
        spectrogram=LogMelConfig(num_mels=16),
        front_end_channels=4,
        conformer=ConformerConfig(dim=16, num_heads=2, feed_forward_multiplier=2),
        num_contrastive_layers=1,
        num_prediction_layers=2,
        codebook_size=32,
        codebook_dim=8,
    ),
    layer=1,
    num_clusters=20,
    window_seconds=2.0,
    context_seconds=0.4,
)


def audio(batch: int, num_samples: int) -> torch.Tensor:
    generator = RandomStreams(5).generator("audio")
    noise = torch.randn(batch, num_samples, generator=generator)
    loudness = torch.rand(batch, num_samples // 2400 + 1, generator=generator)
    return 0.3 * noise * loudness.repeat_interleave(2400, dim=1)[:, :num_samples]


@pytest.fixture
def tokenizer() -> SemanticTokenizer:
    made = SemanticTokenizer.from_w2v_bert(W2vBert(CONFIG.w2v_bert), CONFIG).eval()
    features = made.features(audio(1, 96_000))[0]
    mean, deviation = features.mean(dim=1), features.std(dim=1)
    standard = ((features - mean[:, None]) / deviation[:, None]).T
    made.fill(mean, deviation, standard[::5][:20].contiguous())
    return made


def test_spec_and_frames(tokenizer: SemanticTokenizer):
    follows: Tokenizer = tokenizer
    assert (follows.token_spec.num_quantizers, follows.token_spec.codebook_size) == (1, 20)
    assert (follows.token_spec.frame_rate_hz, follows.sample_rate_hz) == (25, 24_000)
    for num_samples in (1, 959, 960, 961, 48_000, 100_001):
        codes = tokenizer.tokenize(audio(1, num_samples))
        assert codes.shape == (1, 1, -(-num_samples // 960))
        assert codes.dtype == torch.int64
    assert len(tokenizer.tokenize(audio(1, 96_000)).unique()) > 5


def test_layers_above_the_chosen_one_are_not_kept(tokenizer: SemanticTokenizer):
    model = W2vBert(CONFIG.w2v_bert).eval()
    cut = SemanticTokenizer.from_w2v_bert(model, CONFIG).eval()
    assert len(cut.encoder.prediction_blocks) == 1
    samples = audio(2, 24_000)
    assert_close(cut.features(samples), model.features(samples, 1))


def test_missing_samples_of_the_last_frame_are_silence(tokenizer: SemanticTokenizer):
    samples = audio(1, 30_000)
    padded = torch.nn.functional.pad(samples, (0, 720))
    assert torch.equal(tokenizer.tokenize(samples), tokenizer.tokenize(padded))


def test_batch_equals_singles_for_short_and_long_audio(tokenizer: SemanticTokenizer):
    for num_samples in (40_000, 300_000):
        samples = audio(3, num_samples)
        together = tokenizer.features(samples)
        alone = torch.cat([tokenizer.features(each[None]) for each in samples])
        assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_codes_depend_on_nearby_audio_only(tokenizer: SemanticTokenizer):
    samples = audio(1, 10 * 24_000)
    changed = samples.clone()
    changed[:, 6 * 24_000 :] = 0
    first, second = tokenizer.features(samples), tokenizer.features(changed)
    same = (first - second).abs().amax(dim=1)[0] < 1e-4
    assert bool(same[: 4 * 25].all())
    assert not bool(same[6 * 25 :].any())


def test_windows_cover_every_frame_once(tokenizer: SemanticTokenizer):
    """One frame more than a whole window: the tail agrees with the tail seen in its own window."""
    length = CONFIG.window_frames + 2 * CONFIG.context_frames
    samples = audio(1, (length + 7) * 960)
    features = tokenizer.features(samples)
    assert features.shape[-1] == length + 7
    tail = tokenizer.features(samples[:, 7 * 960 :])
    head = tokenizer.features(samples[:, : length * 960])
    kept = CONFIG.window_frames + CONFIG.context_frames
    assert_close(features[..., :kept], head[..., :kept], atol=1e-4, rtol=1e-4)
    assert_close(features[..., kept:], tail[..., kept - 7 :], atol=1e-4, rtol=1e-4)


def test_a_saved_tokenizer_gives_the_same_codes(tokenizer: SemanticTokenizer, tmp_path: Path):
    path = tmp_path / "semantic.safetensors"
    tokenizer.save(path, storage="float32")
    loaded = SemanticTokenizer.load(path)
    assert loaded.config == CONFIG
    samples = audio(2, 100_000)
    assert torch.equal(loaded.tokenize(samples), tokenizer.tokenize(samples))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(CheckpointError):
        SemanticTokenizer.load(path)


def test_refusals(tokenizer: SemanticTokenizer):
    with pytest.raises(AudioError, match="0 samples"):
        tokenizer.tokenize(torch.zeros(1, 0))
    with pytest.raises(ConfigError, match="centroids"):
        tokenizer.fill(torch.zeros(16), torch.ones(16), torch.zeros(19, 16))
    other = CONFIG.w2v_bert.model_copy(update={"codebook_dim": 4})
    with pytest.raises(ConfigError):
        SemanticTokenizer.from_w2v_bert(W2vBert(other), CONFIG)
    with pytest.raises(ValidationError, match="at most 2"):
        SemanticTokenizerConfig(w2v_bert=CONFIG.w2v_bert, layer=3)
    with pytest.raises(ValidationError, match="whole frames"):
        SemanticTokenizerConfig(window_seconds=1.01)
