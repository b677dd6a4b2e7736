"""Tokens: flatten and restore are inverse and time-major; specs convert only exact durations."""

import pytest
import torch

from musiclm.core.errors import ConfigError
from musiclm.tokens.sequence import flatten, restore
from musiclm.tokens.spec import TokenSpec

ACOUSTIC = TokenSpec(name="acoustic", num_quantizers=12, codebook_size=1024, frame_rate_hz=50)


def codes(batch: int, spec: TokenSpec, frames: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.randint(
        spec.codebook_size, (batch, spec.num_quantizers, frames), generator=generator
    )


@pytest.mark.parametrize("num_quantizers", [1, 3, 12])
@pytest.mark.parametrize("frames", [0, 1, 7])
def test_restore_undoes_flatten(num_quantizers, frames):
    spec = ACOUSTIC.model_copy(update={"num_quantizers": num_quantizers})
    original = codes(2, spec, frames)
    tokens = flatten(original, spec)
    assert tokens.shape == (2, frames * num_quantizers)
    assert torch.equal(restore(tokens, spec), original)


def test_order_is_time_major_and_every_level_has_its_own_range():
    spec = TokenSpec(name="coarse", num_quantizers=2, codebook_size=10, frame_rate_hz=50)
    tokens = flatten(torch.tensor([[[1, 2, 3], [4, 5, 6]]]), spec)
    assert tokens.tolist() == [[1, 14, 2, 15, 3, 16]]


def test_position_tells_the_level():
    tokens = flatten(codes(3, ACOUSTIC, 5), ACOUSTIC)
    levels = torch.arange(tokens.shape[1]) % ACOUSTIC.num_quantizers
    assert torch.equal(tokens // ACOUSTIC.codebook_size, levels.expand(3, -1))


def test_a_prefix_of_frames_is_a_prefix_of_tokens():
    original = codes(1, ACOUSTIC, 6)
    assert torch.equal(
        flatten(original[..., :4], ACOUSTIC), flatten(original, ACOUSTIC)[:, : 4 * 12]
    )


def test_durations_are_whole_frames():
    assert ACOUSTIC.num_frames(10.0) == 500
    assert ACOUSTIC.num_frames(0.02) == 1
    assert ACOUSTIC.num_frames(0.1 + 0.2) == 15
    with pytest.raises(ConfigError, match="whole number of frames"):
        ACOUSTIC.num_frames(0.03)


def test_a_clip_has_one_conditioning_frame_whatever_its_length():
    spec = TokenSpec(name="conditioning", num_quantizers=12, codebook_size=1024, frame_rate_hz=0)
    assert spec.num_frames(3.33) == 1
