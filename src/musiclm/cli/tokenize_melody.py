"""`musiclm tokenize-melody`: hum every tune of a corpus and keep the tokens beside a store."""

from pathlib import Path

import tyro
from rich.console import Console
from rich.progress import Progress

from musiclm.conditioning.melody_tokenizer import MelodyTokenizer
from musiclm.core.runtime import Runtime
from musiclm.data.manifest import Corpus
from musiclm.data.melody.tokens import MELODY_TOKENS_NAME, write_melody_tokens
from musiclm.generation.bundle import find_bundle


def tokenize_melody(
    corpus: tyro.conf.Positional[Path],
    store: tyro.conf.Positional[Path],
    *,
    model: str | None = None,
    seed: int = 0,
) -> None:
    """Hum the melodies of a rendered corpus, in time with its clips, as melody tokens.

    Args:
        corpus: A corpus that `musiclm prepare rendered` made; clips without notes have no melody.
        store: The token store of the same corpus (`musiclm tokenize`).
        model: A model folder with melody.safetensors; the bundled model by default.
        seed: Chooses voices and errors.
    """
    Runtime.choose("cpu", 1)
    tokenizer = MelodyTokenizer.load(find_bundle(model) / "melody.safetensors")
    console = Console(stderr=True)
    with Progress(console=console) as bar:
        task = bar.add_task("humming", total=None)
        count = write_melody_tokens(
            Corpus.open(corpus),
            store,
            tokenizer,
            seed=seed,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    console.print(f"{store / MELODY_TOKENS_NAME}: {count} melodies")
