"""A whole model of the tiny recipe with random weights: plumbing without training."""

from pathlib import Path

import torch

from musiclm.codec.soundstream import SoundStream
from musiclm.conditioning.conditioner import Conditioner, ConditionerConfig
from musiclm.conditioning.melody_tokenizer import MelodyTokenizer
from musiclm.conditioning.mulan import MuLan, MuLanConfig
from musiclm.core.pretrained import save_weights
from musiclm.core.runtime import RandomStreams
from musiclm.generation.bundle import BundleConfig, write_bundle_config
from musiclm.recipes.components import text_tower_config
from musiclm.recipes.melody import melody_recipe
from musiclm.recipes.registry import load_recipe
from musiclm.semantic.tokenizer import SemanticTokenizer
from musiclm.stages.extension import melody_segment, with_segment
from musiclm.stages.language_model import StageModel


def randomise_codebooks(quantizer, generator):
    for level in quantizer.quantizers:
        torch.nn.init.normal_(level.codebook, generator=generator)


def write_random_bundle(folder: Path, *, has_melody: bool = True) -> Path:
    """Writes every part; with melody tokens and stages that read them, if asked."""
    folder.mkdir(parents=True)
    recipe = load_recipe("tiny")
    streams = RandomStreams(0)
    generator = streams.generator("bundle")
    with streams.layers_draw_from("bundle layers"):
        codec = SoundStream(recipe.codec.task.codec)
        semantic = SemanticTokenizer(recipe.semantic.tokenizer)
        text = text_tower_config(recipe, ["a calm piano"])
        mulan = MuLan(MuLanConfig(audio=recipe.mulan.audio, text=text))
        conditioner = Conditioner(
            ConditionerConfig(mulan=mulan.config, tokenizer=recipe.mulan.tokenizer)
        )
        melody = MelodyTokenizer(melody_recipe("tiny").tokenizer)
    randomise_codebooks(codec.quantizer, generator)
    randomise_codebooks(melody.quantizer, generator)
    for level in conditioner.tokenizer.quantizer.quantizers:
        torch.nn.init.normal_(level.codebook, std=0.1, generator=generator)
    torch.nn.init.normal_(semantic.get_buffer("centroids"), generator=generator)
    save_weights(codec, folder / "codec.safetensors", config_json=codec.config.to_json())
    semantic.save(folder / "semantic.safetensors", storage="float32")
    conditioner.save(folder / "mulan.safetensors", storage="float32")
    if has_melody:
        melody.save(folder / "melody.safetensors", storage="float32")
    for name in ("semantic", "coarse", "fine"):
        stage = StageModel(recipe.stage_task(name).stage, generator=generator)
        if name != "fine" and has_melody:
            segment = melody_segment(melody.token_spec, 3)
            stage = with_segment(stage, segment, generator)
            torch.nn.init.normal_(stage.embedding(segment).weight, generator=generator)
        path = folder / f"{name}_stage.safetensors"
        save_weights(stage, path, config_json=stage.config.to_json())
    write_bundle_config(folder, BundleConfig(name="random"))
    return folder
