"""`musiclm encode` and `musiclm decode`: audio to tokens and back."""

from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from musiclm.audio.waveform import Waveform
from musiclm.core.errors import ConfigError
from musiclm.generation.musiclm import MusicLM
from musiclm.generation.token_file import TokenSet


def encode(
    audio: tyro.conf.Positional[Path],
    tokens: tyro.conf.Positional[Path],
    *,
    picture: Path | None = None,
    model: str | None = None,
    device: str = "auto",
) -> None:
    """Turn audio into tokens: MuLan, semantic (25 a second) and acoustic (50 x 12 a second).

    Melody tokens (25 a second) too where the model follows melodies and a tune is heard.

    Args:
        audio: A WAV, FLAC, OGG or MP3 file of any rate and number of channels.
        tokens: The .safetensors file to write.
        picture: A .png file to draw the tokens in, under the mel spectrogram and in time with it.
        model: A model folder or hub id; the bundled model by default.
        device: auto, cpu or cuda.
    """
    musiclm = MusicLM.from_pretrained(model, device=device)
    waveform = Waveform.read(audio)
    token_set = musiclm.encode(waveform)
    token_set.write(tokens)
    if picture is not None:
        # matplotlib is an extra: only who wants a picture needs it.
        from musiclm.evaluation.token_pictures import write_token_picture

        rows = {
            "mulan": token_set.conditioning[:, None],  # hold for the whole piece
            "semantic": token_set.semantic[None],
            "acoustic": token_set.acoustic,
        }
        if token_set.melody is not None:
            is_absent = token_set.melody == musiclm.melody.token_spec.codebook_size
            rows = {"melody": token_set.melody.masked_fill(is_absent, -1), **rows}
        write_token_picture(waveform, rows, picture)
    seconds = token_set.num_samples / musiclm.codec.sample_rate_hz
    heard = "" if token_set.melody is None else ", and the tune in melody tokens"
    Console(stderr=True).print(
        f"{tokens}: {seconds:.2f} s as {token_set.semantic.numel()} semantic and "
        f"{token_set.acoustic.numel()} acoustic tokens{heard}",
        soft_wrap=True,
    )


def decode(
    tokens: tyro.conf.Positional[Path],
    audio: tyro.conf.Positional[Path],
    *,
    levels: Annotated[int | None, tyro.conf.arg(metavar="1..12")] = None,
    model: str | None = None,
    device: str = "auto",
) -> None:
    """Turn acoustic tokens back into audio.

    Args:
        tokens: A .safetensors file that `musiclm encode` or `generate` wrote.
        audio: The file to write (.wav, .flac or .ogg).
        levels: Use only the first levels of the codec; all of them by default.
        model: A model folder or hub id; the bundled model by default.
        device: auto, cpu or cuda.
    """
    token_set = TokenSet.read(tokens)
    available = token_set.acoustic.shape[0]
    if levels is not None and not 1 <= levels <= available:
        raise ConfigError(
            f"levels is {levels}; the file has {available}, so choose 1 to {available}."
        )
    musiclm = MusicLM.from_pretrained(model, device=device)
    musiclm.decode(token_set, num_levels=levels).write(audio)
    Console(stderr=True).print(f"{audio}: {token_set.num_samples / 24_000:.2f} s")
