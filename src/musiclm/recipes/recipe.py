"""Recipe: everything that decides what a model is and how it is trained, as one frozen value."""

from typing import Literal

from pydantic import Field, model_validator

from musiclm.codec.losses import StftLossConfig
from musiclm.conditioning.audio_tower import AudioTowerConfig
from musiclm.conditioning.tokenizer import ConditioningTokenizerConfig
from musiclm.core.config import Config
from musiclm.core.pretrained import Storage
from musiclm.data.clips import CropSourceConfig
from musiclm.data.pairs import PairSourceConfig
from musiclm.data.token_source import TokenCropConfig
from musiclm.data.tokenize import TokenizeConfig
from musiclm.generation.prompt import Temperatures
from musiclm.layers.transformer import TransformerConfig
from musiclm.semantic.tokenizer import SemanticTokenizerConfig
from musiclm.stages.language_model import StageConfig
from musiclm.stages.layout import (
    LayoutStyle,
    SegmentLayout,
    coarse_layout,
    fine_layout,
    semantic_layout,
    split_acoustic,
)
from musiclm.tokens.spec import TokenSpec
from musiclm.training.semantic_tokenizer import SemanticFitConfig
from musiclm.training.task import OptimizerConfig
from musiclm.training.tasks.codec import CodecTaskConfig
from musiclm.training.tasks.mulan import MuLanTaskConfig
from musiclm.training.tasks.semantic import SemanticTaskConfig
from musiclm.training.tasks.stage import StageTaskConfig
from musiclm.training.trainer import TrainerConfig

StageName = Literal["semantic", "coarse", "fine"]


class CodecRecipe(Config):
    """SoundStream."""

    task: CodecTaskConfig
    """Model and losses."""
    crops: CropSourceConfig
    """Audio."""
    trainer: TrainerConfig
    """The run."""
    decoder_stft: StftLossConfig | None = None
    """The spectra that a decoder hears which goes on alone (`codec-decoder`); by default those of
    the whole codec."""
    decoder_steps: int = Field(default=0, ge=0)
    """Steps that the decoder goes on alone, the codes being what they are."""
    storage: Storage = "float16"
    """How the bundled weights are kept."""


class SemanticRecipe(Config):
    """w2v-BERT and its centroids."""

    task: SemanticTaskConfig
    """Model and losses."""
    tokenizer: SemanticTokenizerConfig
    """Layer, centroids and windows; of the same w2v-BERT."""
    crops: CropSourceConfig
    """Audio."""
    trainer: TrainerConfig
    """The run."""
    fit: SemanticFitConfig
    """What k-means listens to."""
    storage: Storage = "float16"
    """How the bundled weights are kept."""

    @model_validator(mode="after")
    def _check(self) -> "SemanticRecipe":
        if self.tokenizer.w2v_bert != self.task.w2v_bert:
            raise ValueError("tokenizer.w2v_bert must equal task.w2v_bert")
        return self


class TextRecipe(Config):
    """The text tower's shape; its vocabulary comes from the corpus."""

    is_warm_started: bool = True
    """Begin with all-MiniLM-L6-v2, pruned; else with letters and random weights."""
    num_layers: int = Field(default=6, gt=0)
    """Layers kept, counted from the input."""
    num_frequent_pieces: int = Field(default=3500, ge=0)
    """Pieces kept for their frequency in English alone."""
    hidden_dim: int = Field(default=384, gt=0)
    """Width; 384 for the warm start."""
    num_heads: int = Field(default=12, gt=0)
    """Attention heads."""


class MuLanRecipe(Config):
    """MuLan and its quantizer."""

    audio: AudioTowerConfig
    """Audio tower."""
    text: TextRecipe
    """Text tower."""
    task: MuLanTaskConfig
    """Losses and rates."""
    pairs: PairSourceConfig
    """Crops and captions."""
    trainer: TrainerConfig
    """The run."""
    tokenizer: ConditioningTokenizerConfig
    """The quantizer of the joint space."""
    fit_pairs: int = Field(default=2048, gt=0)
    """Pairs behind the shift of texts."""
    storage: Storage = "int8"
    """How the bundled weights are kept."""


class StageRecipe(Config):
    """One language model."""

    transformer: TransformerConfig
    """Sizes."""
    style: LayoutStyle
    """How its segments are laid out."""
    crops: TokenCropConfig
    """Tokens; the crop's length is also the longest window of generation."""
    trainer: TrainerConfig
    """The run."""
    optimizer: OptimizerConfig
    """MusicLM states none."""
    optional_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Chance that a sample goes without conditioning."""
    caption_share: float = Field(default=0.0, ge=0, le=1)
    """Share of captioned crops that are conditioned on their caption instead of their audio."""
    starts_from_codebooks: bool = False
    """Whether embeddings start as projections of the vectors their codes stand for."""
    output_table: Literal["target", "joint"] = "target"
    """Rows of the output table."""
    storage: Storage = "int8"
    """How the bundled weights are kept."""


class Recipe(Config):
    """A whole model."""

    name: str
    """`tiny`, `mini` or `paper`."""
    corpus_hours: float = Field(gt=0)
    """Rendered music that `musiclm build` prepares."""
    guidance: float = Field(default=1.0, ge=0, le=20)
    """What the model's generations take by default."""
    coarse_guidance: float | None = Field(default=None, ge=0, le=20)
    """Likewise, of the coarse stage."""
    melody_guidance: float | None = Field(default=None, ge=0, le=20)
    """Likewise, of melodies."""
    temperatures: Temperatures = Temperatures()
    """Likewise."""
    num_levels: int | None = Field(default=None, ge=1, le=64)
    """Acoustic levels that the built model is heard with; all by default."""
    num_coarse: int = Field(default=4, gt=0)
    """Acoustic levels of the coarse stage; the fine stage makes the rest."""
    has_semantic_prefix: bool = True
    """Whether the coarse stage reads semantic tokens; without them it is the paper's ablation."""
    has_melody: bool = True
    """Whether the model follows tunes too, where the corpus knows its notes; their sizes are in
    `recipes/melody.py`."""
    codec: CodecRecipe
    """SoundStream."""
    semantic: SemanticRecipe
    """w2v-BERT."""
    mulan: MuLanRecipe
    """MuLan."""
    tokens: TokenizeConfig = TokenizeConfig()
    """How the corpus is tokenized."""
    semantic_stage: StageRecipe
    """MuLan ► semantic tokens."""
    coarse_stage: StageRecipe
    """MuLan and semantic tokens ► the first acoustic levels."""
    fine_stage: StageRecipe
    """The first acoustic levels ► the rest."""

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        if self.has_melody and self.semantic_stage.output_table == "joint":
            raise ValueError("a semantic stage with a joint output table needs has_melody=False")
        return self

    @property
    def acoustic_spec(self) -> TokenSpec:
        """The codec's codes."""
        codec = self.codec.task.codec
        return TokenSpec(
            name="acoustic",
            num_quantizers=codec.quantizer.num_quantizers,
            codebook_size=codec.quantizer.codebook_size,
            frame_rate_hz=codec.frame_rate_hz,
        )

    @property
    def semantic_spec(self) -> TokenSpec:
        """Semantic codes."""
        tokenizer = self.semantic.tokenizer
        return TokenSpec(
            name="semantic",
            num_quantizers=1,
            codebook_size=tokenizer.num_clusters,
            frame_rate_hz=tokenizer.w2v_bert.frame_rate_hz,
        )

    @property
    def conditioning_spec(self) -> TokenSpec:
        """MuLan codes."""
        return TokenSpec(
            name="conditioning",
            num_quantizers=self.mulan.tokenizer.num_levels,
            codebook_size=self.mulan.tokenizer.quantizer.codebook_size,
            frame_rate_hz=0,
        )

    def stage(self, name: StageName) -> StageRecipe:
        """The recipe of a stage."""
        stages = {
            "semantic": self.semantic_stage,
            "coarse": self.coarse_stage,
            "fine": self.fine_stage,
        }
        return stages[name]

    def layout(self, name: StageName) -> SegmentLayout:
        """The layout of a stage: what it reads and predicts."""
        style = self.stage(name).style
        coarse, fine = split_acoustic(self.acoustic_spec, self.num_coarse)
        if name == "semantic":
            return semantic_layout(self.conditioning_spec, self.semantic_spec, style)
        if name == "coarse":
            semantic = self.semantic_spec if self.has_semantic_prefix else None
            return coarse_layout(self.conditioning_spec, semantic, coarse, style)
        return fine_layout(coarse, fine, style)

    def stage_task(self, name: StageName) -> StageTaskConfig:
        """The model of a stage and how it is trained."""
        stage = self.stage(name)
        return StageTaskConfig(
            stage=StageConfig(
                layout=self.layout(name),
                transformer=stage.transformer,
                window_seconds=stage.crops.crop_seconds,
                output_table=stage.output_table,
            ),
            optimizer=stage.optimizer,
            optional_dropout=stage.optional_dropout,
            caption_share=stage.caption_share,
        )
