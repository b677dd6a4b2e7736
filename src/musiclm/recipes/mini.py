"""The mini recipe: the bundled model, small enough to train and to run on two CPU cores."""

from musiclm.audio.spectrogram import LogMelConfig
from musiclm.codec.losses import MelLossConfig, StftLossConfig
from musiclm.codec.soundstream import SoundStreamConfig
from musiclm.codec.spectral import SpectralConfig
from musiclm.conditioning.audio_tower import AudioTowerConfig
from musiclm.conditioning.resnet import ResNetConfig
from musiclm.conditioning.tokenizer import ConditioningTokenizerConfig
from musiclm.data.clips import CropSourceConfig
from musiclm.data.pairs import PairSourceConfig
from musiclm.data.token_source import TokenCropConfig
from musiclm.data.tokenize import TokenizeConfig
from musiclm.generation.prompt import Temperatures
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
from musiclm.semantic.pretext import PretextConfig
from musiclm.semantic.tokenizer import SemanticTokenizerConfig
from musiclm.semantic.w2v_bert_config import W2vBertConfig
from musiclm.stages.layout import LayoutStyle
from musiclm.training.semantic_tokenizer import SemanticFitConfig
from musiclm.training.task import OptimizerConfig
from musiclm.training.tasks.codec import CodecTaskConfig
from musiclm.training.tasks.mulan import MuLanTaskConfig
from musiclm.training.tasks.semantic import SemanticTaskConfig
from musiclm.training.trainer import TrainerConfig


def mini() -> Recipe:
    """The recipe."""
    return Recipe(
        name="mini",
        corpus_hours=62.0,
        guidance=2.0,
        coarse_guidance=3.0,
        melody_guidance=5.0,
        temperatures=Temperatures(fine=1.0),
        num_levels=4,
        codec=_codec(),
        semantic=_semantic(),
        mulan=_mulan(),
        tokens=TokenizeConfig(stride_seconds=3),
        semantic_stage=_stage(
            num_steps=2600,
            transformer=_transformer(dim=256, num_layers=6),
            style=LayoutStyle(conditioning="sum"),
            caption_share=0.5,
            crops=TokenCropConfig(crop_seconds=10.0, batch_size=8, validation_crops=48),
        ),
        coarse_stage=_stage(
            num_steps=6500,
            transformer=_transformer(dim=256, num_layers=6),
            style=LayoutStyle(
                target="delay", conditioning="sum", frames="aligned", look_ahead_frames=1
            ),
            caption_share=0.5,
            crops=TokenCropConfig(crop_seconds=6.0, batch_size=6, validation_crops=32),
        ),
        fine_stage=_stage(
            num_steps=1400,
            transformer=_transformer(dim=192, num_layers=4),
            style=LayoutStyle(target="delay", frames="aligned", look_ahead_frames=1),
            crops=TokenCropConfig(crop_seconds=3.0, batch_size=16, validation_crops=64),
        ),
    )


def _codec() -> CodecRecipe:
    return CodecRecipe(
        task=CodecTaskConfig(
            codec=SoundStreamConfig(
                spectral=SpectralConfig(latent_dim=128),
                quantizer=QuantizerConfig(
                    codebook_dim=128, dropout_probability=0.5, kmeans_iterations=6
                ),
            ),
            mel=MelLossConfig(
                window_lengths=(256, 512, 1024, 2048),
                linear_weight=5.0,
                log_weight=1.0,
                is_scale_weighted=False,
            ),
            stft=StftLossConfig(window_lengths=(2048, 4096)),
            mel_weight=2.0,
            stft_weight=3.0,
            commitment_weight=0.25,
            closed_form_batches=100,
            quantizer_start=0.0,
            discriminator_start=1.0,
            generator=OptimizerConfig(
                learning_rate=4e-4,
                betas=(0.9, 0.99),
                warmup_steps=200,
                final_fraction=0.02,
                clip_norm=1.0,
            ),
        ),
        crops=CropSourceConfig(
            crop_seconds=0.96,
            batch_size=5,
            gain_db_range=(-6.0, 3.0),
            cache_hours=8.0,
            validation_crops=8,
            validation_seconds=5.0,
        ),
        trainer=TrainerConfig(num_steps=12_000, use_bf16=True, validate_every=1_000),
        decoder_stft=StftLossConfig(window_lengths=(2048, 4096, 8192), excess_weight=0.25),
        decoder_steps=12_900,
        storage="int8",
    )


def _semantic() -> SemanticRecipe:
    model = W2vBertConfig(
        slow_spectrogram=LogMelConfig(
            window_length=4096,
            fft_size=4096,
            hop_length=960,
            num_mels=192,
            low_hz=30.0,
            high_hz=6_000.0,
        ),
        front_end_channels=24,
        conformer=ConformerConfig(
            dim=192, num_heads=4, feed_forward_multiplier=2, conv_kernel_frames=5
        ),
        num_contrastive_layers=3,
        num_prediction_layers=3,
        codebook_size=1024,
        codebook_dim=64,
        targets="spectra",
    )
    return SemanticRecipe(
        task=SemanticTaskConfig(
            w2v_bert=model,
            # With full weight on the losses of the published model, a run of a few thousand steps
            # stays where all frames look alike; the spectra lead it out, the rest follows.
            pretext=PretextConfig(
                contrastive_weight=0.1,
                prediction_weight=0.1,
                seen_weight=0.1,
                spectrum_weight=3.0,
                diversity_weight=0.0,
            ),
            optimizer=OptimizerConfig(
                learning_rate=1.2e-3,
                betas=(0.9, 0.98),
                weight_decay=0.01,
                warmup_steps=30,
                final_fraction=0.05,
            ),
        ),
        tokenizer=SemanticTokenizerConfig(w2v_bert=model, layer=0),
        crops=CropSourceConfig(
            crop_seconds=10.0, batch_size=3, gain_db_range=(-6.0, 3.0), validation_crops=12
        ),
        trainer=TrainerConfig(num_steps=6_000, use_bf16=True, ema_decay=0.99, validate_every=500),
        fit=SemanticFitConfig(num_batches=120, max_vectors=180_000, num_epochs=20),
        storage="int8",
    )


def _mulan() -> MuLanRecipe:
    return MuLanRecipe(
        audio=AudioTowerConfig(
            log_mel=LogMelConfig(num_mels=64),
            resnet=ResNetConfig(
                block="separable",
                stem_width=48,
                stem_kernel=9,
                stem_stride=(4, 8),
                has_max_pool=False,
                stage_widths=(48, 96, 192, 384),
                stage_blocks=(1, 2, 2, 3),
            ),
        ),
        text=TextRecipe(num_layers=3, num_frequent_pieces=4500),
        task=MuLanTaskConfig(
            optimizer=OptimizerConfig(
                learning_rate=2e-3, betas=(0.9, 0.98), weight_decay=0.01, warmup_steps=40
            ),
            text_optimizer=OptimizerConfig(
                learning_rate=1e-4, betas=(0.9, 0.98), weight_decay=0.01, warmup_steps=80
            ),
            num_frozen_text_layers=1,
            text_rest_fraction=0.6,
            use_bf16=True,
        ),
        pairs=PairSourceConfig(batch_size=64, validation_pairs=256),
        trainer=TrainerConfig(
            num_steps=1_200, use_bf16=False, ema_decay=0.99, validate_every=100, keep_samples=0
        ),
        tokenizer=ConditioningTokenizerConfig(
            quantizer=QuantizerConfig(codebook_dim=128), num_levels=3
        ),
    )


def _transformer(*, dim: int, num_layers: int) -> TransformerConfig:
    return TransformerConfig(
        dim=dim,
        num_layers=num_layers,
        num_heads=dim // 64,
        head_dim=64,
        feed_forward_dim=dim * 11 // 4,
        positions="rotary",
    )


def _stage(
    *,
    num_steps: int,
    transformer: TransformerConfig,
    style: LayoutStyle,
    crops: TokenCropConfig,
    caption_share: float = 0.0,
) -> StageRecipe:
    return StageRecipe(
        transformer=transformer,
        style=style,
        crops=crops,
        trainer=TrainerConfig(
            num_steps=num_steps,
            use_bf16=True,
            ema_decay=0.995,
            validate_every=250,
            checkpoint_every=250,
            keep_samples=0,
        ),
        optimizer=OptimizerConfig(
            learning_rate=2e-3, betas=(0.9, 0.98), weight_decay=0.05, warmup_steps=100
        ),
        optional_dropout=0.1,
        caption_share=caption_share,
        starts_from_codebooks=True,
    )
