"""Components: what a recipe's parts are built from and trained on, by name."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from musiclm.codec.soundstream import SoundStream, SoundStreamConfig
from musiclm.conditioning.conditioner import Conditioner, ConditionerConfig
from musiclm.conditioning.mulan import MuLan, MuLanConfig
from musiclm.conditioning.text_tower import TextTowerConfig
from musiclm.conditioning.warm_start import (
    encoder_tower_config,
    encoder_vocabulary,
    load_encoder,
    sentence_encoder,
)
from musiclm.conditioning.word_pieces import SPECIAL_PIECES, pruned_vocabulary
from musiclm.core.errors import ConfigError
from musiclm.core.pretrained import load_weights, read_config_json
from musiclm.core.runtime import RandomStreams, Runtime
from musiclm.data.clips import CropSource
from musiclm.data.manifest import Corpus
from musiclm.data.pairs import LogMelStore, PairSource
from musiclm.data.token_source import TokenCropSource
from musiclm.recipes.recipe import (
    CodecRecipe,
    Recipe,
    SemanticRecipe,
    StageName,
)
from musiclm.semantic.tokenizer import SemanticTokenizer
from musiclm.semantic.w2v_bert import W2vBert, W2vBertConfig
from musiclm.stages.layout import SegmentLayout
from musiclm.training.conditioner import embed_pairs, fit_conditioner
from musiclm.training.fit import ResidualFit
from musiclm.training.semantic_tokenizer import SemanticFit, fit_semantic_tokenizer
from musiclm.training.task import BatchSource, Task
from musiclm.training.tasks.codec import CodecTask
from musiclm.training.tasks.mulan import MuLanTask
from musiclm.training.tasks.semantic import SemanticTask
from musiclm.training.tasks.stage import StageTask
from musiclm.training.trainer import TrainerConfig

ComponentName = Literal[
    "codec",
    "codec-decoder",
    "semantic",
    "mulan",
    "semantic-stage",
    "coarse-stage",
    "coarse-only-stage",
    "fine-stage",
]
STAGE_OF: dict[ComponentName, StageName] = {
    "semantic-stage": "semantic",
    "coarse-stage": "coarse",
    "fine-stage": "fine",
}
_SEMANTIC_TABLE = ("embeddings.semantic.weight",)
_SPELLING = "abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'()-/#&"


@dataclass(frozen=True)
class ComponentRun:
    """A task, the batches it learns from, and the loop's settings."""

    task: Task
    source: BatchSource
    trainer: TrainerConfig


def component_run(
    recipe: Recipe,
    component: ComponentName,
    data: Path,
    model: Path | None = None,
    *,
    start_from: Path | None = None,
    is_resumed: bool = False,
) -> ComponentRun:
    """Builds what `training.trainer.train` needs.

    Args:
        recipe: Sizes, losses and schedules.
        component: What to train. `codec-decoder` goes on with the decoder of a model's codec
            while its codes stay what they are, so that the stages stay valid.
            `coarse-only-stage` is the paper's ablation: a coarse stage without semantic tokens; it
            may start from the whole model's coarse stage and go on without them.
        data: A corpus; for the stages, a token store.
        model: The folder with the parts trained before; stages that read conditioning need its
            `mulan.safetensors`, those that start from codebooks all three tokenizers.
        start_from: Weights to begin with instead of the recipe's start (fine-tuning).
        is_resumed: Whether a checkpoint is going to overwrite the weights, so that the work of a
            start can be spared.

    Raises:
        ConfigError: A stage is asked for without a model folder.
        CheckpointError: The weights to begin with are damaged or of another size.
        DataError: The data cannot be used.
    """
    is_started = is_resumed or start_from is not None
    if component in STAGE_OF:
        run = _stage_run(recipe, STAGE_OF[component], data, model, is_started=is_started)
    elif component == "coarse-only-stage":
        ablated = recipe.model_copy(update={"has_semantic_prefix": False})
        run = _stage_run(ablated, "coarse", data, model, is_started=is_started)
    elif component == "codec-decoder":
        if model is None:
            raise ConfigError("codec-decoder needs --model, the folder with codec.safetensors.")
        start_from = start_from or model / "codec.safetensors"
        run = _codec_run(_decoder_alone(recipe.codec), data, is_started=True)
    elif component == "codec":
        run = _codec_run(recipe.codec, data, is_started=is_started)
    elif component == "semantic":
        run = _semantic_run(recipe.semantic, data, is_started=is_started)
    else:
        corpus = Corpus.open(data)
        part = recipe.mulan
        mulan = MuLanTask(build_mulan(recipe, corpus), part.task)
        pairs = PairSource(log_mel_store(recipe, corpus), part.pairs, seed=part.trainer.seed)
        run = ComponentRun(mulan, pairs, part.trainer)
    if start_from is not None and not is_resumed:
        spare = _SEMANTIC_TABLE if component == "coarse-only-stage" else ()
        load_weights(run.task.model, start_from, spare=spare)
    return run


def _decoder_alone(part: CodecRecipe) -> CodecRecipe:
    """The run of a decoder that goes on while encoder and codebooks rest."""
    stft = part.decoder_stft or part.task.stft
    task = part.task.model_copy(update={"decoder_only_start": 0.0, "stft": stft})
    steps = part.decoder_steps or part.trainer.num_steps
    trainer = part.trainer.model_copy(update={"num_steps": steps})
    return part.model_copy(update={"task": task, "trainer": trainer})


def _codec_run(part: CodecRecipe, data: Path, *, is_started: bool) -> ComponentRun:
    with _initial_draws(part.trainer, "codec"):
        task = CodecTask(part.task)
    source = CropSource(Corpus.open(data), part.crops, seed=part.trainer.seed)
    if not is_started:
        task.start_codec(source, seed=part.trainer.seed)
    return ComponentRun(task, source, part.trainer)


def _semantic_run(part: SemanticRecipe, data: Path, *, is_started: bool) -> ComponentRun:
    with _initial_draws(part.trainer, "semantic"):
        task = SemanticTask(part.task)
    source = CropSource(Corpus.open(data), part.crops, seed=part.trainer.seed)
    if not is_started:
        task.start_targets(source, seed=part.trainer.seed)
    return ComponentRun(task, source, part.trainer)


def build_mulan(recipe: Recipe, corpus: Corpus) -> MuLan:
    """A MuLan ready for training; its vocabulary is that of the corpus's captions.

    Raises:
        DependencyError: The sentence encoder of the warm start cannot be had.
    """
    part = recipe.mulan
    captions = [caption.text for clip in corpus.clips for caption in clip.captions]
    config = MuLanConfig(audio=part.audio, text=text_tower_config(recipe, captions))
    with _initial_draws(part.trainer, "mulan"):
        mulan = MuLan(config)
    if part.text.is_warm_started:
        load_encoder(mulan.text_tower, sentence_encoder())
    return mulan


def text_tower_config(recipe: Recipe, captions: list[str]) -> TextTowerConfig:
    """The text tower of a recipe for the words of some captions."""
    part = recipe.mulan.text
    if part.is_warm_started:
        folder = sentence_encoder()
        vocabulary = pruned_vocabulary(
            encoder_vocabulary(folder), captions, num_frequent=part.num_frequent_pieces
        )
        config = encoder_tower_config(folder, vocabulary=vocabulary)
        return config.model_copy(update={"num_layers": part.num_layers})
    pieces = [*SPECIAL_PIECES, *_SPELLING, *(f"##{sign}" for sign in _SPELLING)]
    return TextTowerConfig(
        vocabulary=tuple(pieces),
        hidden_dim=part.hidden_dim,
        num_layers=part.num_layers,
        num_heads=part.num_heads,
        feedforward_dim=4 * part.hidden_dim,
    )


def log_mel_store(recipe: Recipe, corpus: Corpus) -> LogMelStore:
    """MuLan's log-mels of a corpus, kept in its folder."""
    return LogMelStore(corpus, corpus.folder / "log_mels", recipe.mulan.audio.log_mel)


def fit_semantic(
    recipe: Recipe, data: Path, weights: Path, output: Path, *, runtime: Runtime
) -> SemanticFit:
    """Fits the semantic centroids on a trained w2v-BERT and writes the tokenizer.

    Raises:
        ConfigError: The weights are of another w2v-BERT than the recipe's, or the output's name
            has another suffix.
    """
    _check_output(output)
    part = recipe.semantic
    config = W2vBertConfig.from_json(read_config_json(weights))
    if config != part.tokenizer.w2v_bert:
        raise ConfigError(f"{weights} is of another w2v-BERT than recipe {recipe.name!r} builds.")
    model = W2vBert(config)
    load_weights(model, weights)
    source = CropSource(Corpus.open(data), part.crops, seed=part.fit.seed)
    fit = fit_semantic_tokenizer(
        model.to(runtime.device), part.tokenizer, source, part.fit, runtime=runtime
    )
    fit.tokenizer.save(output, storage=part.storage)
    return fit


def fit_mulan(
    recipe: Recipe, data: Path, weights: Path, output: Path, *, runtime: Runtime
) -> ResidualFit:
    """Fits MuLan's codebooks on audio, and the shift of texts, and writes the conditioner.

    Raises:
        ConfigError: The output's name has another suffix.
    """
    _check_output(output)
    part = recipe.mulan
    config = MuLanConfig.from_json(read_config_json(weights))
    conditioner = Conditioner(ConditionerConfig(mulan=config, tokenizer=part.tokenizer)).eval()
    load_weights(conditioner.mulan, weights)
    conditioner.to(runtime.device)
    store = log_mel_store(recipe, Corpus.open(data))
    source = PairSource(store, part.pairs, seed=part.trainer.seed)
    num_batches = max(1, part.fit_pairs // part.pairs.batch_size)
    pairs = embed_pairs(conditioner.mulan, (source.batch(step, 0) for step in range(num_batches)))
    fit = fit_conditioner(conditioner, store, pairs, seed=part.trainer.seed)
    conditioner.save(output, storage=part.storage)
    return fit


def _stage_run(
    recipe: Recipe, stage: StageName, data: Path, model: Path | None, *, is_started: bool
) -> ComponentRun:
    part = recipe.stage(stage)
    config = recipe.stage_task(stage)
    layout = config.stage.layout
    names = [segment.name for segment in layout.segments]
    if model is None and ("conditioning" in names or part.starts_from_codebooks):
        raise ConfigError(
            f"The {stage} stage of recipe {recipe.name!r} needs the tokenizers: give --model, the "
            "folder with codec.safetensors, semantic.safetensors and mulan.safetensors."
        )
    conditioner = None
    if model is not None and "conditioning" in names:
        conditioner = Conditioner.load(model / "mulan.safetensors")
    streams = RandomStreams(part.trainer.seed)
    task = StageTask(
        config,
        conditioner.tokenizer.tokenize if conditioner else None,
        text_conditioning=conditioner.tokenize_text if conditioner else None,
        generator=streams.generator("init", stage),
    )
    if model is not None and part.starts_from_codebooks and not is_started:
        task.start_from_codebooks(
            stage_codebooks(model, layout), streams.generator("codebook projections", stage)
        )
    return ComponentRun(
        task, TokenCropSource(data, part.crops, seed=part.trainer.seed), part.trainer
    )


def stage_codebooks(
    model: Path, layout: SegmentLayout
) -> dict[str, Float[Tensor, "levels entries vector"]]:
    """The vectors that the codes of a layout's segments stand for, by segment.

    Args:
        model: The folder with the tokenizers' weights.
        layout: Whose segments; levels that it does not use are left out.

    Raises:
        CheckpointError: A file is missing or damaged.
    """
    levels = {segment.name: segment.spec.num_quantizers for segment in layout.segments}
    found: dict[str, Tensor] = {}
    if "conditioning" in levels:
        conditioner = Conditioner.load(model / "mulan.safetensors")
        found["conditioning"] = conditioner.tokenizer.quantizer.codebooks[: levels["conditioning"]]
    if "semantic" in levels:
        tokenizer = SemanticTokenizer.load(model / "semantic.safetensors")
        found["semantic"] = tokenizer.get_buffer("centroids")[None]
    if "coarse" in levels:
        path = model / "codec.safetensors"
        codec = SoundStream(SoundStreamConfig.from_json(read_config_json(path)))
        load_weights(codec, path)
        coarse, fine = codec.quantizer.codebooks.split(
            [levels["coarse"], codec.quantizer.config.num_quantizers - levels["coarse"]]
        )
        found |= {"coarse": coarse, "fine": fine}
    return {name: vectors for name, vectors in found.items() if name in levels}


def _initial_draws(
    trainer: TrainerConfig, component: str
) -> AbstractContextManager[None, bool | None]:
    return RandomStreams(trainer.seed).layers_draw_from("init", component)


def _check_output(output: Path) -> None:
    if output.suffix != ".safetensors":
        raise ConfigError(f"Output {output.name!r} must end in .safetensors.")
