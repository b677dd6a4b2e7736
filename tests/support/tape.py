"""A recorder that does on a CPU what a CUDA graph does: the same operations on the same memory."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from musiclm.stages.graph.recording import Step

_ASKS_THE_HOST = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class Tape(TorchDispatchMode):
    """The operations of a step with the numbers and tensors they were given; played again as is.

    What a step takes from Python (a position, a shape) is recorded as it was, so a step that would
    need another value later says something else when it is played.
    """

    def __init__(self):
        super().__init__()
        self.operations: list[Any] = []
        self.num_played = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if _ASKS_THE_HOST & set(func.tags):
            raise RuntimeError(f"{func} makes the host wait for the device")
        results = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, results))
        return results

    def tensors(self):
        """All that operations were given and gave."""
        return _tensors([(args, kwargs, results) for _, args, kwargs, results in self.operations])

    def play(self):
        self.num_played += 1
        for func, args, kwargs, results in self.operations:
            given = {_memory(tensor) for tensor in _tensors((args, kwargs))}
            again = _tensors(func(*args, **kwargs))
            for tensor, new in zip(_tensors(results), again, strict=True):
                if _memory(tensor) not in given:  # neither a view nor changed in place
                    assert tensor.shape == new.shape
                    tensor.copy_(new)


class TapeRecorder:
    """Records each step on a tape of its own."""

    def __init__(self):
        self.tapes: list[Tape] = []

    def __call__(self, step: Step) -> Step:
        tape = Tape()
        with tape:
            step()
        self.tapes.append(tape)
        return tape.play


def _tensors(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _memory(tensor):
    return tensor.untyped_storage().data_ptr()
