"""MusicLM: prompt to tokens to waveform; three frozen tokenizers and three stages, joined."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Int
from torch import Tensor

from musiclm.audio.waveform import Waveform
from musiclm.codec.soundstream import SoundStream, SoundStreamConfig
from musiclm.conditioning.conditioner import Conditioner
from musiclm.conditioning.melody_tokenizer import MelodyTokenizer
from musiclm.conditioning.mulan import MuLan
from musiclm.core.errors import PromptError
from musiclm.core.pretrained import load_weights, read_config_json
from musiclm.core.runtime import RandomStreams, Runtime
from musiclm.generation.bundle import BundleConfig, bundle_sha256, find_bundle, read_bundle_config
from musiclm.generation.cascade import Cascade, ProgressReport, no_report
from musiclm.generation.gathering import PromptModels, gather
from musiclm.generation.generation import Generation
from musiclm.generation.material import Material, concatenated
from musiclm.generation.melody_prompt import in_time, read_melody, tune_of
from musiclm.generation.player import Player
from musiclm.generation.prompt import (
    GenerationSettings,
    checked_duration,
    checked_seed,
    checked_text,
)
from musiclm.generation.record import GenerationRecord
from musiclm.generation.request import GenerationRequest, make_request
from musiclm.generation.stream import MusicStream
from musiclm.generation.token_file import TokenSet
from musiclm.semantic.tokenizer import SemanticTokenizer
from musiclm.stages.language_model import StageConfig, StageModel


class MusicLM:
    """A model folder, opened; every part is loaded when it is first needed.

    Args:
        folder: Holds `config.json` and the parts it names.
        runtime: The device and threads to run with.

    Raises:
        CheckpointError: A part is missing.
    """

    def __init__(self, folder: Path, runtime: Runtime) -> None:
        self.folder = folder
        self.config: BundleConfig = read_bundle_config(folder)
        self.runtime = runtime

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path | None = None, *, device: str = "auto"
    ) -> "MusicLM":
        """Opens the bundled model (None), a model folder, or a hub id `owner/name`.

        Raises:
            CheckpointError: There is no such model, or a part of it is missing.
            ConfigError: The device is absent, or the config makes no sense.
        """
        return cls(find_bundle(name_or_path), Runtime.choose(device))

    @cached_property
    def codec(self) -> SoundStream:
        """The neural codec."""
        path = self._path("codec")
        codec = SoundStream(SoundStreamConfig.from_json(read_config_json(path)))
        load_weights(codec, path)
        return codec.to(self.runtime.device).for_inference()

    @cached_property
    def semantic(self) -> SemanticTokenizer:
        """w2v-BERT cut after its chosen layer, with its centroids."""
        return SemanticTokenizer.load(self._path("semantic")).to(self.runtime.device)

    @cached_property
    def conditioner(self) -> Conditioner:
        """MuLan and its quantizer."""
        return Conditioner.load(self._path("mulan")).to(self.runtime.device)

    @cached_property
    def melody(self) -> MelodyTokenizer:
        """The melody embedder and its quantizer.

        Raises:
            PromptError: The model has none.
        """
        if "melody" not in self.config.parts:
            raise PromptError(
                f"This model follows no melodies: {self.folder} has no melody.safetensors. Use a "
                "model that does, or leave the melody out."
            )
        return MelodyTokenizer.load(self._path("melody")).to(self.runtime.device)

    @property
    def mulan(self) -> MuLan:
        """The joint embedding of music and text."""
        return self.conditioner.mulan

    @cached_property
    def stages(self) -> Cascade:
        """The semantic, coarse and fine stages."""
        return Cascade(
            self._stage("semantic_stage"),
            self._stage("coarse_stage"),
            self._stage("fine_stage"),
            num_threads=self.runtime.num_threads,
        )

    @cached_property
    def sha256(self) -> str:
        """One hash for the config and all weights."""
        return bundle_sha256(self.folder, self.config)

    def generate(
        self,
        prompt: str = "",
        *,
        duration_seconds: float = 10.0,
        seed: int = 0,
        settings: GenerationSettings | None = None,
        request: GenerationRequest | None = None,
        progress: ProgressReport = no_report,
        **asked: Any,
    ) -> Generation:
        """Music from a sentence (MusicLM, Section 3.2), a tune, a story, a clip (Section 6).

        Args:
            prompt: What it should sound like; may be empty when something else says it.
            duration_seconds: Length; more than 0, at most 600.
            seed: The same prompt, seed, settings and model give the same music.
            settings: Temperatures and the like; its duration is used when it is given.
            request: What is asked beside the prompt.
            progress: Called with a stage's name and the fraction of it that is done.
            **asked: The same piece by piece: `melody`, `story`, `blend_seconds`, `mix`,
                `continue_from`, `keep_from`, as `generation.request.make_request` takes them.

        Raises:
            PromptError: The prompt, duration, seed or request makes no sense.
            AudioError: A file of the request cannot be read.
        """
        settings = settings or GenerationSettings(duration_seconds=duration_seconds)
        if asked:
            request = make_request(**asked)
        return self.generate_batch(
            [prompt], seeds=[seed], settings=settings, request=request, progress=progress
        )[0]

    def generate_batch(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        settings: GenerationSettings | None = None,
        request: GenerationRequest | Sequence[GenerationRequest] | None = None,
        progress: ProgressReport = no_report,
    ) -> list[Generation]:
        """Several pieces at once, one a prompt and seed; all have the same settings.

        Args:
            prompts: As in `generate`.
            seeds: As in `generate`.
            settings: Duration, temperatures and the like.
            request: What is asked beside the prompts: of all pieces, or one a piece (other tunes,
                for instance), of the same kind and length.
            progress: As in `generate`.

        Raises:
            PromptError: A prompt, the duration, a seed or a request makes no sense, the counts
                differ, or requests of different kinds or lengths cannot be made at once.
            AudioError: A file of the request cannot be read.
        """
        settings = self.decided(settings)
        if request is None or isinstance(request, GenerationRequest):
            request = [request or GenerationRequest()] * len(prompts)
        asked = self._checked(prompts, seeds, settings, request)
        semantic, acoustic = self.stages.generate(
            asked.material, asked.duration_seconds, settings, asked.streams, progress=progress
        )
        pieces: list[Generation] = []
        for index, text in enumerate(asked.texts):
            tokens = TokenSet(
                asked.material.spans[0].codes[index, :, 0].cpu(),
                semantic[index, 0].cpu(),
                acoustic[index].cpu(),
                self._num_samples(asked),
                self._followed(asked.material, index, semantic.shape[2]),
            )
            pieces.append(
                Generation(
                    waveform=self.decode(tokens),
                    tokens=tokens,
                    prompt=text,
                    seed=asked.streams[index].seed,
                    settings=settings,
                    unknown_words=asked.unknown_words[index],
                    model_name=self.config.name,
                    model_sha256=self.sha256,
                    device=self.runtime.device.type,
                    request=request[index],
                    decoding=self.stages.decoding,
                )
            )
            progress("codec", (index + 1) / len(asked.texts))
        return pieces

    def stream(
        self,
        prompt: str = "",
        *,
        seed: int = 0,
        settings: GenerationSettings | None = None,
        request: GenerationRequest | None = None,
        progress: ProgressReport = no_report,
    ) -> MusicStream:
        """The audio of `generate`, in pieces that come while later ones are still to be made.

        Args:
            prompt: As in `generate`.
            seed: As in `generate`.
            settings: Duration, temperatures and the like.
            request: As in `generate`.
            progress: As in `generate`.

        Raises:
            PromptError: The prompt, duration, seed or request makes no sense.
            AudioError: A file of the request cannot be read.
        """
        settings = self.decided(settings)
        request = request or GenerationRequest()
        asked = self._checked([prompt], [seed], settings, [request])
        tokens = self.stages.stream(
            asked.material, asked.duration_seconds, settings, asked.streams, progress=progress
        )
        record = GenerationRecord(
            prompt=asked.texts[0],
            seed=seed,
            settings=settings,
            model_name=self.config.name,
            model_sha256=self.sha256,
            audio_sha256="",
            device=self.runtime.device.type,
            unknown_words=asked.unknown_words[0],
            request=request,
            decoding=self.stages.decoding,
        )
        return MusicStream(tokens, self.codec, self._num_samples(asked), record, progress)

    def _checked(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        settings: GenerationSettings,
        requests: Sequence[GenerationRequest],
    ) -> "_Asked":
        """Refuses what makes no sense and reads what the requests name."""
        if not prompts or not len(prompts) == len(seeds) == len(requests):
            counts = f"{len(prompts)} prompts, {len(seeds)} seeds and {len(requests)} requests"
            raise PromptError(f"{counts}; give one of each for every piece.")
        texts = [
            checked_text(prompt) if prompt or request.needs_text else ""
            for prompt, request in zip(prompts, requests, strict=True)
        ]
        streams = [RandomStreams(checked_seed(seed)) for seed in seeds]
        seconds = checked_duration(settings.duration_seconds)
        told = list(zip(texts, requests, strict=True))
        unknown = [self._unknown_words(text, request) for text, request in told]
        _warn_of_unknown(unknown)
        # One at a time: rounding differs between batch sizes, and a code may hang on it.
        models = cast(PromptModels, self)  # pyright does not take a cached property for a property
        gathered = {key: gather(models, *key, seconds) for key in dict.fromkeys(told)}
        seconds = gathered[told[0]].duration_seconds
        if any(other.duration_seconds != seconds for other in gathered.values()):
            raise PromptError("Pieces of different lengths cannot be made at once.")
        material = concatenated([gathered[key].material for key in told])
        return _Asked(texts, streams, unknown, material, seconds)

    def decided(self, settings: GenerationSettings | None) -> GenerationSettings:
        """The settings with the model's own where nothing else is asked for."""
        settings = settings or GenerationSettings()
        own = self.config
        guidance, coarse_guidance = settings.guidance, settings.coarse_guidance
        if guidance is None:
            guidance = own.guidance
            coarse_guidance = own.coarse_guidance if coarse_guidance is None else coarse_guidance
        melody_guidance = settings.melody_guidance
        if melody_guidance is None:
            melody_guidance = own.melody_guidance
        temperatures = settings.temperatures or own.temperatures
        return GenerationSettings(
            duration_seconds=settings.duration_seconds,
            temperatures=temperatures.scaled(settings.temperature_scale),
            guidance=guidance,
            coarse_guidance=coarse_guidance,
            melody_guidance=melody_guidance,
            num_levels=settings.num_levels or own.num_levels,
        )

    def _num_samples(self, asked: "_Asked") -> int:
        return max(1, round(asked.duration_seconds * self.codec.sample_rate_hz))

    def _unknown_words(self, text: str, request: GenerationRequest) -> tuple[str, ...]:
        """Words of the prompt and of the request's texts that the text tower does not know."""
        told = [text, *(section.text for section in request.story)]
        told += [part.text for part in request.mix]
        tower = self.mulan.text_tower
        words = [word for piece in told if piece for word in tower.unknown_words(piece)]
        return tuple(dict.fromkeys(words))

    @torch.inference_mode()
    def encode(self, waveform: Waveform) -> TokenSet:
        """All the tokens of a piece of audio, of any rate.

        Melody tokens are among them where the model follows melodies and a tune is heard.
        """
        samples = self._samples(waveform, self.codec.sample_rate_hz)
        conditioning = self.conditioner.tokenize(self._samples(waveform, self.mulan.sample_rate_hz))
        semantic = self.semantic.tokenize(self._samples(waveform, self.semantic.sample_rate_hz))
        melody = None
        if "melody" in self.config.parts:
            heard = read_melody(self.melody, waveform)
            melody = in_time(heard, self.melody.token_spec, semantic.shape[2])
        return TokenSet(
            conditioning[0, :, 0].cpu(),
            semantic[0, 0].cpu(),
            self.codec.tokenize(samples)[0].cpu(),
            samples.shape[1],
            melody,
        )

    def decode(self, tokens: TokenSet, *, num_levels: int | None = None) -> Waveform:
        """Audio of acoustic tokens; `num_levels` takes only the first levels of the codec."""
        codes: Int[Tensor, "quantizers frames"] = tokens.acoustic[:num_levels]
        player = Player(self.codec, tokens.num_samples)
        samples = torch.cat([player.push(codes), player.flush()])
        return Waveform(samples, self.codec.sample_rate_hz)

    def _followed(self, material: Material, index: int, num_frames: int) -> Tensor | None:
        """The melody tokens that a piece was made with, in time with its semantic tokens."""
        codes = material.frames.get("melody")
        if codes is None:
            return None
        return tune_of(codes[index, :, :num_frames], self.melody.token_spec)

    def _samples(self, waveform: Waveform, sample_rate_hz: int) -> Tensor:
        return waveform.resampled(sample_rate_hz).samples[None].to(self.runtime.device)

    def _path(self, part: str) -> Path:
        return self.folder / self.config.parts[part]

    def _stage(self, part: str) -> StageModel:
        path = self._path(part)
        model = StageModel(StageConfig.from_json(read_config_json(path)))
        load_weights(model, path)
        return model.to(self.runtime.device).prepare_for_decoding()


@dataclass(frozen=True)
class _Asked:
    """A checked request of one or more pieces; one text, stream and word list a piece."""

    texts: list[str]
    streams: list[RandomStreams]
    unknown_words: list[tuple[str, ...]]
    material: Material
    duration_seconds: float


def _warn_of_unknown(unknown: Sequence[tuple[str, ...]]) -> None:
    words = list(dict.fromkeys(word for group in unknown for word in group))
    if words:
        shown = ", ".join(words[:8]) + (" ..." if len(words) > 8 else "")
        warnings.warn(
            f"The model does not know these words and leaves them out: {shown}", stacklevel=4
        )
