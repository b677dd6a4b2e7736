"""Who runs a SEANet that is not trained: compiled bfloat16 kernels, where the CPU can."""

import importlib.util
from typing import Any

import torch

from musiclm.codec.seanet import LayerRunner, SeanetDecoder, SeanetEncoder


def why_not_fast(module: SeanetEncoder | SeanetDecoder) -> str | None:
    """Why the compiled kernels cannot run an encoder or decoder; None when they can."""
    weight = next(module.parameters())
    if weight.device.type != "cpu":
        return f"the model is on {weight.device.type}"
    if weight.dtype != torch.float32:
        return f"the weights are {str(weight.dtype).removeprefix('torch.')}"
    if importlib.util.find_spec("numba") is None:
        return 'numba is not installed; pip install "musiclm[fast]"'
    if not has_fast_bfloat16():
        return "the CPU has no AVX-512 BF16"
    return None


def has_fast_bfloat16() -> bool:
    """Whether numba compiles for this CPU, and the CPU multiplies bfloat16."""
    from llvmlite.binding import get_host_cpu_features
    from numba.core import config

    settings: Any = config
    if settings.DISABLE_JIT or settings.CPU_NAME or settings.CPU_FEATURES:
        return False
    try:
        return bool(get_host_cpu_features().get("avx512bf16"))
    except RuntimeError:  # LLVM does not know this kind of CPU
        return False


def fast_layers(module: SeanetEncoder | SeanetDecoder) -> LayerRunner | None:
    """The fastest way to run a module's layers as they are now; None for PyTorch's."""
    if why_not_fast(module) is not None:
        return None
    from musiclm.codec.seanet_fast import FastLayers  # imports numba

    return FastLayers(module)
