"""`musiclm generate`: a sentence in, music out, with a progress bar and the speed it ran at."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from musiclm.core.errors import PromptError
from musiclm.generation.musiclm import Generation, MusicLM
from musiclm.generation.prompt import (
    GenerationSettings,
    Temperatures,
    checked_duration,
    checked_seed,
    checked_text,
)
from musiclm.generation.record import GenerationRecord


def generate(  # noqa: PLR0913  (each is an option of the command)
    prompt: tyro.conf.Positional[str | None] = None,
    *,
    duration: float = 10.0,
    seed: int = 0,
    output: Path = Path("out.wav"),
    batch: int = 1,
    temperature: float = 1.0,
    from_: Annotated[Path | None, tyro.conf.arg(name="from")] = None,
    model: str | None = None,
    device: str = "auto",
) -> None:
    """Make music from a sentence.

    Args:
        prompt: What it should sound like, for instance "a calm violin melody over soft piano".
        duration: Seconds of music, more than 0 and at most 600.
        seed: The same seed, prompt and model give the same music.
        output: The .wav, .flac or .ogg file to write; a .json beside it says how it was made.
        batch: How many pieces; the seeds count up and the names get numbers.
        temperature: Multiplies the temperatures of all stages; lower is safer, higher is wilder.
        from_: A .json that an earlier run wrote: makes that piece again.
        model: A model folder or hub id; the bundled model by default.
        device: auto, cpu or cuda.
    """
    record = None if from_ is None else GenerationRecord.read(from_)
    if record is not None:
        prompt, seed, settings = record.prompt, record.seed, record.settings
    else:
        if prompt is None:
            raise PromptError('Say what to play, such as: musiclm generate "a calm solo piano".')
        if not temperature >= 0 or temperature > 10:
            raise PromptError(f"The temperature is {temperature}; choose a number from 0 to 10.")
        settings = GenerationSettings(
            duration_seconds=checked_duration(duration),
            temperatures=Temperatures().scaled(temperature),
        )
    prompt = checked_text(prompt)
    if not 1 <= batch <= 64:
        raise PromptError(f"The batch is {batch}; choose 1 to 64 pieces.")
    seeds = [checked_seed(seed + index) for index in range(batch)]
    if output.suffix.lower() not in (".wav", ".flac", ".ogg"):
        raise PromptError(f"Cannot write {output.name}: use a .wav, .flac or .ogg name.")
    console = Console(stderr=True)
    musiclm = MusicLM.from_pretrained(model, device=device)
    if record is not None:
        record.check_model(musiclm.sha256)
    started = time.perf_counter()
    with _progress_bar(console) as report:
        pieces = musiclm.generate_batch(
            [prompt] * batch, seeds=seeds, settings=settings, progress=report
        )
    seconds = time.perf_counter() - started
    for path, piece in zip(_paths(output, batch), pieces, strict=True):
        piece.write(path)
    _say_speed(console, output, pieces, seconds)


def _paths(output: Path, batch: int) -> list[Path]:
    if batch == 1:
        return [output]
    return [output.with_stem(f"{output.stem}-{index + 1}") for index in range(batch)]


@contextmanager
def _progress_bar(console: Console) -> Generator[Callable[[str, float], None], None, None]:
    columns = (TextColumn("{task.description:<9}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        tasks = {
            name: bar.add_task(name, total=1.0) for name in ("semantic", "coarse", "fine", "codec")
        }

        def report(stage: str, fraction: float) -> None:
            bar.update(tasks[stage], completed=fraction)

        yield report


def _say_speed(console: Console, output: Path, pieces: list[Generation], seconds: float) -> None:
    music_seconds = sum(piece.waveform.duration_seconds for piece in pieces)
    factor = seconds / music_seconds
    console.print(
        f"{output}: {music_seconds:.1f} s of music in {seconds:.1f} s "
        f"(real-time factor {factor:.2f}: {1 / factor:.1f} times real time)",
        soft_wrap=True,
    )
