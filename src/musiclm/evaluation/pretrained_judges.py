"""CLAP and AST from a user's own weights, through `transformers`.

Conventions: for FAD, windows of 1 s every 0.5 s, as the FAD paper's code cuts them, at the model's
own rate. Nothing is fetched: `source` is a folder that `save_pretrained` wrote.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from musiclm.audio.waveform import Waveform
from musiclm.core.errors import CheckpointError, DependencyError
from musiclm.evaluation.embedders import module_identity, vggish_windows

_WINDOWS_AT_ONCE = 32


class TransformersJudge:
    """CLAP or AST: embeddings for FAD; class logits (AST) for KLD; texts (CLAP) for MCC.

    Args:
        kind: `clap` or `ast`.
        source: A folder with the model and its processor.

    Raises:
        DependencyError: `transformers` is not installed.
        CheckpointError: The folder holds no such model.
    """

    def __init__(self, kind: Literal["clap", "ast"], source: Path) -> None:
        try:
            import transformers
        except ImportError as error:
            raise DependencyError(
                f"Judging with {kind.upper()} needs transformers, which is not installed. "
                "Run: pip install 'musiclm[judges]'."
            ) from error
        if not source.is_dir():
            raise CheckpointError(
                f"No {kind.upper()} weights at {source}. Give a folder that save_pretrained wrote."
            )
        model_class = (
            transformers.ClapModel if kind == "clap" else transformers.ASTForAudioClassification
        )
        try:
            model: Any = model_class.from_pretrained(source, local_files_only=True)
            self._extract: Any = transformers.AutoFeatureExtractor.from_pretrained(
                source, local_files_only=True
            )
            self._tokenize: Any = None
            if kind == "clap":
                self._tokenize = transformers.AutoTokenizer.from_pretrained(
                    source, local_files_only=True
                )
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{source} holds no usable {kind.upper()} ({error}). "
                "Give a folder with the model and its processor."
            ) from error
        self.name = kind
        self._model = model.eval().requires_grad_(False)
        self.identity = module_identity(self._model)

    @property
    def sample_rate_hz(self) -> int:
        """The rate of the audio it reads."""
        return int(self._extract.sampling_rate)

    @property
    def tags(self) -> tuple[str, ...]:
        """The classes of AST in the order of its logits (AudioSet's 527 in the published one)."""
        labels: dict[int, str] = self._model.config.id2label
        return tuple(labels[number] for number in range(len(labels)))

    @torch.no_grad()
    def embed(self, waveform: Waveform) -> Float[Tensor, "windows dim"]:
        """Rows of 1-s windows: CLAP's joint embedding, AST's pooled state."""
        windows = vggish_windows(waveform, self.sample_rate_hz).numpy()
        parts = [
            self._embed_batch(windows[start : start + _WINDOWS_AT_ONCE])
            for start in range(0, len(windows), _WINDOWS_AT_ONCE)
        ]
        return torch.cat(parts).float().cpu()

    @torch.no_grad()
    def class_logits(self, waveform: Waveform) -> Float[Tensor, " classes"]:
        """AST's logits of a whole clip, cut or padded to the 10.24 s it reads."""
        samples = waveform.resampled(self.sample_rate_hz).samples.numpy()
        return self._model(**self._features([samples])).logits[0].float().cpu()

    @torch.no_grad()
    def embed_audio(self, samples: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch dim"]:
        """CLAP's unit vectors of clips at its own rate; of the first 10 s, its window.

        Left to itself, its processor would cut a longer clip at random.
        """
        samples = samples[:, : int(self._extract.nb_max_samples)]
        features = self._features(list(samples.cpu().numpy()))
        output = self._model.get_audio_features(**features)
        return nn.functional.normalize(_pooled(output).float(), dim=-1).cpu()

    @torch.no_grad()
    def embed_text(self, texts: list[str]) -> Float[Tensor, "batch dim"]:
        """CLAP's unit vectors of texts."""
        tokens = self._tokenize(texts, padding=True, truncation=True, return_tensors="pt")
        output = self._model.get_text_features(**tokens.to(self._model.device))
        return nn.functional.normalize(_pooled(output).float(), dim=-1).cpu()

    def _embed_batch(self, windows: np.ndarray) -> Tensor:
        features = self._features(list(windows))
        if self.name == "clap":
            return _pooled(self._model.get_audio_features(**features))
        return self._model.audio_spectrogram_transformer(**features).pooler_output

    def _features(self, clips: list[np.ndarray]) -> Any:
        features = self._extract(clips, sampling_rate=self.sample_rate_hz, return_tensors="pt")
        return features.to(self._model.device)


def _pooled(output: Any) -> Tensor:
    """The joint embedding; newer versions of `transformers` wrap it."""
    return output if isinstance(output, Tensor) else output.pooler_output
