"""The `musiclm` command: finds the verb, runs it; user errors are one line and exit code 2."""

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TextIO

import tyro

from musiclm.core.errors import MusicLMError

# verb: (module, {sub-verb or "": function or module:function}, one line of help); modules load only
# when asked for.
VERBS: dict[str, tuple[str, dict[str, str], str]] = {
    "generate": ("musiclm.cli.generate", {"": "generate"}, "make music from a sentence"),
    "encode": ("musiclm.cli.codes", {"": "encode"}, "audio to tokens (semantic and acoustic)"),
    "decode": ("musiclm.cli.codes", {"": "decode"}, "acoustic tokens back to audio"),
    "prepare": (
        "musiclm.cli.prepare",
        {
            "rendered": "prepare_rendered",
            "folder": "prepare_folder",
            "musiccaps": "musiclm.cli.prepare_musiccaps:prepare_musiccaps",
        },
        "make a corpus: rendered scores, a folder of your own audio, MusicCaps",
    ),
    "tokenize": ("musiclm.cli.tokenize", {"": "tokenize"}, "a corpus to token shards"),
    "tokenize-melody": (
        "musiclm.cli.tokenize_melody",
        {"": "tokenize_melody"},
        "hum the tunes of a corpus, as tokens beside a store",
    ),
    "train": ("musiclm.cli.train", {"": "train"}, "train one component"),
    "fit": (
        "musiclm.cli.fit",
        {"semantic": "fit_semantic", "mulan": "fit_mulan", "melody": "fit_melody"},
        "fit k-means, or the quantizer of MuLan or melodies",
    ),
    "build": (
        "musiclm.cli.build",
        {"": "build"},
        "every part of a model, from a corpus or nothing",
    ),
    "evaluate": (
        "musiclm.cli.evaluate",
        {
            "": "musiclm.cli.evaluate_captions:evaluate_captions",
            "generations": "evaluate",
            "codec": "musiclm.cli.evaluate_codec:evaluate_codec",
            "semantic": "musiclm.cli.evaluate_semantic:evaluate_semantic",
            "mulan": "musiclm.cli.evaluate_mulan:evaluate_mulan",
            "stages": "musiclm.cli.evaluate_stages:evaluate_stages",
            "storage": "musiclm.cli.evaluate_storage:evaluate_storage",
            "melody": "musiclm.cli.evaluate_melody:evaluate_melody",
            "story": "musiclm.cli.evaluate_story:evaluate_story",
            "memorization": "musiclm.cli.evaluate_memorization:evaluate_memorization",
        },
        "score what a model makes, or one of its parts",
    ),
    "train-baseline": (
        "musiclm.cli.train_baseline",
        {"": "train_baseline"},
        "train spectrogram diffusion, which the paper compares with",
    ),
    "reproduce": (
        "musiclm.cli.reproduce",
        {"": "reproduce"},
        "the paper's tables in miniature, and which findings hold",
    ),
    "study": (
        "musiclm.cli.study",
        {"create": "create_study", "serve": "serve_study", "results": "study_results"},
        "a blind listening study: make it, serve its page, see what it shows",
    ),
    "bench": ("musiclm.cli.bench", {"": "bench"}, "how fast this model and its peers are here"),
    "doctor": ("musiclm.cli.doctor", {"": "doctor"}, "what a recipe builds, and what is installed"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; exits with 0, 2 (a user's error), 130 (interrupted) or a traceback (our bug)."""
    warnings.showwarning = _show_warning
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _run(arguments)
    except MusicLMError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; nothing half-written was left behind", file=sys.stderr)
        sys.exit(130)


def _run(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return
    if arguments[0] == "--version":
        print(importlib.import_module("musiclm").__version__)
        return
    verb, rest = arguments[0], arguments[1:]
    if verb not in VERBS:
        raise MusicLMError(f"Unknown verb {verb!r}. Choose one of: {', '.join(VERBS)}.")
    module_name, functions, _ = VERBS[verb]
    commands: dict[str, Callable[..., Any]] = {
        name: _function(module_name, function) for name, function in functions.items()
    }
    plain = commands.pop("", None)
    names = (*commands, "--help", "-h")
    if plain is not None and (not commands or (rest and rest[0] not in names)):
        tyro.cli(plain, prog=f"musiclm {verb}", args=rest)
    else:
        tyro.extras.subcommand_cli_from_dict(commands, prog=f"musiclm {verb}", args=rest)


def _function(module_name: str, place: str) -> Callable[..., Any]:
    other, _, name = place.rpartition(":")
    return getattr(importlib.import_module(other or module_name), name)


def _usage() -> str:
    lines = ["usage: musiclm VERB ...   (musiclm VERB --help says more)", ""]
    lines += [f"  {verb:<15} {text}" for verb, (_, _, text) in VERBS.items()]
    return "\n".join(lines)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    del category, filename, lineno, line
    print(f"warning: {message}", file=file or sys.stderr)
