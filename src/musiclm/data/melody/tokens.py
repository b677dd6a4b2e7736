"""Melody tokens beside a token store, and crops that carry them.

The melody of a clip is hummed from its notes, by a synthetic voice, exactly in time with the audio,
and the hum is tokenized: the stage learns from hums what it will be given as hums. Clips without
notes have no melody tokens; their crops say that it is absent.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from musiclm.core.errors import DataError
from musiclm.core.files import written_whole
from musiclm.core.runtime import RandomStreams
from musiclm.data.manifest import Clip, Corpus
from musiclm.data.melody.line import Line, SingerErrors
from musiclm.data.melody.voices import VOICE_KINDS, VoiceKind, sing
from musiclm.data.token_source import TokenCropSource
from musiclm.tokens.spec import Tokenizer, TokenSpec

MELODY_TOKENS_NAME = "melody.safetensors"
_FORMAT = "musiclm-melody-tokens-1"
_ERRORS = SingerErrors(pitch_semitones=0.15, time_seconds=0.02, drift=0.0, shortest_share=0.75)
_VOICE_ODDS = (0.6, 0.2, 0.2)


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
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, of: None,
) -> int:
    """Hums every clip of a corpus that has notes, and keeps the tokens in the store's folder.

    Returns:
        How many clips have a melody.
    """
    streams = RandomStreams(seed)
    clips = [clip for clip in corpus.clips if clip.melody]
    tokens: dict[str, Tensor] = {}
    for number, clip in enumerate(clips, start=1):
        tokens[clip.clip_id] = hummed_tokens(tokenizer, clip, streams).to(torch.uint8)
        on_progress(number, len(clips))
    metadata = {"format": _FORMAT, "spec": tokenizer.token_spec.to_json()}
    with written_whole(store / MELODY_TOKENS_NAME) as temporary:
        save_file(tokens, temporary, metadata=metadata)
    return len(clips)


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
        DataError: The store has no melody tokens, or of another shape.
    """

    def __init__(
        self, source: TokenCropSource, store: Path, spec: TokenSpec, *, dropout: float, seed: int
    ) -> None:
        self._source = source
        self._spec = spec
        self._dropout = dropout
        self._streams = RandomStreams(seed)
        path = store / MELODY_TOKENS_NAME
        if not path.is_file():
            raise DataError(
                f"{store} has no melody tokens. Make them: "
                f"musiclm tokenize-melody CORPUS {store} --model MODEL"
            )
        try:
            with safe_open(path, framework="pt") as file:
                found = (file.metadata() or {}).get("spec", "")
                if found != spec.to_json():
                    raise DataError(f"{path} holds other melody tokens. Make them again.")
                names: list[str] = list(file.keys())
                self._tokens = {name: file.get_tensor(name) for name in names}
        except (SafetensorError, OSError) as error:
            raise DataError(f"{path} is damaged ({error}). Make it again.") from error

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
