"""The judges of an evaluation, opened from what a command was given."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from musiclm.audio.waveform import Waveform
from musiclm.conditioning.conditioner import Conditioner
from musiclm.conditioning.mulan import MuLan, MuLanConfig
from musiclm.core.errors import CheckpointError
from musiclm.core.pretrained import load_weights, read_config_json, sha256_of_file
from musiclm.core.runtime import Runtime
from musiclm.evaluation.analysis import Judges, TextAudioModel, Treatment
from musiclm.evaluation.embedders import (
    CodecEmbedder,
    Embedder,
    MuLanEmbedder,
    module_identity,
)
from musiclm.evaluation.independent_mulan import IndependentJudge
from musiclm.evaluation.musicnn import MusicNN
from musiclm.evaluation.pretrained_judges import TransformersJudge
from musiclm.evaluation.vggish import VGGish
from musiclm.generation.musiclm import MusicLM


@dataclass(frozen=True)
class JudgeFiles:
    """A user's own judges; all may be absent."""

    judge: Path | None = None
    """Weights of an independent space, as `musiclm train mulan-judge` writes them, or of another
    MuLan."""
    clap: Path | None = None
    """A folder with CLAP, as `save_pretrained` writes it: another joint space, and for FAD."""
    ast: Path | None = None
    """A folder with an AST classifier: its classes for KLD, and for FAD."""
    vggish: Path | None = None
    """VGGish weights as .safetensors, for FAD."""


def open_judges(
    musiclm: MusicLM | None,
    files: JudgeFiles,
    runtime: Runtime,
    treatments: Mapping[str, Treatment],
) -> Judges:
    """MusicNN, the model's own MuLan and codec if there is one, and what the user brings.

    Raises:
        CheckpointError: A file is missing or of another model.
        DependencyError: MusicNN's weights, or a package that reads a user's, are not installed.
    """
    tagger = MusicNN.from_pretrained().to(runtime.device)
    spaces: dict[str, TextAudioModel] = {}
    embedders: list[Embedder] = []
    identities = [module_identity(tagger)]
    if musiclm is not None:
        spaces["conditioning"] = MuLanJudge(musiclm.mulan)
        embedders += [MuLanEmbedder(musiclm.mulan), CodecEmbedder(musiclm.codec)]
        identities.append(musiclm.sha256)
    if files.judge is not None:
        spaces["independent"] = load_judge(files.judge, device=runtime.device)
        identities.append(sha256_of_file(files.judge))
    if files.clap is not None:
        clap = TransformersJudge("clap", files.clap)
        spaces["clap"] = clap
        embedders.append(clap)
    classifier = TransformersJudge("ast", files.ast) if files.ast is not None else None
    if classifier is not None:
        embedders.append(classifier)
    if files.vggish is not None:
        embedders.append(VGGish.load(files.vggish))
    identities += [embedder.identity for embedder in embedders]
    return Judges(
        tagger,
        spaces,
        tuple(embedders),
        classifier,
        treatments,
        joint_of={} if musiclm is None else {"conditioning": MuLanEmbedder.name},
        num_threads=runtime.num_threads if runtime.device.type == "cpu" else 1,
        identity=hashlib.sha256("/".join(identities).encode()).hexdigest(),
    )


def load_judge(path: Path, *, device: torch.device) -> TextAudioModel:
    """A joint space from a file: an independent one, a MuLan, or the MuLan of a conditioner.

    Raises:
        CheckpointError: The file is missing, damaged, or of another model.
        DependencyError: An independent one needs MusicNN's weights, and they are not installed.
    """
    text = read_config_json(path)
    kinds = json.loads(text).keys()
    if {"features", "tower"} <= kinds:
        return IndependentJudge.load(path, device=device)
    if "mulan" in kinds:
        return MuLanJudge(Conditioner.load(path).mulan.to(device))
    if not {"audio", "text"} <= kinds:
        raise CheckpointError(
            f"{path} holds no space of music and text. Give what `musiclm train mulan-judge` "
            "writes, or another MuLan's weights."
        )
    mulan = MuLan(MuLanConfig.from_json(text))
    load_weights(mulan, path)
    return MuLanJudge(mulan.eval().to(device))


def codec_treatment(musiclm: MusicLM) -> Treatment:
    """Sends audio through the model's codec and back."""
    codec = musiclm.codec
    device = next(codec.parameters()).device

    @torch.no_grad()
    def reconstruct(waveform: Waveform) -> Waveform:
        samples = waveform.resampled(codec.sample_rate_hz).samples
        decoded = codec.decode(codec.tokenize(samples.unsqueeze(0).to(device)))[0]
        return Waveform(decoded[: samples.shape[0]].float().cpu(), codec.sample_rate_hz)

    return reconstruct


class MuLanJudge:
    """MuLan on its device, for audio and results that live on the CPU."""

    def __init__(self, mulan: MuLan) -> None:
        self._mulan = mulan
        self._device = next(mulan.parameters()).device

    @property
    def sample_rate_hz(self) -> int:
        """The rate of the audio it reads."""
        return self._mulan.sample_rate_hz

    def embed_text(self, texts: list[str]) -> Float[Tensor, "batch dim"]:
        """Embeddings of texts."""
        return self._mulan.embed_text(texts).cpu()

    def embed_audio(self, samples: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch dim"]:
        """Embeddings of clips."""
        return self._mulan.embed_audio(samples.to(self._device)).cpu()
