"""`musiclm tokenize`: a corpus to token shards."""

from pathlib import Path

import tyro
from rich.console import Console

from musiclm.core.runtime import Runtime
from musiclm.data.manifest import Corpus
from musiclm.data.token_store import Share
from musiclm.data.tokenize import TokenizeConfig, tokenize_corpus
from musiclm.recipes.pipeline import load_corpus_models


def tokenize(  # noqa: PLR0913  (each is an option of the command)
    corpus: tyro.conf.Positional[Path],
    dest: tyro.conf.Positional[Path],
    *,
    model: Path,
    batch: int | None = None,
    stride_seconds: int = 1,
    share: str = "0/1",
    reuse: tuple[Path, ...] = (),
    device: str = "auto",
) -> None:
    """Turn a corpus into semantic codes, acoustic codes and MuLan embeddings (Parquet shards).

    Stopped and started again, it goes on where it was.

    Args:
        corpus: A folder that `musiclm prepare` made.
        dest: The folder of the token store.
        model: The folder with codec.safetensors, semantic.safetensors and mulan.safetensors.
        batch: Clips that go through a model at once; 1 on a CPU and 8 on a GPU by default.
        stride_seconds: From one of MuLan's windows to the next; 1 is the paper's, more is faster.
        share: INDEX/COUNT: do only this share of the clips; run 0/2 and 1/2 side by side.
        reuse: Other token stores of this corpus; what the same weights made is copied from them.
        device: auto, cpu or cuda.
    """
    opened = Corpus.open(corpus)
    runtime = Runtime.choose(device)
    models = load_corpus_models(model, runtime)
    config = TokenizeConfig(
        batch_size=batch, stride_seconds=stride_seconds, share=Share.parse(share)
    )
    result = tokenize_corpus(opened, dest, models, config, reuse=reuse, device=runtime.device)
    Console(stderr=True).print(
        f"{dest}: {result.num_clips} clips ({result.duration_seconds / 3600:.2f} h) tokenized, "
        f"{result.num_skipped} skipped"
    )
