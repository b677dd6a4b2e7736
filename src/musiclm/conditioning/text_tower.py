"""The text tower of MuLan: a BERT-shaped encoder, mean pooling, 128 dimensions, unit length."""

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from musiclm.conditioning.word_pieces import SPECIAL_PIECES, TokenizedText, WordPieces
from musiclm.core.config import Config


class TextTowerConfig(Config):
    """Shape of the text tower; the defaults are those of all-MiniLM-L6-v2."""

    vocabulary: tuple[str, ...]
    """Word pieces in the order of their ids; the tokenizer is rebuilt from them."""
    hidden_dim: int = Field(default=384, gt=0)
    """Width of the encoder."""
    num_layers: int = Field(default=6, gt=0)
    """Layers, counted from the input."""
    num_heads: int = Field(default=12, gt=0)
    """Attention heads."""
    feedforward_dim: int = Field(default=1536, gt=0)
    """Width between the two linear maps of a layer."""
    max_positions: int = Field(default=256, gt=2)
    """Longest text in pieces, start and end included; longer ones are cut."""
    embedding_dim: int = Field(default=128, gt=0)
    """Dimensions of the joint space."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """In training only."""

    @model_validator(mode="after")
    def _check(self) -> "TextTowerConfig":
        if self.hidden_dim % self.num_heads:
            raise ValueError("hidden_dim must be a multiple of num_heads")
        if not set(SPECIAL_PIECES) <= set(self.vocabulary):
            raise ValueError(f"vocabulary must hold {', '.join(SPECIAL_PIECES)}")
        if len(set(self.vocabulary)) != len(self.vocabulary):
            raise ValueError("vocabulary holds a piece twice")
        return self


class TextTower(nn.Module):
    """Texts to unit vectors of the joint space.

    Post-norm layers with exact GELU and epsilon 1e-12, so that BERT's weights fit as they are
    (its segment embedding is folded into the positions). MuLan reads the first position; the
    warm start was trained for the mean over pieces, which is what this tower takes.
    """

    def __init__(self, config: TextTowerConfig) -> None:
        super().__init__()
        self.config = config
        self.word_pieces = WordPieces(config.vocabulary, max_positions=config.max_positions)
        width = config.hidden_dim
        self.piece_embedding = nn.Embedding(len(config.vocabulary), width)
        self.position_embedding = nn.Embedding(config.max_positions, width)
        nn.init.normal_(self.piece_embedding.weight, std=0.02)
        nn.init.normal_(self.position_embedding.weight, std=0.02)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                config.num_heads,
                config.feedforward_dim,
                config.dropout,
                activation="gelu",
                layer_norm_eps=1e-12,
                batch_first=True,
            )
            for _ in range(config.num_layers)
        )
        self.projection = nn.Linear(width, config.embedding_dim)

    def pretrained_parameters(self) -> list[nn.Parameter]:
        """What a warm start fills: everything but the projection."""
        return [weight for name, weight in self.named_parameters() if "projection" not in name]

    def tokenize_text(self, texts: list[str]) -> TokenizedText:
        """Piece ids and mask of some texts (on the CPU), and which were cut.

        Raises:
            PromptError: A text is empty.
        """
        return self.word_pieces.tokenize(texts)

    def unknown_words(self, text: str) -> list[str]:
        """Words of a text that the vocabulary cannot spell (other scripts, emoji), once each."""
        return self.word_pieces.unknown_words(text)

    def pool(
        self, ids: Int[Tensor, "batch positions"], mask: Bool[Tensor, "batch positions"]
    ) -> Float[Tensor, "batch hidden"]:
        """Mean of the last layer over the pieces of each text."""
        positions = torch.arange(ids.shape[1], device=ids.device)
        hidden = self.piece_embedding(ids) + self.position_embedding(positions)
        hidden = self.dropout(self.norm(hidden))
        for layer in self.layers:
            hidden = layer(hidden, src_key_padding_mask=~mask)
        hidden = hidden.float().masked_fill(~mask[..., None], 0.0)
        return hidden.sum(dim=1) / mask.sum(dim=1, keepdim=True)

    def project(self, pooled: Float[Tensor, "batch hidden"]) -> Float[Tensor, "batch dim"]:
        """Pooled pieces to unit vectors of the joint space."""
        return functional.normalize(self.projection(pooled).float(), dim=-1)

    def forward(
        self, ids: Int[Tensor, "batch positions"], mask: Bool[Tensor, "batch positions"]
    ) -> Float[Tensor, "batch dim"]:
        """Unit vectors of the joint space."""
        return self.project(self.pool(ids, mask))

    def pool_texts(
        self, texts: list[str], *, group_size: int = 32
    ) -> Float[Tensor, "batch hidden"]:
        """`pool` of some texts, in groups of like length to spare padding.

        Raises:
            PromptError: A text is empty.
        """
        tokens = self.tokenize_text(texts)
        device = self.projection.weight.device
        lengths = tokens.mask.sum(dim=1)
        order = lengths.argsort(stable=True)
        groups: list[Tensor] = []
        for rows in order.split(group_size):
            longest = int(lengths[rows].max())
            ids, mask = tokens.ids[rows, :longest], tokens.mask[rows, :longest]
            groups.append(self.pool(ids.to(device), mask.to(device)))
        return torch.cat(groups)[order.argsort().to(device)]

    def embed(self, texts: list[str]) -> Float[Tensor, "batch dim"]:
        """Unit vectors of some texts.

        Raises:
            PromptError: A text is empty.
        """
        return self.project(self.pool_texts(texts))
