"""What a recipe builds, without building it: parameters, token rates, sequence lengths."""

from dataclasses import dataclass
from typing import get_args

import torch
from torch import nn

from musiclm.codec.soundstream import SoundStream
from musiclm.conditioning.audio_tower import AudioTower
from musiclm.conditioning.text_tower import TextTower, TextTowerConfig
from musiclm.conditioning.word_pieces import SPECIAL_PIECES
from musiclm.recipes.recipe import Recipe, StageName
from musiclm.semantic.w2v_bert import W2vBert
from musiclm.stages.language_model import StageModel


@dataclass(frozen=True)
class PartDescription:
    """A tokenizer; rates are 0 where there is one frame a clip."""

    name: str
    num_parameters: int
    codes: str
    frame_rate_hz: float
    tokens_per_second: float


@dataclass(frozen=True)
class StageDescription:
    """A stage and the sequence it is trained on."""

    name: str
    num_parameters: int
    pattern: str
    crop_seconds: float
    num_prefix_positions: int
    num_target_positions: int


def describe_parts(recipe: Recipe) -> list[PartDescription]:
    """Codec, w2v-BERT and MuLan's towers, counted on the meta device.

    The text tower is counted with as many word pieces as the recipe keeps for their frequency; the
    words of a corpus add some more.
    """
    text = _text_tower_config(recipe)
    with torch.device("meta"):
        modules: dict[str, nn.Module] = {
            "codec (SoundStream)": SoundStream(recipe.codec.task.codec),
            "semantic (w2v-BERT)": W2vBert(recipe.semantic.task.w2v_bert),
            "MuLan audio tower": AudioTower(recipe.mulan.audio),
            "MuLan text tower": TextTower(text),
        }
    specs = [
        recipe.acoustic_spec,
        recipe.semantic_spec,
        recipe.conditioning_spec,
        recipe.conditioning_spec,
    ]
    return [
        PartDescription(
            name=name,
            num_parameters=count_parameters(module),
            codes=f"{spec.num_quantizers} x {spec.codebook_size}",
            frame_rate_hz=float(spec.frame_rate_hz),
            tokens_per_second=float(spec.frame_rate_hz * spec.num_quantizers),
        )
        for (name, module), spec in zip(modules.items(), specs, strict=True)
    ]


def _text_tower_config(recipe: Recipe) -> TextTowerConfig:
    part = recipe.mulan.text
    numbered = (f"piece{number}" for number in range(part.num_frequent_pieces))
    return TextTowerConfig(
        vocabulary=(*SPECIAL_PIECES, *numbered),
        hidden_dim=part.hidden_dim,
        num_layers=part.num_layers,
        num_heads=part.num_heads,
        feedforward_dim=4 * part.hidden_dim,
    )


def describe_stages(recipe: Recipe) -> list[StageDescription]:
    """The three stages, counted on the meta device."""
    rows: list[StageDescription] = []
    for name in get_args(StageName):
        layout = recipe.layout(name)
        seconds = recipe.stage(name).crops.crop_seconds
        frames = layout.num_frames(seconds)
        prefix = sum(
            segment.num_prefix_positions(frames[segment.name]) for segment in layout.prefixes
        )
        with torch.device("meta"):
            model = StageModel(recipe.stage_task(name).stage)
        rows.append(
            StageDescription(
                name=name,
                num_parameters=count_parameters(model),
                pattern=layout.target.pattern,
                crop_seconds=seconds,
                num_prefix_positions=prefix,
                num_target_positions=layout.num_positions(seconds) - prefix,
            )
        )
    return rows


def count_parameters(module: nn.Module) -> int:
    """Trainable numbers of a module."""
    return sum(parameter.numel() for parameter in module.parameters())
