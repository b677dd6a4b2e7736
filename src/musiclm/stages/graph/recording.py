"""Recording a step once and replaying it: as a CUDA graph on a GPU, not at all elsewhere."""

from collections.abc import Callable

import torch

Step = Callable[[], None]
Recorder = Callable[[Step], Step]
"""Turns a step into one that does the same, faster; it may run the step up to `WARM_UPS` times."""
WARM_UPS = 2


def run_as_it_is(step: Step) -> Step:
    """No recording: the step itself."""
    return step


class CudaRecorder:
    """Records steps as CUDA graphs.

    A replay launches every kernel of a step at once, with the same addresses: a step must keep what
    it reads and writes in tensors that stay. Graphs share the memory of what they forget.

    Args:
        device: A CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._first: torch.cuda.CUDAGraph | None = None

    def __call__(self, step: Step) -> Step:
        """Runs a step to compile and set up what it needs, then records it.

        Raises:
            RuntimeError: The step asks the host something, or memory runs out.
        """
        with torch.cuda.device(self._device):
            side, current = torch.cuda.Stream(), torch.cuda.current_stream()
            side.wait_stream(current)
            with torch.cuda.stream(side):
                for _ in range(WARM_UPS):
                    step()
            current.wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            pool = None if self._first is None else self._first.pool()
            # Other threads may go on with work of their own meanwhile.
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                step()
            self._first = self._first or graph
        return graph.replay


def recorder_for(device: torch.device) -> Recorder:
    """What records on a device."""
    return CudaRecorder(device) if device.type == "cuda" else run_as_it_is
