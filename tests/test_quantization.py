"""The residual quantizer: round trips, levels, dropout, restarts, determinism."""

import pytest
import torch

from musiclm.core.errors import ConfigError
from musiclm.core.runtime import RandomStreams
from musiclm.quantization.residual import (
    QuantizerConfig,
    ResidualVectorQuantizer,
    VectorQuantizer,
)

CONFIG = QuantizerConfig(num_quantizers=4, codebook_size=16, codebook_dim=8)


def generator(*name):
    return RandomStreams(0).generator(*name)


def latents(*name, batch=8, frames=20):
    return torch.randn(batch, 8, frames, generator=generator("latents", *name))


@pytest.fixture
def fitted():
    quantizer = ResidualVectorQuantizer(CONFIG).train()
    for step in range(30):
        quantizer(latents(step), generator=generator(step))
    return quantizer.eval()


def test_decode_of_encode_is_forward_and_a_fixed_point(fitted):
    inputs = latents("new")
    codes = fitted.encode(inputs)
    output = fitted(inputs)
    assert torch.equal(codes, output.codes)
    assert torch.allclose(fitted.decode(codes), output.quantized, atol=1e-6)
    first = fitted.decode(codes[:, :1])
    assert torch.equal(fitted.encode(first, 1), codes[:, :1])


def test_more_levels_are_closer(fitted):
    inputs = latents("new")
    codes = fitted.encode(inputs)
    errors = [float((fitted.decode(codes[:, :n]) - inputs).square().mean()) for n in (1, 2, 3, 4)]
    assert errors == sorted(errors, reverse=True)
    assert errors[3] < 0.8 * errors[0]
    assert errors[0] < 0.9 * float(inputs.square().mean())


def test_levels_are_per_example(fitted):
    inputs = latents("new", batch=3)
    output = fitted(inputs, torch.tensor([1, 4, 2]))
    for row, count in enumerate((1, 4, 2)):
        expected = fitted.decode(output.codes[row : row + 1, :count])
        assert torch.allclose(output.quantized[row : row + 1], expected, atol=1e-6)


def test_dropout_draws_every_depth(fitted):
    drawn = fitted._drawn_levels(400, generator("dropout"))
    assert torch.bincount(drawn, minlength=5)[1:].min() > 60
    kept = ResidualVectorQuantizer(CONFIG.model_copy(update={"dropout_probability": 0.0}))
    assert bool((kept._drawn_levels(50, generator("dropout")) == 4).all())


def test_gradient_passes_straight_through(fitted):
    inputs = latents("new").requires_grad_()
    fitted(inputs).quantized.sum().backward()
    assert inputs.grad is not None
    assert torch.equal(inputs.grad, torch.ones_like(inputs))


def test_same_seed_same_codebooks_and_eval_learns_nothing():
    def run():
        quantizer = ResidualVectorQuantizer(CONFIG).train()
        for step in range(5):
            quantizer(latents(step), generator=generator(step))
        return quantizer

    first, second = run(), run()
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])
    before = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    first.eval()(latents("other"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in first.state_dict().items())


def test_a_dead_code_restarts_at_a_vector_of_the_batch():
    level = VectorQuantizer(CONFIG)
    vectors = latents("restart").permute(0, 2, 1).reshape(-1, 8)
    level.initialise(vectors, generator("restart"))
    level.codebook[3] = 1_000.0
    for step in range(400):
        codes = level.nearest(vectors)
        level.update(vectors, codes, generator("restart", step))
        if level.codebook[3].abs().max() < 100:
            break
    assert (vectors - level.codebook[3]).square().sum(dim=1).min() < 1e-9
    assert level.cluster_size[3] > 0


def test_ema_equals_the_pair_of_moving_averages():
    level = VectorQuantizer(CONFIG.model_copy(update={"dead_fraction": 0.0}))
    vectors = latents("ema").permute(0, 2, 1).reshape(-1, 8)
    level.initialise(vectors, generator("ema"))
    counts = level.cluster_size.clone()
    sums = level.codebook * counts[:, None]
    for step in range(3):
        codes = level.nearest(vectors)
        one_hot = torch.nn.functional.one_hot(codes, 16).float()
        counts = 0.99 * counts + 0.01 * one_hot.sum(dim=0)
        sums = 0.99 * sums + 0.01 * one_hot.T @ vectors
        level.update(vectors, codes, generator("ema", step))
        assert torch.allclose(level.codebook, sums / counts[:, None], atol=1e-5)


def test_first_batch_smaller_than_the_codebook_and_one_frame_inputs():
    quantizer = ResidualVectorQuantizer(CONFIG).train()
    output = quantizer(torch.randn(5, 8, 1, generator=generator("few")), generator=generator("few"))
    assert output.codes.shape == (5, 4, 1)
    assert output.perplexity.shape == (4,)
    assert bool((output.perplexity <= 5 + 1e-4).all())
    assert all(bool(level.initialised) for level in quantizer.quantizers)


def test_impossible_requests_are_refused(fitted):
    with pytest.raises(ConfigError, match="1 to 4"):
        fitted.encode(latents("new"), 5)
    with pytest.raises(ConfigError, match="generator"):
        fitted.train()(latents("new"))
