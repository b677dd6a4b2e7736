"""The pipeline: a corpus to a whole model folder, part by part; what is done is not done again."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from musiclm.codec.soundstream import SoundStream, SoundStreamConfig
from musiclm.conditioning.conditioner import Conditioner
from musiclm.conditioning.melody_tokenizer import MelodyTokenizer
from musiclm.core.errors import MusicLMError
from musiclm.core.pretrained import load_weights, read_config_json, save_weights, sha256_of_file
from musiclm.core.runtime import Runtime
from musiclm.data.manifest import Corpus
from musiclm.data.melody.source import melody_clips
from musiclm.data.melody.tokens import has_melody_tokens, write_melody_tokens
from musiclm.data.tokenize import CorpusModels, tokenize_corpus
from musiclm.generation.bundle import BundleConfig, write_bundle_config
from musiclm.recipes.components import (
    STAGE_OF,
    ComponentName,
    ComponentRun,
    component_run,
    fit_mulan,
    fit_semantic,
)
from musiclm.recipes.melody import (
    MELODIC_COMPONENTS,
    MELODY_FILE,
    MelodyComponent,
    fit_melody,
    melody_recipe,
    melody_run,
    reads_melody,
)
from musiclm.recipes.recipe import Recipe, StageName
from musiclm.semantic.tokenizer import SemanticTokenizer
from musiclm.stages.language_model import StageConfig, StageModel
from musiclm.training.run_state import checkpoint_folder
from musiclm.training.trainer import LAST_NAME, train

Say = Callable[[str], None]


def build_model(
    recipe: Recipe,
    corpus: Path,
    work: Path,
    output: Path,
    *,
    runtime: Runtime,
    say: Say = lambda line: None,
) -> None:
    """Trains every part of a model, in the order they need one another.

    Stopped and started again, it goes on where it was: a part whose file is in `output` is done.
    The first two stages are done when their weights read melody tokens, in a recipe with melody; a
    plain one, just trained or found in `output`, is what its fine-tuning begins with. A corpus
    whose clips do not know their notes gives a model without melody.

    Args:
        recipe: What to build.
        corpus: A folder that `musiclm prepare` made.
        work: Where run folders and tokens go.
        output: The model folder.
        runtime: Device and threads.
        say: Told what begins.
    """
    builder = _Builder(recipe, corpus, work, output, runtime, say)
    builder.codec()
    builder.semantic()
    builder.mulan()
    builder.tokens()
    builder.melody()
    for component, name in STAGE_OF.items():
        builder.stage(component, name)
    write_bundle_config(output, _bundle_config(recipe))
    say(f"{output}: the model is whole")


def load_corpus_models(folder: Path, runtime: Runtime) -> CorpusModels:
    """The three tokenizers of a model folder, on the device.

    Raises:
        CheckpointError: One of the files is missing or damaged.
    """
    names = ("codec", "semantic", "mulan")
    paths = {name: folder / f"{name}.safetensors" for name in names}
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


def _bundle_config(recipe: Recipe) -> BundleConfig:
    return BundleConfig(
        name=recipe.name,
        guidance=recipe.guidance,
        coarse_guidance=recipe.coarse_guidance,
        melody_guidance=recipe.melody_guidance,
        temperatures=recipe.temperatures,
        num_levels=recipe.num_levels,
    )


class _Builder:
    """The steps of `build_model`."""

    def __init__(
        self,
        recipe: Recipe,
        corpus: Path,
        work: Path,
        output: Path,
        runtime: Runtime,
        say: Say,
    ) -> None:
        self.recipe = recipe
        self.corpus = corpus
        self.work = work
        self.output = output
        self.runtime = runtime
        self.say = say

    def codec(self) -> None:
        """Trains SoundStream; its decoder goes on alone where the recipe says so."""
        output = self.output / "codec.safetensors"
        if output.is_file():
            return
        weights = self._trained("codec", self.corpus)
        if self.recipe.codec.decoder_steps:
            weights = self._trained("codec-decoder", self.corpus, start_from=weights)
        config_json = read_config_json(weights)
        codec = SoundStream(SoundStreamConfig.from_json(config_json))
        load_weights(codec, weights)
        save_weights(codec, output, config_json=config_json, storage=self.recipe.codec.storage)

    def semantic(self) -> None:
        """Trains w2v-BERT and fits its centroids."""
        output = self.output / "semantic.safetensors"
        if not output.is_file():
            weights = self._trained("semantic", self.corpus)
            self.say("semantic: fitting centroids")
            fit_semantic(self.recipe, self.corpus, weights, output, runtime=self.runtime)

    def mulan(self) -> None:
        """Trains MuLan and fits its codebooks."""
        output = self.output / "mulan.safetensors"
        if not output.is_file():
            weights = self._trained("mulan", self.corpus)
            self.say("mulan: fitting codebooks")
            fit_mulan(self.recipe, self.corpus, weights, output, runtime=self.runtime)

    def tokens(self) -> None:
        """Tokenizes the corpus; clips that are in the store are skipped."""
        self.say("tokenizing the corpus")
        tokenize_corpus(
            self.opened_corpus,
            self.token_store,
            load_corpus_models(self.output, self.runtime),
            self.recipe.tokens,
            device=self.runtime.device,
        )

    def melody(self) -> None:
        """Trains the melody embedder, fits its codebooks, and hums the corpus."""
        if not self.has_melody:
            return
        output = self.output / MELODY_FILE
        if not output.is_file():
            weights = self._trained_melody("melody", self.corpus)
            self.say("melody: fitting codebooks")
            fit_melody(self.recipe, self.corpus, weights, output, runtime=self.runtime)
        sha256 = sha256_of_file(output)
        if not has_melody_tokens(self.token_store, sha256):
            self.say("humming the corpus")
            tokenizer = MelodyTokenizer.load(output)
            write_melody_tokens(
                self.opened_corpus, self.token_store, tokenizer, weights_sha256=sha256
            )

    def stage(self, component: ComponentName, name: StageName) -> None:
        """Trains one language model; those that can learn to follow melodies at the end."""
        output = self.output / f"{component.replace('-', '_')}.safetensors"
        melodic = MELODIC_COMPONENTS.get(name) if self.has_melody else None
        if output.is_file() and (melodic is None or reads_melody(output)):
            return
        weights = output if output.is_file() else self._trained(component, self.token_store)
        if melodic is not None:
            weights = self._trained_melody(melodic, self.token_store, weights)
        config_json = read_config_json(weights)
        model = StageModel(StageConfig.from_json(config_json))
        load_weights(model, weights)
        storage = self.recipe.stage(name).storage
        save_weights(model, output, config_json=config_json, storage=storage)

    @property
    def token_store(self) -> Path:
        """Where the corpus's tokens are."""
        return self.work / "tokens"

    @cached_property
    def opened_corpus(self) -> Corpus:
        """The corpus, read once."""
        return Corpus.open(self.corpus)

    @cached_property
    def has_melody(self) -> bool:
        """Whether the model is to follow melodies and the corpus can teach it."""
        if not self.recipe.has_melody:
            return False
        seconds = melody_recipe(self.recipe.name).source.view_seconds
        if melody_clips(self.opened_corpus, "train", seconds):
            return True
        self.say(f"{self.corpus} does not know its notes: the model will follow no melodies")
        return False

    def _trained(
        self, component: ComponentName, data: Path, start_from: Path | None = None
    ) -> Path:
        """Trains a component, or goes on with it, and gives its averaged weights."""

        def prepare(is_resumed: bool) -> ComponentRun:
            return component_run(
                self.recipe,
                component,
                data,
                self.output,
                start_from=start_from,
                is_resumed=is_resumed,
            )

        return self._run(component, prepare)

    def _trained_melody(
        self, component: MelodyComponent, data: Path, start_from: Path | None = None
    ) -> Path:
        """The same for the components of the melody part."""

        def prepare(is_resumed: bool) -> ComponentRun:
            return melody_run(
                self.recipe,
                component,
                data,
                self.output,
                start_from=start_from,
                is_resumed=is_resumed,
            )

        return self._run(component, prepare)

    def _run(self, component: str, prepare: Callable[[bool], ComponentRun]) -> Path:
        self.say(f"{component}: training")
        folder = self.work / "runs" / component
        run = prepare(checkpoint_folder(folder) is not None)
        result = train(run.task, run.source, run.trainer, folder, runtime=self.runtime)
        if not result.is_finished:
            raise MusicLMError(
                f"{component} stopped at step {result.step} of {run.trainer.num_steps}, its time "
                "being up; the same command goes on."
            )
        return folder / LAST_NAME
