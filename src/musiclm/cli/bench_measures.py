"""What `musiclm bench` measures of this model: speed, latency, memory, cold start."""

import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec

import torch

from musiclm.cli.bench_figures import Figure, timed
from musiclm.codec.soundstream import SoundStream, SoundStreamConfig
from musiclm.core.runtime import RandomStreams
from musiclm.generation.musiclm import MusicLM
from musiclm.generation.prompt import GenerationSettings
from musiclm.stages.decoder import Decoder, TorchDecoder
from musiclm.stages.decoding import SamplingConfig
from musiclm.stages.layout import Segment

PROMPT = "a calm violin melody over soft piano"
CODEC_SECONDS = 30.0
_STAGE_SECONDS = 3.0
_COMPILED_WINDOWS = 20
"""Windows of a run of the compiled loop; one takes some 30 ms, too short to measure well."""

_PEAK_MEMORY = """
import sys
from musiclm.generation.musiclm import MusicLM
from musiclm.generation.prompt import GenerationSettings
model = MusicLM.from_pretrained(sys.argv[1] or None, device=sys.argv[2])
settings = GenerationSettings(duration_seconds=float(sys.argv[3]))
for piece in model.stream(sys.argv[4], settings=settings):
    pass
try:  # not `ru_maxrss` where there is this: a new process begins with its parent's
    with open("/proc/self/status") as status:
        print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
except OSError:
    import resource
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
_FIRST_TOKEN = """
import os, sys
from musiclm.generation.musiclm import MusicLM
def say(stage, fraction):
    print("token", flush=True)
    os._exit(0)
MusicLM.from_pretrained(sys.argv[1] or None, device=sys.argv[2]).generate(sys.argv[4], progress=say)
"""


def real_time_factors(model: MusicLM, duration_seconds: float, runs: int) -> Figure:
    """Seconds of computing for a second of music, text to waveform."""

    def run() -> None:
        model.generate(PROMPT, duration_seconds=duration_seconds)

    values = tuple(seconds / duration_seconds for seconds in timed(run, runs))
    return Figure(name=f"text to wav, {duration_seconds:g} s", unit="x real time", values=values)


def first_sound(model: MusicLM, runs: int) -> Figure:
    """Seconds from the call to the first piece of audio of a stream."""

    def run() -> None:
        stream = model.stream(PROMPT, settings=GenerationSettings(duration_seconds=30.0))
        next(stream)
        stream.close()

    return Figure(name="first sound of a stream", unit="s", values=timed(run, runs))


def stage_speed(
    decoder: Decoder,
    name: str,
    runs: int,
    *,
    batch_size: int = 1,
    seconds: float = _STAGE_SECONDS,
    windows: int = 1,
) -> Figure:
    """Target tokens a second of one stage, all samples together, whole windows."""
    model = decoder.model
    codes = random_codes(model.layout.prefixes, batch_size, seconds)
    spec = model.layout.target.spec
    num_frames = spec.num_frames(seconds)

    def run() -> None:
        for window in range(windows):
            streams = [RandomStreams(window) for _ in range(batch_size)]
            generators = [stream.generator("bench", row) for row, stream in enumerate(streams)]
            for _ in decoder.blocks(
                codes, num_frames, sampling=SamplingConfig(), generators=generators
            ):
                pass

    tokens = windows * batch_size * num_frames * spec.num_quantizers
    values = tuple(tokens / taken for taken in timed(run, runs))
    return Figure(name=name, unit="tokens/s", values=values)


def stage_speeds(model: MusicLM, runs: int) -> list[Figure]:
    """Each stage with the loop that runs by default, and with PyTorch's."""
    figures: list[Figure] = []
    for name, decoder in model.stages.decoders.items():
        windows = 1 if isinstance(decoder, TorchDecoder) else _COMPILED_WINDOWS
        figures.append(stage_speed(decoder, f"{name} stage", runs, windows=windows))
        if not isinstance(decoder, TorchDecoder):
            reference = TorchDecoder(decoder.model, "reference")
            figures.append(stage_speed(reference, f"{name} stage, PyTorch loop", runs))
    return figures


def codec_speeds(model: MusicLM, runs: int) -> list[Figure]:
    """The bundled codec, and the `seanet` backbone with random weights.

    The backbone twice where it matters: as it runs when it is listened to, and in float32.
    """
    figures = _codec_speed("codec", model.codec, runs)
    seanet = SoundStream(SoundStreamConfig(backbone="seanet")).to(model.runtime.device)
    figures += _codec_speed("seanet codec", seanet.for_inference(), runs)
    if seanet.is_fast:
        reference = SoundStream(seanet.config).eval().to(model.runtime.device)
        figures += _codec_speed("seanet codec fp32", reference, runs)
    return figures


def peak_memory(model: MusicLM, duration_seconds: float) -> Figure:
    """The most memory a fresh process ever holds while it streams a piece."""
    name = f"peak memory, {duration_seconds:g} s"
    if find_spec("resource") is None:  # Windows
        return Figure(name=name, unit="MiB", note="not measured on this system")
    text = _fresh_process(model, _PEAK_MEMORY, duration_seconds)
    kibibytes = int(text.split()[-1]) / (1024 if sys.platform == "darwin" else 1)
    return Figure(name=name, unit="MiB", values=(kibibytes / 1024,))


def cold_start(model: MusicLM, runs: int) -> Figure:
    """Seconds from the start of a process to its first tokens (disk caches are warm)."""
    values = timed(lambda: _fresh_process(model, _FIRST_TOKEN, 10.0), runs)
    return Figure(name="cold start to first tokens", unit="s", values=values)


def speeds_of(
    name: str,
    encode: Callable[[], object],
    decode: Callable[[], object],
    runs: int,
    *,
    patience_seconds: float = math.inf,
) -> list[Figure]:
    """Encoding and decoding `CODEC_SECONDS` of audio, as multiples of real time."""
    return [
        Figure(
            name=f"{name}: {what}",
            unit="times real time",
            values=tuple(
                CODEC_SECONDS / taken
                for taken in timed(action, runs, patience_seconds=patience_seconds)
            ),
        )
        for what, action in (("encode", encode), ("decode", decode))
    ]


def _codec_speed(name: str, codec: SoundStream, runs: int) -> list[Figure]:
    device = next(codec.parameters()).device
    num_samples = int(CODEC_SECONDS * codec.sample_rate_hz)
    noise = torch.randn(1, num_samples, generator=RandomStreams(0).generator("bench noise"))
    samples = 0.1 * noise.to(device)
    codes = codec.encode(samples)
    waited = _waited(device)
    return speeds_of(
        name,
        lambda: waited(codec.encode(samples)),
        lambda: waited(codec.decode(codes)),
        runs,
    )


def _waited(device: torch.device) -> Callable[[object], None]:
    def wait(result: object) -> None:
        del result
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return wait


def random_codes(
    segments: Sequence[Segment], batch_size: int, seconds: float
) -> dict[str, torch.Tensor]:
    """Codes of a crop, as likely as any others, by the segment's name."""
    generator = RandomStreams(0).generator("bench codes")
    codes: dict[str, torch.Tensor] = {}
    for segment in segments:
        spec = segment.spec
        shape = (batch_size, spec.num_quantizers, spec.num_frames(seconds))
        codes[segment.name] = torch.randint(spec.codebook_size, shape, generator=generator)
    return codes


def _fresh_process(model: MusicLM, program: str, duration_seconds: float) -> str:
    arguments = [str(model.folder), str(model.runtime.device), str(duration_seconds), PROMPT]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout
