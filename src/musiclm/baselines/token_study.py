"""Relatives of a clip for the token study: of the same semantic tokens, of the same caption."""

from collections.abc import Sequence

import torch

from musiclm.audio.waveform import Waveform
from musiclm.baselines.acoustic import acoustic_codes
from musiclm.core.runtime import RandomStreams
from musiclm.generation.musiclm import MusicLM
from musiclm.generation.prompt import GenerationSettings
from musiclm.generation.token_file import TokenSet

_OTHER_SEED = 1_000_003


class ResampledAcoustic:
    """For a prompt and seed, the clip MusicLM makes, with its acoustic tokens drawn once more."""

    name = "same semantic tokens"

    def __init__(self, musiclm: MusicLM) -> None:
        self._musiclm = musiclm
        self.identity = musiclm.sha256

    def generate(
        self, prompts: Sequence[str], seeds: Sequence[int], duration_seconds: float
    ) -> list[Waveform]:
        """One clip a prompt and seed."""
        model = self._musiclm
        settings = GenerationSettings(duration_seconds=duration_seconds)
        pieces = model.generate_batch(prompts, seeds=seeds, settings=settings)
        segments = {
            "conditioning": torch.stack([piece.tokens.conditioning for piece in pieces])[
                :, :, None
            ],
            "semantic": torch.stack([piece.tokens.semantic for piece in pieces])[:, None],
        }
        codes = acoustic_codes(
            model.stages.decoders["coarse"],
            model.stages.decoders["fine"],
            segments,
            pieces[0].tokens.acoustic.shape[1],
            pieces[0].settings,
            [RandomStreams(seed + _OTHER_SEED) for seed in seeds],
        )
        return [
            model.decode(
                TokenSet(
                    piece.tokens.conditioning, piece.tokens.semantic, row, piece.tokens.num_samples
                )
            )
            for piece, row in zip(pieces, codes, strict=True)
        ]


class OtherSeed:
    """For a prompt and seed, what MusicLM makes from another seed: only the caption is shared."""

    name = "same caption"

    def __init__(self, musiclm: MusicLM) -> None:
        self._musiclm = musiclm
        self.identity = musiclm.sha256

    def generate(
        self, prompts: Sequence[str], seeds: Sequence[int], duration_seconds: float
    ) -> list[Waveform]:
        """One clip a prompt and seed."""
        settings = GenerationSettings(duration_seconds=duration_seconds)
        others = [seed + _OTHER_SEED for seed in seeds]
        pieces = self._musiclm.generate_batch(prompts, seeds=others, settings=settings)
        return [piece.waveform for piece in pieces]
