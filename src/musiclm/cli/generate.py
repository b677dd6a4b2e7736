"""`musiclm generate`: a sentence in, music out, with a progress bar and the speed it ran at."""

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from musiclm.cli.streaming import check_stream_output, closing, write_stream
from musiclm.core.errors import PromptError
from musiclm.evaluation.transcription import Transcriber
from musiclm.generation.candidates import Similarity, ranked, similarity
from musiclm.generation.generation import Generation
from musiclm.generation.musiclm import MusicLM
from musiclm.generation.prompt import (
    GenerationSettings,
    checked_duration,
    checked_seed,
    checked_text,
)
from musiclm.generation.record import GenerationRecord
from musiclm.generation.request import GenerationRequest, make_request, story_duration

_DEFAULT_SECONDS = 10.0


def generate(  # noqa: PLR0913  (each is an option of the command)
    prompt: tyro.conf.Positional[str | None] = None,
    *,
    duration: float | None = None,
    seed: int | None = None,
    output: Path = Path("out.wav"),
    batch: int = 1,
    candidates: int = 1,
    temperature: float | None = None,
    guidance: float | None = None,
    melody_guidance: float | None = None,
    levels: int | None = None,
    stream: bool = False,
    melody: Path | None = None,
    story: Path | None = None,
    blend: float = 0.0,
    mix: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    style_from: Path | None = None,
    continue_from: Path | None = None,
    keep_from: Path | None = None,
    tokens: Path | None = None,
    midi: bool = False,
    from_: Annotated[Path | None, tyro.conf.arg(name="from")] = None,
    model: str | None = None,
    device: str = "auto",
) -> None:
    """Make music from a sentence, a tune, a story or a clip (docs/prompts.md has examples).

    Args:
        prompt: What it should sound like, for instance "a calm violin melody over soft piano".
        duration: Seconds of music, more than 0 and at most 600; by default 10, or the story's, or
            those of the tokens that are kept.
        seed: The same seed, prompt and model give the same music; 0 by default.
        output: The .wav, .flac or .ogg file to write; a .json beside it says how it was made.
        batch: How many pieces; the seeds count up and the names get numbers.
        candidates: Make so many pieces with seeds that count up, say how well MuLan hears the
            prompt in each, and keep the best.
        temperature: Multiplies the temperatures of all stages; lower is safer, higher is wilder; 1
            by default.
        guidance: How strongly the prompt steers every stage: 1 as they learned it, more is more;
            the model's own by default, which may differ by stage.
        melody_guidance: How closely a melody is followed, likewise; more costs some of the style
            that was asked for.
        levels: Acoustic levels that are made and heard, coarse ones first; the model's own by
            default (docs/log.md says how they were chosen for the bundled one).
        stream: Write the audio while the rest is still being made, to a .wav file or, with
            --output -, to a pipe; says when the first sound was there.
        melody: An audio file with a tune to follow: hummed, sung, whistled or played; or a token
            file that holds one.
        story: A text file of timed prompts, one a line, such as "0:15 drums enter".
        blend: Seconds in which the style moves from one section of a story to the next.
        mix: A weight and a text or @file, such as "0.7:jazz" or "0.5:@clip.wav"; may be repeated,
            and the prompt counts as 1. Weights below 0 lead away: "-0.3:drums".
        style_from: An audio file whose style to take; the same as --mix 1:@FILE.
        continue_from: An audio file to go on with; --duration is that of the new music.
        keep_from: A token file whose semantic tokens are kept: the same tune with a new sound.
        tokens: Write the tokens of the piece to this .safetensors file too; of a batch, to files
            with numbers like those of the audio.
        midi: Write the notes that are heard in the result beside it, as a .mid file.
        from_: A .json that an earlier run wrote: makes that piece again, with the seed, the length
            and all else that it was made with.
        model: A model folder or hub id; the bundled model by default.
        device: auto, cpu or cuda.
    """
    record = None if from_ is None else GenerationRecord.read(from_)
    request = make_request(
        story=story,
        blend_seconds=blend,
        mix=(*mix, *([f"1:@{style_from}"] if style_from else [])),
        melody=melody,
        continue_from=continue_from,
        keep_from=keep_from,
    )
    if record is not None:
        chosen = {
            "--seed": seed,
            "--duration": duration,
            "--temperature": temperature,
            "--guidance": guidance,
            "--melody-guidance": melody_guidance,
            "--levels": levels,
        }
        _check_nothing_asked(prompt, request, chosen)
        prompt, seed, settings = record.prompt, record.seed, record.settings
        request = record.request
    else:
        settings = _settings(duration, temperature, guidance, melody_guidance, levels, request)
        prompt, seed = _checked_prompt(prompt, request), seed or 0
    seeds = _seeds(seed, batch, candidates)
    if candidates > 1:
        _check_rankable(prompt, request)
    if stream:
        _check_stream(output, num_pieces=len(seeds), wants_more=midi or tokens is not None)
    paths = [output] if stream else _paths(output, batch)
    token_paths = [] if tokens is None else _numbered(tokens, batch)
    transcriber = Transcriber() if midi else None
    console = Console(stderr=True)
    musiclm = MusicLM.from_pretrained(model, device=device)
    if record is not None:
        record.check_model(musiclm.sha256)
    started = time.perf_counter()
    if stream:
        music = musiclm.stream(prompt, seed=seed, settings=settings, request=request)
        with closing(music):
            first_sound = write_stream(music, output, started)
        music_seconds = music.num_samples / music.sample_rate_hz
        _say_speed(console, output, music_seconds, time.perf_counter() - started)
        console.print(f"first sound after {first_sound:.2f} s", soft_wrap=True)
        return
    with _progress_bar(console) as report:
        pieces = musiclm.generate_batch(
            [prompt] * len(seeds), seeds=seeds, settings=settings, request=request, progress=report
        )
    seconds = time.perf_counter() - started
    scores: list[Similarity | None] = [None] * len(pieces)
    if candidates > 1:
        pieces, scores = _best(console, musiclm, pieces)
    for path, piece, score in zip(paths, pieces, scores, strict=True):
        piece.write(path, similarity=None if score is None else score.score)
        if transcriber is not None:
            transcriber.transcribe(piece.waveform).write(path.with_suffix(".mid"))
    for path, piece in zip(token_paths, pieces, strict=False):
        piece.tokens.write(path)
    music_seconds = pieces[0].waveform.duration_seconds * len(seeds)
    _say_speed(console, output, music_seconds, seconds)


def _settings(
    duration: float | None,
    temperature: float | None,
    guidance: float | None,
    melody_guidance: float | None,
    levels: int | None,
    request: GenerationRequest,
) -> GenerationSettings:
    temperature = 1.0 if temperature is None else temperature
    if not temperature >= 0 or temperature > 10:
        raise PromptError(f"The temperature is {temperature}; choose a number from 0 to 10.")
    for name, scale in (("guidance", guidance), ("melody guidance", melody_guidance)):
        if scale is not None and not 0 <= scale <= 20:
            raise PromptError(f"The {name} is {scale}; choose a number from 0 to 20.")
    if melody_guidance is not None and request.melody is None and request.keep_from is None:
        raise PromptError("There is no melody to follow: give --melody, or leave its guidance out.")
    if levels is not None and not 1 <= levels <= 64:
        raise PromptError(f"{levels} levels were asked for; choose 1 or more.")
    if duration is not None and request.keep_from is not None:
        raise PromptError("A piece that keeps tokens is as long as they are: leave --duration out.")
    if duration is None:
        duration = story_duration(request.story) if request.story else _DEFAULT_SECONDS
    return GenerationSettings(
        duration_seconds=checked_duration(duration),
        temperature_scale=temperature,
        guidance=guidance,
        melody_guidance=melody_guidance,
        num_levels=levels,
    )


def _checked_prompt(prompt: str | None, request: GenerationRequest) -> str:
    if request.story and prompt:
        raise PromptError("A story says what to play: leave the prompt out, or make it a section.")
    if prompt is not None:
        return checked_text(prompt)
    if request.needs_text:
        raise PromptError('Say what to play, such as: musiclm generate "a calm solo piano".')
    return ""


def _seeds(seed: int, batch: int, candidates: int) -> list[int]:
    for name, count in (("batch", batch), ("number of candidates", candidates)):
        if not 1 <= count <= 64:
            raise PromptError(f"The {name} is {count}; choose 1 to 64 pieces.")
    if batch > 1 and candidates > 1:
        raise PromptError("Choose --batch (keep all) or --candidates (keep the best), not both.")
    return [checked_seed(seed + index) for index in range(max(batch, candidates))]


def _paths(output: Path, batch: int) -> list[Path]:
    if output.suffix.lower() not in (".wav", ".flac", ".ogg"):
        raise PromptError(f"Cannot write {output.name}: use a .wav, .flac or .ogg name.")
    return _numbered(output, batch)


def _check_nothing_asked(
    prompt: str | None, request: GenerationRequest, chosen: Mapping[str, float | None]
) -> None:
    """Refuses what a record would silently overrule."""
    asked = [name for name, value in chosen.items() if value is not None]
    if prompt is not None or request != GenerationRequest():
        asked.insert(0, "the prompt and what else to play")
    if asked:
        raise PromptError(
            f"--from makes the piece of its record again, just as it was: leave {', '.join(asked)} "
            "out."
        )


def _numbered(path: Path, batch: int) -> list[Path]:
    """The path itself for one piece; `NAME-1`, `NAME-2`, ... for more."""
    if batch == 1:
        return [path]
    return [path.with_stem(f"{path.stem}-{index + 1}") for index in range(batch)]


def _check_rankable(prompt: str, request: GenerationRequest) -> None:
    """Refuses candidates that nothing could rank, before they are made."""
    if not (prompt or request.story or request.mix):
        raise PromptError(
            "Candidates are ranked by their likeness to a text or a mix: give a prompt, a story or "
            "--mix, or leave --candidates out."
        )


def _best(
    console: Console, musiclm: MusicLM, pieces: list[Generation]
) -> tuple[list[Generation], list[Similarity | None]]:
    """The piece in which MuLan hears the request best; says the score of each."""
    found = [
        similarity(musiclm.conditioner, piece.waveform, piece.prompt, piece.request)
        for piece in pieces
    ]
    scores = [score for score in found if score is not None]
    order = ranked([score.score for score in scores])
    for place, index in enumerate(order, start=1):
        kept = "  kept" if place == 1 else ""
        console.print(
            f"{place}. seed {pieces[index].seed}: similarity {scores[index].score:.3f}{kept}"
        )
    return [pieces[order[0]]], [scores[order[0]]]


@contextmanager
def _progress_bar(console: Console) -> Generator[Callable[[str, float], None], None, None]:
    columns = (TextColumn("{task.description:<9}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        names = ("semantic", "coarse", "fine", "codec")
        tasks = {name: bar.add_task(name, total=1.0, visible=name != "fine") for name in names}

        def report(stage: str, fraction: float) -> None:
            bar.update(tasks[stage], completed=fraction, visible=True)

        yield report


def _check_stream(output: Path, *, num_pieces: int, wants_more: bool) -> None:
    if num_pieces > 1:
        raise PromptError("A stream is one piece: leave --batch and --candidates out.")
    if wants_more:
        raise PromptError("A stream writes audio only: leave --tokens and --midi out.")
    check_stream_output(output)


def _say_speed(console: Console, output: Path, music_seconds: float, seconds: float) -> None:
    factor = seconds / music_seconds
    console.print(
        f"{output}: {music_seconds:.1f} s of music in {seconds:.1f} s "
        f"(real-time factor {factor:.2f}: {1 / factor:.1f} times real time)",
        soft_wrap=True,
    )
