"""`musiclm tokenize`: a corpus to token shards."""

from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console

from musiclm.codec.soundstream import SoundStream, SoundStreamConfig
from musiclm.conditioning.conditioner import Conditioner
from musiclm.core.pretrained import load_weights, read_config_json, sha256_of_file
from musiclm.core.runtime import Runtime
from musiclm.data.manifest import Corpus
from musiclm.data.tokenize import CorpusModels, TokenizeConfig, tokenize_corpus
from musiclm.semantic.tokenizer import SemanticTokenizer

_PARTS: tuple[Literal["codec"], Literal["semantic"], Literal["mulan"]] = (
    "codec",
    "semantic",
    "mulan",
)


def tokenize(
    corpus: tyro.conf.Positional[Path],
    dest: tyro.conf.Positional[Path],
    *,
    model: Path,
    batch: int = 8,
    device: str = "auto",
) -> None:
    """Turn a corpus into semantic codes, acoustic codes and MuLan embeddings (Parquet shards).

    Stopped and started again, it goes on where it was.

    Args:
        corpus: A folder that `musiclm prepare` made.
        dest: The folder of the token store.
        model: The folder with codec.safetensors, semantic.safetensors and mulan.safetensors.
        batch: Clips that go through a model at once.
        device: auto, cpu or cuda.
    """
    opened = Corpus.open(corpus)
    runtime = Runtime.choose(device)
    models = load_corpus_models(model, runtime)
    result = tokenize_corpus(
        opened, dest, models, TokenizeConfig(batch_size=batch), device=runtime.device
    )
    Console(stderr=True).print(
        f"{dest}: {result.num_clips} clips ({result.duration_seconds / 3600:.2f} h) tokenized, "
        f"{result.num_skipped} skipped"
    )


def load_corpus_models(folder: Path, runtime: Runtime) -> CorpusModels:
    """The three tokenizers of a model folder, on the device.

    Raises:
        CheckpointError: One of the files is missing or damaged.
    """
    paths = {name: folder / f"{name}.safetensors" for name in _PARTS}
    codec = SoundStream(SoundStreamConfig.from_json(read_config_json(paths["codec"])))
    load_weights(codec, paths["codec"])
    mulan = Conditioner.load(paths["mulan"]).mulan
    return CorpusModels(
        semantic=SemanticTokenizer.load(paths["semantic"]).to(runtime.device),
        acoustic=codec.eval().to(runtime.device),
        embedder=mulan.to(runtime.device),
        embedding_dim=mulan.config.embedding_dim,
        weight_hashes={name: sha256_of_file(path) for name, path in paths.items()},
    )
