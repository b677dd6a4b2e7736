"""Melody: the embedder, its tokens, and the stages that learn to follow them."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from musiclm.conditioning.conditioner import Conditioner
from musiclm.conditioning.melody import MelodyEmbedder, MelodyEmbedderConfig
from musiclm.conditioning.melody_tokenizer import MelodyTokenizer, MelodyTokenizerConfig
from musiclm.core.config import Config
from musiclm.core.errors import ConfigError
from musiclm.core.pretrained import Storage, load_weights, read_config_json
from musiclm.core.runtime import RandomStreams, Runtime
from musiclm.data.manifest import Corpus
from musiclm.data.melody.source import MelodySource, MelodySourceConfig
from musiclm.data.melody.tokens import MelodyCropSource
from musiclm.data.token_source import TokenCropSource
from musiclm.recipes.components import ComponentRun
from musiclm.recipes.recipe import Recipe
from musiclm.stages.extension import melody_segment, with_segment
from musiclm.stages.language_model import StageConfig, StageModel
from musiclm.stages.layout import Segment
from musiclm.training.fit import ResidualFit
from musiclm.training.melody_tokenizer import fit_melody_tokenizer
from musiclm.training.task import OptimizerConfig
from musiclm.training.tasks.melody import MelodyTask, MelodyTaskConfig
from musiclm.training.tasks.stage import StageTask
from musiclm.training.trainer import TrainerConfig

MelodyComponent = Literal["melody", "melody-stage", "melody-coarse-stage"]
MELODY_FILE = "melody.safetensors"
MelodicStage = Literal["semantic", "coarse"]
STAGE_OF: dict[MelodyComponent, MelodicStage] = {
    "melody-stage": "semantic",
    "melody-coarse-stage": "coarse",
}
MELODIC_COMPONENTS: dict[str, MelodyComponent] = {name: c for c, name in STAGE_OF.items()}


class MelodyRecipe(Config):
    """The embedder, its tokens and the stages' fine-tuning."""

    task: MelodyTaskConfig = MelodyTaskConfig()
    """Embedder and losses."""
    tokenizer: MelodyTokenizerConfig = MelodyTokenizerConfig()
    """Its quantizer; of the same embedder."""
    source: MelodySourceConfig = MelodySourceConfig()
    """Melodies and their versions."""
    trainer: TrainerConfig = TrainerConfig(
        num_steps=400,
        use_bf16=True,
        ema_decay=0.98,
        log_every=10,
        validate_every=100,
        keep_samples=0,
    )
    """The run."""
    start_batches: int = Field(default=50, gt=0)
    """Batches of written melodies that the embedding of windows starts from."""
    fit_batches: int = Field(default=24, gt=0)
    """Batches the codebooks are fitted on."""
    storage: Storage = "float16"
    """How the bundled weights are kept."""
    look_ahead_frames: int = Field(default=6, ge=0)
    """Following melody frames that a semantic step sees (0.24 s)."""
    coarse_look_ahead_frames: int = Field(default=2, ge=0)
    """Those that a coarse step sees; its semantic tokens have heard what follows already."""
    stage_dropout: float = Field(default=0.35, ge=0, lt=1)
    """Share of crops that a stage sees without a melody while it is fine-tuned."""
    stage_steps: int = Field(default=6400, gt=0)
    """Updates of the semantic stage's fine-tuning."""
    coarse_steps: int = Field(default=5600, gt=0)
    """Updates of the coarse stage's fine-tuning."""
    stage_optimizer: OptimizerConfig = OptimizerConfig(
        learning_rate=6e-4, betas=(0.9, 0.98), weight_decay=0.05, warmup_steps=30
    )
    """Of the fine-tuning."""


def melody_recipe(name: str) -> MelodyRecipe:
    """The melody part of a recipe: a toy for `tiny`, else the default."""
    if name != "tiny":
        return MelodyRecipe()
    embedder = MelodyEmbedderConfig(channels=8, num_blocks=1, embedding_dim=16)
    tokenizer = MelodyTokenizerConfig(embedder=embedder)
    quantizer = tokenizer.quantizer.model_copy(update={"codebook_size": 16})
    return MelodyRecipe(
        task=MelodyTaskConfig(embedder=embedder),
        tokenizer=tokenizer.model_copy(update={"quantizer": quantizer}),
        source=MelodySourceConfig(sounding=2, written=4, validation_melodies=2),
        trainer=TrainerConfig(
            num_steps=4, ema_decay=0.9, log_every=2, validate_every=4, keep_samples=0
        ),
        start_batches=4,
        fit_batches=2,
        stage_steps=4,
        coarse_steps=4,
    )


def melody_run(
    recipe: Recipe,
    component: MelodyComponent,
    data: Path,
    model: Path | None = None,
    *,
    start_from: Path | None = None,
    is_resumed: bool = False,
) -> ComponentRun:
    """What `training.trainer.train` needs for the embedder or for a stage that reads its tokens.

    Args:
        recipe: The recipe; its name chooses the melody's sizes, its stages the crops.
        component: `melody`, or a stage of the model, fine-tuned with melody tokens as one more,
            optional segment: `melody-stage` is the semantic one, `melody-coarse-stage` the coarse.
        data: A rendered corpus; for the stages a token store with melody tokens.
        model: The folder with the parts trained before; the stages need its `mulan` and `melody`
            files, and that of the stage unless `start_from` is given.
        start_from: Weights to begin with: of another embedder, or of the stage to fine-tune.
        is_resumed: Whether a checkpoint is going to overwrite the weights, so that the work of a
            start can be spared.

    Raises:
        ConfigError: A stage is asked for without a model folder.
        CheckpointError: A part of the model is missing.
        DataError: The data cannot be used.
    """
    part = melody_recipe(recipe.name)
    seed = part.trainer.seed
    if component == "melody":
        with RandomStreams(seed).layers_draw_from("init", "melody"):
            task = MelodyTask(part.task)
        source = MelodySource(Corpus.open(data), part.source, seed=seed)
        if start_from is not None:
            load_weights(task.model, start_from)
        elif not is_resumed:
            steps = range(part.start_batches)
            task.start_windows(source.written_batch(step, versions=3) for step in steps)
        return ComponentRun(task, source, part.trainer)
    name = STAGE_OF[component]
    file = f"{name}_stage.safetensors"
    if model is None:
        raise ConfigError(
            f"{component} needs --model, the folder with mulan.safetensors, melody.safetensors and "
            f"{file} (or --start-from another {name} stage)."
        )
    tokenizer = MelodyTokenizer.load(model / MELODY_FILE)
    stage = recipe.stage(name)
    crops = TokenCropSource(data, stage.crops, seed=stage.trainer.seed)
    source = MelodyCropSource(
        crops, data, tokenizer.token_spec, dropout=part.stage_dropout, seed=stage.trainer.seed
    )
    is_coarse = name == "coarse"
    num_steps = part.coarse_steps if is_coarse else part.stage_steps
    look_ahead = part.coarse_look_ahead_frames if is_coarse else part.look_ahead_frames
    trainer = stage.trainer.model_copy(update={"num_steps": num_steps})
    segment = melody_segment(tokenizer.token_spec, look_ahead)
    extended = _with_melody(start_from or model / file, segment, trainer.seed)
    return ComponentRun(_stage_task(recipe, name, part, model, extended), source, trainer)


def reads_melody(stage: Path) -> bool:
    """Whether the weights of a stage are of one that follows melodies.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    layout = StageConfig.from_json(read_config_json(stage)).layout
    return any(segment.name == "melody" for segment in layout.segments)


def _with_melody(path: Path, segment: Segment, seed: int) -> StageModel:
    """A trained stage, reading one segment more unless it does already."""
    trained = StageModel(StageConfig.from_json(read_config_json(path)))
    load_weights(trained, path)
    if reads_melody(path):
        return trained
    return with_segment(trained, segment, RandomStreams(seed).generator("init", "melody table"))


def _stage_task(
    recipe: Recipe, name: MelodicStage, part: MelodyRecipe, model: Path, extended: StageModel
) -> StageTask:
    """The fine-tuning of a stage that reads melody tokens."""
    conditioner = Conditioner.load(model / "mulan.safetensors")
    config = recipe.stage_task(name).model_copy(
        update={"stage": extended.config, "optimizer": part.stage_optimizer}
    )
    task = StageTask(
        config,
        conditioner.tokenizer.tokenize,
        text_conditioning=conditioner.tokenize_text,
        generator=RandomStreams(recipe.stage(name).trainer.seed).generator("init", "melody"),
    )
    task.model.load_state_dict(extended.state_dict())
    return task


def fit_melody(
    recipe: Recipe, data: Path, weights: Path, output: Path, *, runtime: Runtime
) -> ResidualFit:
    """Fits the codebooks of melody tokens on what a trained embedder hears; writes the tokenizer.

    Raises:
        ConfigError: The weights are of another embedder, or the output's name has another suffix.
    """
    if output.suffix != ".safetensors":
        raise ConfigError(f"Output {output.name!r} must end in .safetensors.")
    part = melody_recipe(recipe.name)
    embedder = MelodyEmbedder(part.task.embedder)
    load_weights(embedder, weights)
    tokenizer = MelodyTokenizer(part.tokenizer)
    tokenizer.embedder.load_state_dict(embedder.state_dict())
    tokenizer.to(runtime.device)
    source = MelodySource(Corpus.open(data), part.source, seed=part.trainer.seed + 1)
    batches = (source.batch(step, 0) for step in range(part.fit_batches))
    fit = fit_melody_tokenizer(tokenizer, batches, seed=part.trainer.seed)
    tokenizer.save(output, storage=part.storage)
    return fit
