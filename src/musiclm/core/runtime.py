"""Where and how numbers are made: device, precision and the named random streams of one seed."""

import hashlib
import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from musiclm.core.errors import ConfigError
from musiclm.core.memory import keep_freed_memory


@dataclass(frozen=True)
class RandomStreams:
    """Independent generators derived from one seed by name.

    The same seed and name give the same draws on every machine. Generators live on the CPU, so
    that one seed gives one piece whatever the device.
    """

    seed: int

    def generator(self, *name: str | int) -> torch.Generator:
        """A fresh generator for the stream called `name` (for instance `"crops", rank, step`)."""
        text = "/".join([str(self.seed), *map(str, name)])
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        return torch.Generator(device="cpu").manual_seed(int.from_bytes(digest, "little") >> 1)

    @contextmanager
    def layers_draw_from(self, *name: str | int) -> Generator[None, None, None]:
        """Within the block, layers that cannot be handed a generator draw from this stream.

        Those are torch's initialisers and dropout. The global state is put back afterwards.
        """
        cpu_state = torch.random.get_rng_state()
        has_cuda = torch.cuda.is_initialized()
        cuda_state = torch.cuda.get_rng_state() if has_cuda else None
        seed = self.generator(*name).initial_seed()
        torch.default_generator.manual_seed(seed)
        if has_cuda:
            torch.cuda.manual_seed(seed)
        try:
            yield
        finally:
            torch.random.set_rng_state(cpu_state)
            if cuda_state is not None:
                torch.cuda.set_rng_state(cuda_state)


@dataclass(frozen=True)
class Runtime:
    """The device and the number of CPU threads a command runs with."""

    device: torch.device
    num_threads: int

    @classmethod
    def choose(cls, device: str = "auto", num_threads: int | None = None) -> "Runtime":
        """Picks a device once, for a CLI verb or a trainer.

        Args:
            device: `"auto"` (a GPU when there is one), `"cpu"`, `"cuda"` or `"cuda:N"`.
            num_threads: CPU threads for torch; by default as many as the process may use.

        Raises:
            ConfigError: The device is unknown or absent.
        """
        has_cuda = torch.cuda.is_available()  # noqa: TID251  (the one place that asks)
        if device == "auto":
            device = "cuda" if has_cuda else "cpu"
        if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
            raise ConfigError(f"Device {device!r} is unknown. Choose auto, cpu, cuda or cuda:N.")
        if device != "cpu" and not has_cuda:
            raise ConfigError(f"Device {device!r} was asked for but no GPU is visible. Use cpu.")
        if ":" in device and int(device[5:]) >= torch.cuda.device_count():
            raise ConfigError(
                f"Device {device!r} was asked for but there are {torch.cuda.device_count()} GPUs, "
                "counted from 0."
            )
        threads = _usable_cpus() if num_threads is None else num_threads
        if threads < 1:
            raise ConfigError(f"num_threads is {threads}; it must be at least 1.")
        torch.set_num_threads(threads)
        if device == "cpu":
            keep_freed_memory()
        return cls(torch.device(device), threads)


def _usable_cpus() -> int:
    """CPUs this process may run on; not every system can say, some only how many there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def one_thread() -> Generator[None, None, None]:
    """Runs the block on one CPU thread.

    For steps too small to share: on a busy machine threads that wait for one another cost many
    times what they save.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
