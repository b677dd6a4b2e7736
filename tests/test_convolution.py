"""Causal layers: whole = streamed, no future leaks, lengths are exact."""

import pytest
import torch

from musiclm.core.runtime import RandomStreams
from musiclm.layers.convolution import CausalConv1d, CausalConvTranspose1d, ConvNextBlock

LAYERS = {
    "plain": (lambda: CausalConv1d(4, 6, 7), 1.0),
    "pointwise": (lambda: CausalConv1d(4, 6, 1), 1.0),
    "dilated": (lambda: CausalConv1d(4, 4, 7, dilation=9), 1.0),
    "strided": (lambda: CausalConv1d(4, 8, 6, stride=3), 1 / 3),
    "grouped": (lambda: CausalConv1d(4, 4, 3, groups=4), 1.0),
    "transposed": (lambda: CausalConvTranspose1d(4, 3, stride=5), 5.0),
    "convnext": (lambda: ConvNextBlock(4), 1.0),
}


def built(name):
    layer, ratio = LAYERS[name]
    module = layer()
    generator = RandomStreams(1).generator(name)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module, ratio, torch.randn(2, 4, 36, generator=generator)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("piece", [3, 12])
def test_streamed_equals_whole(name, piece):
    module, ratio, inputs = built(name)
    whole = module(inputs)
    assert whole.shape[-1] == round(36 * ratio)
    state = module.initial_state(inputs)
    outputs = []
    for part in inputs.split(piece, dim=-1):
        output, state = module.stream(part, state)
        outputs.append(output)
    assert torch.allclose(torch.cat(outputs, dim=-1), whole, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_the_future_does_not_leak(name):
    module, ratio, inputs = built(name)
    changed = inputs.clone()
    changed[..., 18:] += 1.0
    before, after = module(inputs), module(changed)
    cut = round(18 * ratio)
    assert torch.allclose(before[..., :cut], after[..., :cut], atol=1e-6)
    assert not torch.allclose(before[..., cut:], after[..., cut:], atol=1e-3)


def test_a_kernel_shorter_than_its_stride_is_refused():
    with pytest.raises(ValueError, match="stride"):
        CausalConv1d(1, 1, 2, stride=4)
