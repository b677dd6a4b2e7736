"""The transformer is causal, and cached decoding equals the whole pass."""

import pytest
import torch

from musiclm.core.errors import ConfigError
from musiclm.layers.transformer import Transformer, TransformerConfig


def small(positions, **changes):
    sizes = {"dim": 16, "num_layers": 3, "num_heads": 2, "head_dim": 8, "feed_forward_dim": 24}
    config = TransformerConfig(positions=positions, **{**sizes, **changes})
    generator = torch.Generator().manual_seed(0)
    model = Transformer(config, generator=generator).eval()
    for parameter in model.parameters():
        if parameter.ndim == 2 and not parameter.abs().sum():
            torch.nn.init.normal_(parameter, generator=generator)
    return model


def draws(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


KINDS = pytest.mark.parametrize("positions", ["rotary", "relative_bias"])


@KINDS
@torch.inference_mode()
def test_cached_equals_uncached(positions):
    model, inputs = small(positions), draws(2, 150, 16)
    whole = model(inputs)
    cache = model.new_cache(2, 150)
    pieces = [model.prefill(inputs[:, :3], cache), model.prefill(inputs[:, 3:10], cache)]
    pieces += [model.decode_step(inputs[:, i : i + 1], cache) for i in range(10, 150)]
    assert cache.length == 150
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-5, rtol=1e-5)


@KINDS
@torch.inference_mode()
def test_batch_equals_singles(positions):
    model, inputs = small(positions), draws(3, 9, 16)
    singles = torch.cat([model(inputs[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(model(inputs), singles, atol=1e-5, rtol=1e-5)


@KINDS
@torch.inference_mode()
def test_the_future_is_not_seen(positions):
    model, inputs = small(positions), draws(1, 12, 16)
    changed = inputs.clone()
    changed[:, 7:] += 1
    before, after = model(inputs), model(changed)
    torch.testing.assert_close(after[:, :7], before[:, :7], atol=1e-6, rtol=0)
    assert not torch.allclose(after[:, 7], before[:, 7], atol=1e-2)


@KINDS
@torch.inference_mode()
def test_order_matters(positions):
    model, inputs = small(positions), draws(1, 6, 16)
    swapped = inputs[:, [1, 0, 2, 3, 4, 5]]
    assert not torch.allclose(model(inputs)[:, -1], model(swapped)[:, -1], atol=1e-4)


@KINDS
@torch.inference_mode()
def test_bfloat16_weights_decode(positions):
    model, inputs = small(positions).to(torch.bfloat16), draws(1, 5, 16).bfloat16()
    cache = model.new_cache(1, 5)
    assert cache.keys[0].dtype == torch.bfloat16
    states = torch.cat([model.decode_step(inputs[:, i : i + 1], cache) for i in range(5)], 1)
    torch.testing.assert_close(states, model(inputs), atol=0.1, rtol=0.1)


def test_dropout_acts_in_training_only():
    model, inputs = small("rotary", dropout=0.5), draws(1, 6, 16)
    assert torch.equal(model(inputs), model(inputs))
    model.train()
    assert not torch.equal(model(inputs), model(inputs))


def test_full_cache_refuses_more():
    model = small("rotary")
    with pytest.raises(AssertionError, match="holds 4"):
        model.prefill(draws(1, 5, 16), model.new_cache(1, 4))


def test_odd_rotary_head_is_refused():
    with pytest.raises((ConfigError, ValueError), match="even"):
        small("rotary", head_dim=7)


def test_same_generator_same_weights():
    first, second = small("rotary"), small("rotary")
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
