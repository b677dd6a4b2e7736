"""The ablation: acoustic tokens directly from conditioning, without the semantic stage (Section 5).

Everything but the coarse stage is that of the whole model; its own coarse stage is trained by
`musiclm train coarse-only-stage`, with the same sizes and data.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch

from musiclm.audio.waveform import Waveform
from musiclm.baselines.acoustic import acoustic_codes
from musiclm.core.errors import CheckpointError
from musiclm.core.pretrained import load_weights, read_config_json, sha256_of_file
from musiclm.core.runtime import RandomStreams
from musiclm.generation.musiclm import MusicLM
from musiclm.generation.prompt import GenerationSettings
from musiclm.generation.token_file import TokenSet
from musiclm.stages.decoder import make_decoder
from musiclm.stages.language_model import StageConfig, StageModel


class NoSemanticStage:
    """MusicLM with its semantic stage left out; a `System` for the evaluation."""

    name = "no semantic stage"

    def __init__(self, musiclm: MusicLM, coarse_only: Path) -> None:
        """Loads the coarse stage that reads conditioning alone.

        Args:
            musiclm: The whole model.
            coarse_only: Weights of the other coarse stage.

        Raises:
            CheckpointError: They are missing, or those of a stage that reads semantic tokens.
        """
        config = StageConfig.from_json(read_config_json(coarse_only))
        names = [segment.name for segment in config.layout.prefixes]
        if names != ["conditioning"]:
            raise CheckpointError(
                f"{coarse_only} reads {', '.join(names) or 'nothing'}; the ablation reads "
                "conditioning alone. Train it with `musiclm train coarse-only-stage`."
            )
        stage = StageModel(config)
        load_weights(stage, coarse_only)
        stage = stage.to(musiclm.runtime.device).prepare_for_decoding()
        self._coarse = make_decoder(stage, num_threads=musiclm.runtime.num_threads)
        self._musiclm = musiclm
        parts = f"{musiclm.sha256}/{sha256_of_file(coarse_only)}"
        self.identity = hashlib.sha256(parts.encode()).hexdigest()

    def generate(
        self, prompts: Sequence[str], seeds: Sequence[int], duration_seconds: float
    ) -> list[Waveform]:
        """One clip a prompt and seed."""
        model = self._musiclm
        conditioning = torch.cat([model.conditioner.tokenize_text([text]) for text in prompts])
        rate = model.codec.sample_rate_hz
        num_samples = round(duration_seconds * rate)
        num_frames = -(-num_samples // model.codec.hop_length)
        codes = acoustic_codes(
            self._coarse,
            model.stages.decoders["fine"],
            {"conditioning": conditioning},
            num_frames,
            model.decided(GenerationSettings(duration_seconds=duration_seconds)),
            [RandomStreams(seed) for seed in seeds],
        )
        nothing = torch.zeros(0, dtype=torch.long)
        return [
            model.decode(TokenSet(conditioning[row, :, 0].cpu(), nothing, piece, num_samples))
            for row, piece in enumerate(codes)
        ]
