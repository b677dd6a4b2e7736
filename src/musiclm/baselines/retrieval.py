"""Retrieval: pieces of training music whose words are nearest to the caption, cross-faded.

What Mubert does (MusicLM, Section 5): text to tags, tags to human-made recordings, recordings
joined into a track. It only reads words, so it shares no model with what it is compared with. Every
second of it is training music: a ceiling for sound quality, and no composer at all.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field
from sklearn.feature_extraction.text import TfidfVectorizer

from musiclm.audio.waveform import Waveform
from musiclm.core.config import Config
from musiclm.core.errors import DataError
from musiclm.core.runtime import RandomStreams
from musiclm.data.manifest import Corpus


class RetrievalConfig(Config):
    """How many clips are joined, and how."""

    num_pieces: int = Field(default=2, gt=0)
    """Clips joined into one."""
    num_candidates: int = Field(default=6, gt=0)
    """Nearest clips, of which the seed draws the pieces."""
    fade_seconds: float = Field(default=1.0, ge=0)
    """Equal-power cross-fade between pieces."""


class RetrievalBaseline:
    """Plays back the training clips whose captions share the most telling words with the prompt."""

    name = "retrieval"

    def __init__(self, corpus: Corpus, config: RetrievalConfig | None = None) -> None:
        """Indexes the captions of the training split, but for wordings kept for tests.

        Raises:
            DataError: The corpus has no captioned training clip.
        """
        self._corpus = corpus
        self._config = config or RetrievalConfig()
        self._clips = [
            clip
            for clip in corpus.split("train").clips
            if any(not caption.is_held_out for caption in clip.captions)
        ]
        if not self._clips:
            raise DataError(f"{corpus.folder} has no captioned training clips to retrieve.")
        texts = [
            " . ".join(caption.text for caption in clip.captions if not caption.is_held_out)
            for clip in self._clips
        ]
        self._vectorizer: Any = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
        self._index: Any = self._vectorizer.fit_transform(texts)
        digest = hashlib.sha256(self._config.to_json().encode())
        for clip, text in zip(self._clips, texts, strict=True):
            digest.update(f"{clip.clip_id}\n{text}\n".encode())
        self.identity = digest.hexdigest()

    def generate(
        self, prompts: Sequence[str], seeds: Sequence[int], duration_seconds: float
    ) -> list[Waveform]:
        """One clip a prompt; the seed draws among the nearest clips, and where they start."""
        return [
            self._one(prompt, RandomStreams(seed), duration_seconds)
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]

    def nearest(self, prompt: str, count: int) -> list[str]:
        """Ids of the training clips whose captions are nearest to a prompt, best first."""
        return [self._clips[index].clip_id for index in self._nearest(prompt, count)]

    def _nearest(self, prompt: str, count: int) -> list[int]:
        scores = (self._index @ self._vectorizer.transform([prompt]).T).toarray()[:, 0]
        return np.argsort(-scores, kind="stable")[:count].tolist()

    def _one(self, prompt: str, streams: RandomStreams, duration_seconds: float) -> Waveform:
        config = self._config
        candidates = self._nearest(prompt, config.num_candidates)
        order = torch.randperm(len(candidates), generator=streams.generator("candidates")).tolist()
        chosen = [candidates[place] for place in order[: config.num_pieces]]
        overlap = config.fade_seconds * (len(chosen) - 1)
        seconds = (duration_seconds + overlap) / len(chosen)
        rate = self._clips[chosen[0]].sample_rate_hz
        pieces: list[torch.Tensor] = []
        for number, index in enumerate(chosen):
            clip = self._clips[index]
            room = max(clip.duration_seconds - seconds, 0.0)
            place = float(torch.rand((), generator=streams.generator("start", number)))
            piece = self._corpus.audio(
                clip, sample_rate_hz=rate, start_seconds=room * place, duration_seconds=seconds
            )
            pieces.append(piece.loudness_normalised().crop(0, round(seconds * rate)).samples)
        joined = cross_faded(pieces, round(config.fade_seconds * rate))
        return Waveform(joined, rate).crop(0, round(duration_seconds * rate)).peak_normalised()


def cross_faded(pieces: Sequence[torch.Tensor], fade_samples: int) -> torch.Tensor:
    """Pieces one after the other, neighbours overlapping with constant power.

    Raises:
        DataError: A piece is shorter than a fade.
    """
    whole = pieces[0]
    for piece in pieces[1:]:
        if fade_samples == 0:
            whole = torch.cat([whole, piece])
            continue
        if min(len(whole), len(piece)) < fade_samples:
            raise DataError(f"A piece is shorter than the cross-fade of {fade_samples} samples.")
        angle = torch.linspace(0, torch.pi / 2, fade_samples)
        middle = whole[-fade_samples:] * angle.cos() + piece[:fade_samples] * angle.sin()
        whole = torch.cat([whole[:-fade_samples], middle, piece[fade_samples:]])
    return whole
