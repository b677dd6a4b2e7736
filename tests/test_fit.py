"""Fitting: centroids of clusters that are there, codebooks that leave less at every level."""

import pytest
import torch

from musiclm.audio.spectrogram import LogMelConfig
from musiclm.core.errors import DataError
from musiclm.core.runtime import RandomStreams, Runtime
from musiclm.layers.conformer import ConformerConfig
from musiclm.quantization.residual import QuantizerConfig, ResidualVectorQuantizer
from musiclm.semantic.tokenizer import SemanticTokenizerConfig
from musiclm.semantic.w2v_bert import W2vBert, W2vBertConfig
from musiclm.training.fit import fit_kmeans, fit_residual_quantizer
from musiclm.training.semantic_tokenizer import SemanticFitConfig, fit_semantic_tokenizer
from musiclm.training.task import Batch

RUNTIME = Runtime(torch.device("cpu"), 1)
MEL = LogMelConfig(num_mels=16)


def blobs(num: int = 2000) -> tuple[torch.Tensor, torch.Tensor]:
    """Eight well separated clusters with very unlike scales on their two axes."""
    generator = RandomStreams(1).generator("blobs")
    centres = torch.tensor([[x, y] for x in (0.0, 1, 2, 3) for y in (0.0, 1000)]) + 5
    labels = torch.randint(8, (num,), generator=generator)
    noise = torch.randn(num, 2, generator=generator) * torch.tensor([0.05, 20])
    return centres[labels] + noise, labels


def test_kmeans_finds_the_clusters_that_are_there():
    features, labels = blobs()
    fit = fit_kmeans(features, 8, seed=3)
    assert torch.allclose(fit.mean, features.mean(dim=0))
    codes = torch.cdist((features - fit.mean) / fit.deviation, fit.centroids).argmin(dim=1)
    table = torch.zeros(8, 8).index_put_((labels, codes), torch.ones(len(labels)), accumulate=True)
    assert int((table > 0).sum()) == 8  # one code a cluster, though one axis is 1,000 times wider
    assert fit.perplexity == pytest.approx(8, abs=0.1)
    assert fit.distortion < 0.01


def test_the_same_seed_gives_the_same_centroids():
    features, _ = blobs(500)
    one, same = fit_kmeans(features, 20, seed=3), fit_kmeans(features, 20, seed=3)
    other = fit_kmeans(features, 20, seed=4)
    assert torch.equal(one.centroids, same.centroids)
    assert not torch.equal(one.centroids, other.centroids)


def test_a_constant_dimension_is_harmless():
    features, _ = blobs(200)
    fit = fit_kmeans(torch.cat([features, torch.ones(200, 1)], dim=1), 8, seed=0)
    assert torch.isfinite(fit.centroids).all()


def test_features_that_cannot_be_fitted_are_refused():
    features, _ = blobs(10)
    with pytest.raises(DataError, match="there are 10"):
        fit_kmeans(features, 11, seed=0)
    features[3, 1] = float("nan")
    with pytest.raises(DataError, match="not finite"):
        fit_kmeans(features, 4, seed=0)


def quantizer(size: int = 16) -> ResidualVectorQuantizer:
    config = QuantizerConfig(num_quantizers=4, codebook_size=size, codebook_dim=6)
    return ResidualVectorQuantizer(config).eval()


def test_each_level_leaves_less_and_the_quantizer_does_what_the_fit_says():
    generator = RandomStreams(2).generator("embeddings")
    embeddings = torch.nn.functional.normalize(torch.randn(600, 6, generator=generator), dim=1)
    fitted = quantizer()
    fit = fit_residual_quantizer(embeddings, fitted, seed=5)
    assert all(b < 0.9 * a for a, b in zip((1.0, *fit.distortions), fit.distortions, strict=False))
    for levels in range(1, 5):
        restored = fitted.decode(fitted.encode(embeddings[:, :, None], levels))[:, :, 0]
        left = float((restored - embeddings).square().sum() / embeddings.square().sum())
        assert left == pytest.approx(fit.distortions[levels - 1], rel=1e-3)
    assert min(fit.perplexities) > 8
    assert fitted.usage_perplexity() == pytest.approx(fit.perplexities, rel=1e-4)
    again = quantizer()
    fit_residual_quantizer(embeddings, again, seed=5)
    codes = [q.encode(embeddings[:, :, None]) for q in (fitted, again)]
    assert torch.equal(*codes)


def test_fewer_embeddings_than_codes_are_kept_exactly():
    embeddings = torch.randn(5, 6, generator=RandomStreams(0).generator("few"))
    fitted = quantizer()
    fit = fit_residual_quantizer(embeddings, fitted, seed=0)
    assert fit.distortions[-1] < 1e-6
    restored = fitted.decode(fitted.encode(embeddings[:, :, None]))[:, :, 0]
    assert torch.allclose(restored, embeddings, atol=1e-3)
    with pytest.raises(DataError, match="0 embeddings"):
        fit_residual_quantizer(embeddings[:0], fitted, seed=0)


class NoiseSource:
    """Noise whose loudness changes."""

    def batch(self, step: int, microbatch: int) -> Batch:
        generator = RandomStreams(7).generator("noise", step, microbatch)
        loud = torch.rand(4, 20, generator=generator).repeat_interleave(1200, dim=1)
        return {"samples": torch.randn(4, 24_000, generator=generator) * loud}

    def validation_batches(self) -> list[Batch]:
        return []


def test_a_semantic_tokenizer_is_fitted_on_its_own_standardised_features():
    config = SemanticTokenizerConfig(
        w2v_bert=W2vBertConfig(
            spectrogram=MEL,
            front_end_channels=4,
            conformer=ConformerConfig(dim=16, num_heads=2, feed_forward_multiplier=2),
            num_contrastive_layers=1,
            num_prediction_layers=1,
            codebook_size=32,
            codebook_dim=8,
        ),
        layer=1,
        num_clusters=12,
    )
    with RandomStreams(0).layers_draw_from("init"):
        model = W2vBert(config.w2v_bert)
    source, settings = NoiseSource(), SemanticFitConfig(num_batches=6, max_vectors=300)
    fit = fit_semantic_tokenizer(model, config, source, settings, runtime=RUNTIME)
    again = fit_semantic_tokenizer(model, config, source, settings, runtime=RUNTIME)
    assert fit.num_frames == 300
    assert torch.equal(fit.kmeans.centroids, again.kmeans.centroids)
    codes = fit.tokenizer.tokenize(source.batch(0, 0)["samples"])
    assert codes.shape == (4, 1, 25)
    assert len(codes.unique()) > 6
    assert fit.kmeans.perplexity > 6
    assert 0 < fit.kmeans.distortion < 0.9
