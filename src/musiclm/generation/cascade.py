"""The cascade: conditioning ► semantic ► coarse ► fine tokens, window by window."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional

from musiclm.core.runtime import RandomStreams, one_thread
from musiclm.generation.material import Material
from musiclm.generation.prompt import GenerationSettings
from musiclm.generation.windows import sliding_windows
from musiclm.stages.decoder import Decoder, make_decoder
from musiclm.stages.decoding import SamplingConfig
from musiclm.stages.language_model import StageModel

ProgressReport = Callable[[str, float], None]
_MAX_FINE_ROWS = 32
_SMALL_BATCH = 4


def no_report(stage: str, fraction: float) -> None:
    """A progress report that says nothing."""
    del stage, fraction


class Cascade:
    """The three stages of a model.

    Args:
        semantic: Conditioning ► semantic tokens.
        coarse: Conditioning and semantic tokens ► the first acoustic levels.
        fine: The first acoustic levels ► the rest.
        num_threads: CPU threads that the samples of a batch are shared among.
    """

    def __init__(
        self,
        semantic: StageModel,
        coarse: StageModel,
        fine: StageModel,
        *,
        num_threads: int = 1,
    ) -> None:
        self.semantic = semantic
        self.coarse = coarse
        self.fine = fine
        self._num_threads = num_threads

    @cached_property
    def decoders(self) -> dict[str, Decoder]:
        """What runs each stage, by its name; made with the weights of the first use."""
        return {
            model.layout.name: make_decoder(model, num_threads=self._num_threads)
            for model in (self.semantic, self.coarse, self.fine)
        }

    @property
    def semantic_rate_hz(self) -> int:
        """Semantic frames a second."""
        return self.semantic.layout.target.spec.frame_rate_hz

    @property
    def frames_per_semantic(self) -> int:
        """Acoustic frames in the time of a semantic one."""
        return self.coarse.layout.target.spec.frame_rate_hz // self.semantic_rate_hz

    @property
    def num_coarse(self) -> int:
        """Acoustic levels of the coarse stage."""
        return self.coarse.layout.target.spec.num_quantizers

    def reads(self, name: str) -> bool:
        """Whether the semantic stage has a segment of that name before its target."""
        return any(segment.name == name for segment in self.semantic.layout.prefixes)

    def generate(
        self,
        material: Material,
        duration_seconds: float,
        settings: GenerationSettings,
        streams: Sequence[RandomStreams],
        *,
        progress: ProgressReport = no_report,
    ) -> tuple[
        Int[Tensor, "batch 1 semantic_frames"], Int[Tensor, "batch quantizers acoustic_frames"]
    ]:
        """Semantic and acoustic codes that cover the duration, rounded up to whole frames.

        Args:
            material: Codes of the prompts, and what exists already.
            duration_seconds: Length of the pieces.
            settings: Temperatures and guidance.
            streams: Random streams, one a sample.
            progress: Told of each stage's progress.
        """
        with one_thread() if len(streams) <= _SMALL_BATCH else nullcontext():
            return self._all_stages(material, duration_seconds, settings, streams, progress)

    def _all_stages(
        self,
        material: Material,
        duration_seconds: float,
        settings: GenerationSettings,
        streams: Sequence[RandomStreams],
        progress: ProgressReport,
    ) -> tuple[Tensor, Tensor]:
        num_frames = max(1, -int(-duration_seconds * self.semantic_rate_hz // 1))
        semantic = self._slide(self.semantic, material, num_frames, settings, streams, progress)
        given = replace(material, frames={**material.frames, "semantic": semantic})
        num_coarse_frames = num_frames * self.frames_per_semantic
        coarse = self._slide(self.coarse, given, num_coarse_frames, settings, streams, progress)
        known = material.known.get("fine")
        num_known = 0 if known is None else known.shape[2]
        fine = self._fine(coarse[:, :, num_known:], settings, streams, progress)
        if known is not None:
            fine = torch.cat([known[:, :, : coarse.shape[2]], fine], dim=2)
        return semantic, torch.cat([coarse, fine], dim=1)

    def _slide(
        self,
        model: StageModel,
        material: Material,
        num_frames: int,
        settings: GenerationSettings,
        streams: Sequence[RandomStreams],
        progress: ProgressReport,
    ) -> Tensor:
        """Target codes of one stage, by windows that begin with the end of the one before."""
        name, spec = model.layout.name, model.layout.target.spec
        # Half a window, in whole semantic frames so that both rates cut at the same instant.
        grid = spec.frame_rate_hz // self.semantic_rate_hz
        window = int(model.config.window_seconds * spec.frame_rate_hz) // (2 * grid) * (2 * grid)
        sampling = SamplingConfig(
            temperature=getattr(settings.temperatures, name), guidance=settings.guidance
        )
        done = material.known.get(name)
        if done is None:
            done = torch.empty(len(streams), spec.num_quantizers, 0, dtype=torch.long)
        done = done[:, :, :num_frames]
        changes = [frame * grid for frame in material.changes(self.semantic_rate_hz)]
        pieces = sliding_windows(num_frames, window, window // 2, done.shape[2], changes)
        for number, piece in enumerate(pieces):
            cut = material.cut(model.layout, piece.start, piece.stop, done.shape[2])
            known = done[:, :, piece.start : piece.start + piece.num_known]
            new: list[Tensor] = []
            num_done = done.shape[2]
            for block in self.decoders[name].blocks(
                cut,
                piece.stop - piece.start,
                sampling=sampling,
                generators=[stream.generator(name, number) for stream in streams],
                known_target=known if piece.num_known else None,
            ):
                new.append(block.cpu())
                num_done += block.shape[2]
                progress(name, num_done / num_frames)
            done = torch.cat([done, *new], dim=2)
        return done

    def _fine(
        self,
        coarse: Tensor,
        settings: GenerationSettings,
        streams: Sequence[RandomStreams],
        progress: ProgressReport,
    ) -> Tensor:
        """Fine codes: windows side by side, all in one batch (AudioLM, Section III-C)."""
        spec = self.fine.layout.target.spec
        num_frames = coarse.shape[2]
        if not num_frames:
            return coarse.new_empty(len(coarse), spec.num_quantizers, 0)
        window = min(int(self.fine.config.window_seconds * spec.frame_rate_hz), num_frames)
        num_windows = -(-num_frames // window)
        padded = functional.pad(
            coarse.float(), (0, num_windows * window - num_frames), mode="replicate"
        ).long()
        rows = padded.unflatten(2, (num_windows, window)).transpose(1, 2).flatten(0, 1)
        generators = [
            stream.generator("fine", number) for stream in streams for number in range(num_windows)
        ]
        sampling = SamplingConfig(temperature=settings.temperatures.fine)
        made: list[Tensor] = []
        for start in range(0, len(rows), _MAX_FINE_ROWS):
            part = slice(start, start + _MAX_FINE_ROWS)
            blocks = self.decoders[self.fine.layout.name].blocks(
                {"coarse": rows[part]}, window, sampling=sampling, generators=generators[part]
            )
            made.append(torch.cat([block.cpu() for block in blocks], dim=2))
            progress("fine", min(1.0, (start + _MAX_FINE_ROWS) / len(rows)))
        fine = torch.cat(made).unflatten(0, (len(streams), num_windows))
        return fine.transpose(1, 2).flatten(2, 3)[:, :, :num_frames]
