"""Conformer: shapes, masks of time, positions, independence of the batch, and its config."""

import pytest
import torch
from pydantic import ValidationError
from torch.testing import assert_close

from musiclm.core.runtime import RandomStreams
from musiclm.layers.conformer import ConformerBlock, ConformerConfig, rotate

TINY = ConformerConfig(dim=16, num_heads=2, feed_forward_multiplier=2, conv_kernel_frames=5)


def frames(batch: int = 2, length: int = 20) -> torch.Tensor:
    return torch.randn(batch, length, 16, generator=RandomStreams(1).generator("frames"))


def test_block_keeps_the_shape_and_normalises_each_frame():
    output = ConformerBlock(TINY)(frames())
    assert output.shape == (2, 20, 16)
    assert_close(output.mean(dim=-1), torch.zeros(2, 20), atol=1e-5, rtol=0)


def test_batch_equals_singles():
    block = ConformerBlock(TINY)
    together = block(frames())
    alone = torch.cat([block(each[None]) for each in frames()])
    assert_close(together, alone)


@pytest.mark.parametrize("is_causal", [True, False])
def test_the_future_is_hidden_exactly_when_the_block_is_causal(is_causal: bool):
    block = ConformerBlock(TINY.model_copy(update={"is_causal": is_causal}))
    changed = frames()
    changed[:, 12:] = changed[:, 12:].flip(2)
    difference = (block(frames()) - block(changed)).abs().amax(dim=(0, 2))
    assert bool((difference[12:] > 1e-4).all())
    assert bool((difference[:12] < 1e-6).all()) == is_causal


def test_only_the_distance_of_frames_reaches_the_product_of_rotated_heads():
    vectors = torch.randn(2, 8, generator=RandomStreams(2).generator("heads"))
    constant = vectors[:, None, None].expand(2, 1, 10, 8)
    queries, keys = rotate(constant)[0, 0], rotate(constant)[1, 0]
    products = queries @ keys.T
    assert_close(products[0, 3], products[4, 7])
    assert not torch.isclose(products[0, 3], products[0, 4])


def test_the_order_of_frames_matters():
    block = ConformerBlock(TINY)
    turned = block(frames().flip(1)).flip(1)
    assert (turned - block(frames())).abs().max() > 1e-3


@pytest.mark.parametrize(
    "wrong", [{"dim": 10, "num_heads": 4}, {"conv_kernel_frames": 4}, {"num_heads": 0}]
)
def test_config_refuses_nonsense(wrong: dict[str, int]):
    with pytest.raises(ValidationError):
        ConformerConfig.model_validate(wrong)
