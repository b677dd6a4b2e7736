"""The paper recipe: MusicLM's sizes and token layout. It builds and takes a step anywhere."""

from musiclm.codec.seanet import SeanetConfig
from musiclm.codec.soundstream import SoundStreamConfig
from musiclm.conditioning.audio_tower import AudioTowerConfig
from musiclm.conditioning.tokenizer import ConditioningTokenizerConfig
from musiclm.data.clips import CropSourceConfig
from musiclm.data.pairs import PairSourceConfig
from musiclm.data.token_source import TokenCropConfig
from musiclm.layers.transformer import TransformerConfig
from musiclm.quantization.residual import QuantizerConfig
from musiclm.recipes.recipe import (
    CodecRecipe,
    MuLanRecipe,
    Recipe,
    SemanticRecipe,
    StageRecipe,
    TextRecipe,
)
from musiclm.semantic.tokenizer import SemanticTokenizerConfig
from musiclm.semantic.w2v_bert_config import W2vBertConfig
from musiclm.stages.layout import LayoutStyle
from musiclm.training.semantic_tokenizer import SemanticFitConfig
from musiclm.training.task import OptimizerConfig
from musiclm.training.tasks.codec import CodecTaskConfig
from musiclm.training.tasks.mulan import MuLanTaskConfig
from musiclm.training.tasks.semantic import SemanticTaskConfig
from musiclm.training.trainer import TrainerConfig


def paper() -> Recipe:
    """MusicLM, Sections 3 and 4; what the papers leave open is in docs/deviations.md."""
    model = W2vBertConfig()
    return Recipe(
        name="paper",
        corpus_hours=280_000,
        # The paper's melody prompt is another one: docs/deviations.md.
        has_melody=False,
        codec=CodecRecipe(
            task=CodecTaskConfig(
                codec=SoundStreamConfig(
                    backbone="seanet",
                    seanet=SeanetConfig(),
                    quantizer=QuantizerConfig(codebook_dim=128),
                )
            ),
            crops=CropSourceConfig(crop_seconds=1.92, batch_size=64),
            trainer=_trainer(1_000_000),
            storage="float32",
        ),
        semantic=SemanticRecipe(
            task=SemanticTaskConfig(w2v_bert=model),
            tokenizer=SemanticTokenizerConfig(w2v_bert=model, layer=7),
            crops=CropSourceConfig(crop_seconds=16.0, batch_size=64),
            trainer=_trainer(400_000),
            fit=SemanticFitConfig(num_batches=5_000, max_vectors=1_000_000, num_epochs=100),
            storage="float32",
        ),
        mulan=MuLanRecipe(
            audio=AudioTowerConfig(),
            text=TextRecipe(num_layers=6, num_frequent_pieces=30_000),
            task=MuLanTaskConfig(),
            pairs=PairSourceConfig(batch_size=6144),
            trainer=_trainer(100_000),
            tokenizer=ConditioningTokenizerConfig(
                quantizer=QuantizerConfig(codebook_dim=128), num_levels=12
            ),
            storage="float32",
        ),
        semantic_stage=_stage(30.0),
        coarse_stage=_stage(10.0),
        fine_stage=_stage(3.0),
    )


def _trainer(num_steps: int) -> TrainerConfig:
    return TrainerConfig(
        num_steps=num_steps,
        ema_decay=0.9999,
        log_every=100,
        validate_every=10_000,
        checkpoint_every=5_000,
    )


def _stage(crop_seconds: float) -> StageRecipe:
    """24 layers, 16 heads, width 1024, feed-forward 4096, dropout 0.1 (Section 4.1)."""
    return StageRecipe(
        transformer=TransformerConfig(
            dim=1024,
            num_layers=24,
            num_heads=16,
            head_dim=64,
            feed_forward_dim=4096,
            dropout=0.1,
            positions="relative_bias",
        ),
        style=LayoutStyle(),
        crops=TokenCropConfig(crop_seconds=crop_seconds, batch_size=64),
        trainer=_trainer(1_000_000),
        optimizer=OptimizerConfig(learning_rate=3e-4, weight_decay=0.01, warmup_steps=5_000),
        output_table="joint",
        storage="float32",
    )
