"""The tiny recipe: every component real and small, the whole chain in minutes of CPU, for tests."""

from musiclm.audio.spectrogram import LogMelConfig
from musiclm.codec.soundstream import SoundStreamConfig
from musiclm.codec.spectral import SpectralConfig
from musiclm.conditioning.audio_tower import AudioTowerConfig
from musiclm.conditioning.resnet import ResNetConfig
from musiclm.conditioning.tokenizer import ConditioningTokenizerConfig
from musiclm.data.clips import CropSourceConfig
from musiclm.data.pairs import PairSourceConfig
from musiclm.data.token_source import TokenCropConfig
from musiclm.layers.conformer import ConformerConfig
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

_CODES = 32


def tiny() -> Recipe:
    """The recipe; `paper`'s token layout (flattened, prefixed) at a toy's size."""
    return Recipe(
        name="tiny",
        corpus_hours=0.02,
        codec=_codec(),
        semantic=_semantic(),
        mulan=_mulan(),
        semantic_stage=_stage(6.0, LayoutStyle()),
        coarse_stage=_stage(3.0, LayoutStyle(target="delay", conditioning="sum", frames="aligned")),
        fine_stage=_stage(2.0, LayoutStyle(target="delay", frames="aligned", look_ahead_frames=1)),
    )


def _trainer(num_steps: int) -> TrainerConfig:
    return TrainerConfig(
        num_steps=num_steps,
        use_bf16=False,
        ema_decay=0.9,
        log_every=5,
        validate_every=num_steps,
        checkpoint_every=num_steps,
        keep_samples=1,
    )


def _codec() -> CodecRecipe:
    spectral = SpectralConfig(encoder_dim=32, encoder_blocks=1, decoder_dim=32, decoder_blocks=1)
    codec = SoundStreamConfig(spectral=spectral, quantizer=QuantizerConfig(codebook_size=_CODES))
    return CodecRecipe(
        task=CodecTaskConfig(
            codec=codec,
            quantizer_start=0.3,
            discriminator_start=1.0,
            generator=OptimizerConfig(learning_rate=2e-3, warmup_steps=5),
        ),
        crops=CropSourceConfig(crop_seconds=0.96, batch_size=4, validation_crops=2),
        trainer=_trainer(12),
        decoder_steps=2,
    )


def _semantic() -> SemanticRecipe:
    model = W2vBertConfig(
        front_end_channels=8,
        conformer=ConformerConfig(dim=32, num_heads=2, feed_forward_multiplier=2),
        num_contrastive_layers=1,
        num_prediction_layers=2,
        codebook_size=_CODES,
        codebook_dim=16,
    )
    crops = CropSourceConfig(crop_seconds=4.0, batch_size=4, validation_crops=2)
    return SemanticRecipe(
        task=SemanticTaskConfig(
            w2v_bert=model, optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=5)
        ),
        tokenizer=SemanticTokenizerConfig(w2v_bert=model, layer=1, num_clusters=_CODES),
        crops=crops,
        trainer=_trainer(10),
        fit=SemanticFitConfig(num_batches=4, max_vectors=2_000, num_epochs=3),
    )


def _mulan() -> MuLanRecipe:
    return MuLanRecipe(
        audio=AudioTowerConfig(
            log_mel=LogMelConfig(num_mels=64),
            resnet=ResNetConfig(
                block="separable",
                stem_width=8,
                stem_stride=(4, 8),
                has_max_pool=False,
                stage_widths=(8, 16),
                stage_blocks=(1, 1),
            ),
        ),
        text=TextRecipe(is_warm_started=False, num_layers=1, hidden_dim=32, num_heads=2),
        task=MuLanTaskConfig(),
        pairs=PairSourceConfig(batch_size=4, validation_pairs=4),
        trainer=_trainer(10),
        tokenizer=ConditioningTokenizerConfig(
            quantizer=QuantizerConfig(codebook_size=16, codebook_dim=128), num_levels=3
        ),
        fit_pairs=32,
    )


def _stage(crop_seconds: float, style: LayoutStyle) -> StageRecipe:
    return StageRecipe(
        transformer=TransformerConfig(
            dim=32,
            num_layers=2,
            num_heads=2,
            head_dim=16,
            feed_forward_dim=64,
            positions="rotary",
        ),
        style=style,
        crops=TokenCropConfig(crop_seconds=crop_seconds, batch_size=4, validation_crops=4),
        trainer=_trainer(10),
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=2),
        optional_dropout=0.1,
        caption_share=0.5,
        starts_from_codebooks=True,
    )
