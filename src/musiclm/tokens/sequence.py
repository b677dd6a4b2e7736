"""Codes to one sequence and back: time-major, one range of ids a level (AudioLM, Sec. III)."""

import torch
from einops import rearrange
from jaxtyping import Int
from torch import Tensor

from musiclm.tokens.spec import TokenSpec


def flatten(
    codes: Int[Tensor, "batch quantizers frames"], spec: TokenSpec
) -> Int[Tensor, "batch positions"]:
    """Time-major tokens `y_1^1 .. y_1^Q, y_2^1 ..`; level `q` is offset by `q * codebook_size`."""
    offsets = torch.arange(spec.num_quantizers, device=codes.device) * spec.codebook_size
    return rearrange(
        codes + offsets[None, :, None], "batch quantizers frames -> batch (frames quantizers)"
    )


def restore(
    tokens: Int[Tensor, "batch positions"], spec: TokenSpec
) -> Int[Tensor, "batch quantizers frames"]:
    """The inverse of `flatten`."""
    codes = rearrange(
        tokens,
        "batch (frames quantizers) -> batch quantizers frames",
        quantizers=spec.num_quantizers,
    )
    offsets = torch.arange(spec.num_quantizers, device=tokens.device) * spec.codebook_size
    return codes - offsets[None, :, None]
