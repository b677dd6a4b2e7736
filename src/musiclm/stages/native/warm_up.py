"""Compiles the decoding loop ahead of its first use."""

import time

import torch

from musiclm.core.runtime import RandomStreams
from musiclm.layers.transformer import TransformerConfig
from musiclm.stages.decoding import SamplingConfig
from musiclm.stages.language_model import StageConfig, StageModel
from musiclm.stages.layout import semantic_layout
from musiclm.stages.native.decoder import NativeDecoder
from musiclm.stages.native.packing import Precision
from musiclm.tokens.spec import TokenSpec


def compile_loop(precision: Precision = "int8") -> float:
    """Runs the loop once on a toy; what is compiled stays on disk for later processes.

    Args:
        precision: The kind of weights; `int8` is that of the bundled model.

    Returns:
        Seconds it took: a fraction of one when it was compiled before.
    """
    started = time.perf_counter()
    conditioning = TokenSpec(
        name="conditioning", num_quantizers=1, codebook_size=2, frame_rate_hz=0
    )
    semantic = TokenSpec(name="semantic", num_quantizers=1, codebook_size=2, frame_rate_hz=25)
    sizes = TransformerConfig(dim=4, num_layers=1, num_heads=1, head_dim=4, feed_forward_dim=4)
    config = StageConfig(
        layout=semantic_layout(conditioning, semantic), transformer=sizes, window_seconds=1
    )
    generator = RandomStreams(0).generator("compile")
    decoder = NativeDecoder(StageModel(config, generator=generator).eval(), precision=precision)
    codes = torch.zeros(1, 1, 1, dtype=torch.long)
    for _ in decoder.blocks(
        {"conditioning": codes}, 2, sampling=SamplingConfig(), generators=[generator]
    ):
        pass
    return time.perf_counter() - started
