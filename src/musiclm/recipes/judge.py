"""The judge: an independent joint space for the evaluation, which no part of a model reads."""

from pathlib import Path
from typing import Literal

from pydantic import model_validator

from musiclm.conditioning.warm_start import load_encoder, sentence_encoder
from musiclm.core.config import Config
from musiclm.core.pretrained import load_weights
from musiclm.core.runtime import RandomStreams, Runtime
from musiclm.data.manifest import Clip, Corpus
from musiclm.data.pairs import PairSource, PairSourceConfig
from musiclm.evaluation.independent_mulan import (
    FeatureTowerConfig,
    IndependentMuLan,
    IndependentMuLanConfig,
)
from musiclm.evaluation.musicnn_features import (
    FOLDER_NAME,
    MusicNNFeatures,
    MusicNNFeaturesConfig,
    MusicNNFeatureStore,
)
from musiclm.recipes.components import ComponentRun, text_tower_config
from musiclm.recipes.recipe import Recipe
from musiclm.training.task import OptimizerConfig
from musiclm.training.tasks.mulan import MuLanTask, MuLanTaskConfig
from musiclm.training.trainer import TrainerConfig

JudgeComponent = Literal["mulan-judge"]
_SEED = 1  # MuLan's is 0


class JudgeRecipe(Config):
    """The judge; its text tower has the shape that the recipe gives MuLan's."""

    features: MusicNNFeaturesConfig = MusicNNFeaturesConfig()
    """What is heard of a clip."""
    tower: FeatureTowerConfig = FeatureTowerConfig()
    """The trained network on the features."""
    task: MuLanTaskConfig = MuLanTaskConfig(
        optimizer=OptimizerConfig(
            learning_rate=1e-3, betas=(0.9, 0.98), weight_decay=0.05, warmup_steps=40
        ),
        text_optimizer=OptimizerConfig(
            learning_rate=1e-4, betas=(0.9, 0.98), weight_decay=0.01, warmup_steps=80
        ),
        num_frozen_text_layers=1,
        text_rest_fraction=0.6,
        use_bf16=True,
    )
    """Losses and rates."""
    pairs: PairSourceConfig = PairSourceConfig(
        batch_size=128, crop_frames=3, validation_pairs=256, wordings="odd"
    )
    """Captions, of one half of the wordings; all windows that are kept of a clip."""
    trainer: TrainerConfig = TrainerConfig(
        num_steps=1_000,
        use_bf16=False,
        ema_decay=0.99,
        validate_every=100,
        checkpoint_every=100,
        keep_samples=0,
        seed=_SEED,
    )
    """The run."""

    @model_validator(mode="after")
    def _check(self) -> "JudgeRecipe":
        if self.pairs.crop_frames != self.features.num_windows:
            raise ValueError(
                "pairs.crop_frames must be features.num_windows: the frames are windows"
            )
        return self


def judge_recipe(name: str) -> JudgeRecipe:
    """The judge of a recipe: a toy for `tiny`, else the default."""
    if name != "tiny":
        return JudgeRecipe()
    return JudgeRecipe(
        tower=FeatureTowerConfig(hidden_dim=16),
        task=MuLanTaskConfig(),
        pairs=PairSourceConfig(batch_size=4, crop_frames=3, validation_pairs=4, wordings="odd"),
        trainer=TrainerConfig(
            num_steps=4,
            use_bf16=False,
            ema_decay=0.9,
            log_every=2,
            validate_every=4,
            keep_samples=0,
            seed=_SEED,
        ),
    )


def judge_run(
    recipe: Recipe,
    data: Path,
    *,
    runtime: Runtime,
    start_from: Path | None = None,
    is_resumed: bool = False,
) -> ComponentRun:
    """What `training.trainer.train` needs; the features of the corpus are computed first.

    They are kept in the corpus, so that an interrupted call goes on and the next one reads them.

    Args:
        recipe: Its name chooses the judge's sizes, its MuLan those of the text tower.
        data: A corpus with captions.
        runtime: Where the features are computed.
        start_from: Weights of another judge to begin with.
        is_resumed: Whether a checkpoint is going to overwrite the weights.

    Raises:
        DependencyError: MusicNN's weights, or the sentence encoder, cannot be had.
        CheckpointError: The weights to begin with are damaged or of another size.
        DataError: The data cannot be used.
    """
    part = judge_recipe(recipe.name)
    corpus = Corpus.open(data)
    features = MusicNNFeatures(part.features, device=runtime.device)
    store = MusicNNFeatureStore(corpus, corpus.folder / FOLDER_NAME, features)
    source = PairSource(store, part.pairs, seed=part.trainer.seed)
    clips = {name: _captioned(corpus.split(name)) for name in ("train", "validation")}
    store.add([*clips["train"], *clips["validation"]], show_progress=True)
    judge = _new_judge(recipe, part, corpus)
    if start_from is not None and not is_resumed:
        load_weights(judge, start_from)
    elif not is_resumed:
        length = part.features.num_windows
        judge.audio_tower.standardise(store.crop(clip, 0.0, length) for clip in clips["train"])
    task = MuLanTask(judge, part.task, heard=store.batch_key)
    return ComponentRun(task, source, part.trainer)


def _new_judge(recipe: Recipe, part: JudgeRecipe, corpus: Corpus) -> IndependentMuLan:
    captions = [caption.text for clip in corpus.clips for caption in clip.captions]
    config = IndependentMuLanConfig(
        features=part.features, tower=part.tower, text=text_tower_config(recipe, captions)
    )
    with RandomStreams(part.trainer.seed).layers_draw_from("init", "mulan-judge"):
        judge = IndependentMuLan(config)
    if recipe.mulan.text.is_warm_started:
        load_encoder(judge.text_tower, sentence_encoder())
    return judge


def _captioned(corpus: Corpus) -> list[Clip]:
    return [clip for clip in corpus.clips if clip.captions]
