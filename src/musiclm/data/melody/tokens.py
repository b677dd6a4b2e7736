"""Melody tokens beside a token store, and crops that carry them.

The melody of a clip is hummed from its notes, by a synthetic voice, exactly in time with the audio,
and the hum is tokenized: the stage learns from hums what it will be given as hums. Clips without
notes have no melody tokens; their crops say that it is absent.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from musiclm.core.config import Config
from musiclm.core.errors import ConfigError, DataError
from musiclm.core.files import written_whole
from musiclm.core.runtime import RandomStreams
from musiclm.data.manifest import Clip, Corpus
from musiclm.data.melody.line import Line, SingerErrors
from musiclm.data.melody.voices import VOICE_KINDS, VoiceKind, sing
from musiclm.data.token_source import TokenCropSource
from musiclm.tokens.spec import Tokenizer, TokenSpec

MELODY_TOKENS_NAME = "melody.safetensors"
_SAVE_EVERY = 1000
_ERRORS = SingerErrors(pitch_semitones=0.15, time_seconds=0.02, drift=0.0, shortest_share=0.75)
_VOICE_ODDS = (0.6, 0.2, 0.2)


class MelodyTokensHeader(Config):
    """What a file of melody tokens says about them."""

    format_version: Literal[1] = 1
    """Of the file."""
    spec: TokenSpec
    """Shape of the codes."""
    weights_sha256: str
    """Of the tokenizer's file."""
    seed: int
    """Of voices and errors."""
    is_complete: bool
    """Whether every clip with notes has its tokens."""


@torch.no_grad()
def hummed_tokens(
    tokenizer: Tokenizer, clip: Clip, streams: RandomStreams
) -> Int[Tensor, "quantizers frames"]:
    """The tokens of a clip's melody, hummed (or whistled, or played) in time with the clip."""
    generator = streams.generator("hum", clip.clip_id)
    draw = np.random.default_rng(generator.initial_seed())
    kind: VoiceKind = VOICE_KINDS[int(draw.choice(len(VOICE_KINDS), p=_VOICE_ODDS))]
    line = Line.from_notes(clip.melody)
    rate = tokenizer.sample_rate_hz
    samples = sing(draw, line, clip.duration_seconds, kind, rate, errors=_ERRORS)
    return tokenizer.tokenize(torch.from_numpy(samples)[None])[0]


def write_melody_tokens(
    corpus: Corpus,
    store: Path,
    tokenizer: Tokenizer,
    *,
    weights_sha256: str = "",
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, of: None,
) -> int:
    """Hums every clip of a corpus that has notes, and keeps the tokens in the store's folder.

    Stopped and started again, it goes on where it was: a file of the same weights and seed is
    completed, one of others is made anew.

    Args:
        corpus: Clips, some with notes.
        store: The folder of the token store.
        tokenizer: Hears the hums.
        weights_sha256: Of the tokenizer's file, so that tokens of other weights are known.
        seed: Chooses voices and errors.
        on_progress: Told the clips done and the clips in all.

    Returns:
        How many clips have a melody.
    """
    streams = RandomStreams(seed)
    clips = [clip for clip in corpus.clips if clip.melody]
    path = store / MELODY_TOKENS_NAME
    header = MelodyTokensHeader(
        spec=tokenizer.token_spec, weights_sha256=weights_sha256, seed=seed, is_complete=False
    )
    tokens: dict[str, Tensor] = {}
    if path.is_file():
        found = read_melody_header(path)
        if found.model_copy(update={"is_complete": False}) == header:
            tokens = _read_tokens(path)
    missing = [clip for clip in clips if clip.clip_id not in tokens]
    done = len(clips) - len(missing)
    for number, clip in enumerate(missing, start=1):
        tokens[clip.clip_id] = hummed_tokens(tokenizer, clip, streams).to(torch.uint8)
        on_progress(done + number, len(clips))
        if number % _SAVE_EVERY == 0:
            _write(path, tokens, header)
    _write(path, tokens, header.model_copy(update={"is_complete": True}))
    return len(clips)


def has_melody_tokens(store: Path, weights_sha256: str) -> bool:
    """Whether a store has all the melody tokens that a tokenizer of these weights makes."""
    path = store / MELODY_TOKENS_NAME
    if not path.is_file():
        return False
    header = read_melody_header(path)
    return header.is_complete and header.weights_sha256 == weights_sha256


def read_melody_header(path: Path) -> MelodyTokensHeader:
    """What a file of melody tokens says about them.

    Raises:
        DataError: It is damaged, or no such file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("header", "")
        return MelodyTokensHeader.from_json(text)
    except (SafetensorError, OSError, ConfigError) as error:
        raise DataError(
            f"{path} is damaged or no file of melody tokens. Delete it and make it again."
        ) from error


def _read_tokens(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            names: list[str] = list(file.keys())
            return {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is damaged ({error}). Delete it and make it again.") from error


def _write(path: Path, tokens: Mapping[str, Tensor], header: MelodyTokensHeader) -> None:
    with written_whole(path) as temporary:
        save_file(dict(tokens), temporary, metadata={"header": header.to_json()})


class MelodyCropSource:
    """The crops of a `TokenCropSource`, with the melody tokens of each (`melody`).

    Args:
        source: Crops of the store.
        store: The token store's folder, which holds melody tokens too.
        spec: Their shape.
        dropout: Chance that a training crop goes without them, so that one model serves with and
            without a melody.
        seed: Of those draws.

    Raises:
        DataError: The store has no melody tokens, or unfinished ones, or of another shape.
    """

    def __init__(
        self, source: TokenCropSource, store: Path, spec: TokenSpec, *, dropout: float, seed: int
    ) -> None:
        self._source = source
        self._spec = spec
        self._dropout = dropout
        self._streams = RandomStreams(seed)
        path = store / MELODY_TOKENS_NAME
        command = f"musiclm tokenize-melody CORPUS {store} --model MODEL"
        if not path.is_file():
            raise DataError(f"{store} has no melody tokens. Make them: {command}")
        header = read_melody_header(path)
        if header.spec != spec:
            raise DataError(f"{path} holds other melody tokens. Make them again: {command}")
        if not header.is_complete:
            raise DataError(f"{path} is not finished. Go on with it: {command}")
        self._tokens = _read_tokens(path)

    def batch(self, step: int, microbatch: int) -> Mapping[str, Any]:
        """One microbatch of training crops."""
        batch = self._with_melody(self._source.batch(step, microbatch))
        generator = self._streams.generator("melody dropout", step, microbatch)
        is_dropped = torch.rand(len(batch["melody"]), generator=generator) < self._dropout
        melody = batch["melody"].masked_fill(is_dropped[:, None, None], self._spec.codebook_size)
        return {**batch, "melody": melody}

    def validation_batches(self) -> list[Mapping[str, Any]]:
        """The fixed crops of the validation split."""
        return [self._with_melody(batch) for batch in self._source.validation_batches()]

    def _with_melody(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        spec = self._spec
        count = spec.num_frames(self._source.config.crop_seconds)
        rows: list[Tensor] = []
        starts: list[float] = batch["start_seconds"].tolist()
        for clip_id, start in zip(batch["clip_ids"], starts, strict=True):
            row = torch.full((spec.num_quantizers, count), spec.codebook_size)
            tokens = self._tokens.get(clip_id)
            if tokens is not None:
                first = round(start * spec.frame_rate_hz)
                piece = tokens[:, first : first + count]
                row[:, : piece.shape[1]] = piece
            rows.append(row)
        return {**batch, "melody": torch.stack(rows)}
