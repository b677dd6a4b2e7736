"""`musiclm tokenize-melody`: hum every tune of a corpus and keep the tokens beside a store."""

import time
from pathlib import Path

import tyro
from rich.console import Console
from rich.progress import Progress

from musiclm.conditioning.melody_tokenizer import MelodyTokenizer
from musiclm.core.pretrained import sha256_of_file
from musiclm.core.runtime import Runtime
from musiclm.data.manifest import Corpus
from musiclm.data.melody.tokens import MELODY_TOKENS_NAME, write_melody_tokens
from musiclm.data.token_store import read_header
from musiclm.generation.bundle import find_bundle

_FIRST_CLIPS = 20


def tokenize_melody(
    corpus: tyro.conf.Positional[Path],
    store: tyro.conf.Positional[Path],
    *,
    model: str | None = None,
    seed: int = 0,
) -> None:
    """Hum the melodies of a rendered corpus, in time with its clips, as melody tokens.

    Stopped and started again, it goes on where it was.

    Args:
        corpus: A corpus that `musiclm prepare rendered` made; clips without notes have no melody.
        store: The token store of the same corpus (`musiclm tokenize`).
        model: A model folder with melody.safetensors; the bundled model by default.
        seed: Chooses voices and errors.
    """
    Runtime.choose("cpu", 1)
    weights = find_bundle(model) / "melody.safetensors"
    tokenizer = MelodyTokenizer.load(weights)
    opened = Corpus.open(corpus)
    read_header(store)
    console = Console(stderr=True)
    begun: tuple[int, float] | None = None
    with Progress(console=console) as bar:
        task = bar.add_task("humming", total=None)

        def report(done: int, total: int) -> None:
            nonlocal begun
            bar.update(task, completed=done, total=total)
            begun = begun or (done, time.process_time())
            if done == begun[0] + _FIRST_CLIPS:
                seconds = (time.process_time() - begun[1]) / _FIRST_CLIPS
                console.print(
                    f"{seconds:.2f} s of processor time a clip: "
                    f"{seconds * (total - done) / 60:.0f} min for the other {total - done}"
                )

        count = write_melody_tokens(
            opened,
            store,
            tokenizer,
            weights_sha256=sha256_of_file(weights),
            seed=seed,
            on_progress=report,
        )
    console.print(f"{store / MELODY_TOKENS_NAME}: {count} melodies")
