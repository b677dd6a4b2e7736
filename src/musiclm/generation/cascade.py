"""The cascade: conditioning ► semantic ► coarse ► fine tokens, window by window."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional

from musiclm.core.errors import PromptError
from musiclm.core.runtime import RandomStreams, one_thread
from musiclm.generation.ahead import ahead
from musiclm.generation.material import Material
from musiclm.generation.prompt import GenerationSettings
from musiclm.generation.tracks import Track
from musiclm.generation.windows import sliding_windows
from musiclm.stages.decoder import Decoder, TorchDecoder, make_decoder
from musiclm.stages.decoding import SamplingConfig
from musiclm.stages.language_model import Codes, StageModel

ProgressReport = Callable[[str, float], None]
_MAX_FINE_ROWS = 32
_SMALL_BATCH = 4


def no_report(stage: str, fraction: float) -> None:
    """A progress report that says nothing."""
    del stage, fraction


@dataclass(frozen=True)
class TokenStream:
    """Codes of a batch that are made while they are asked for.

    Attributes:
        semantic: The semantic codes; whole when `acoustic` has ended.
        acoustic: All levels of the acoustic codes, [batch, quantizers, frames] at a time.
    """

    semantic: Track
    acoustic: Iterator[Codes]


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

    @property
    def decoding(self) -> str:
        """What runs the stages' loops, in words."""
        return "; ".join(dict.fromkeys(made.description for made in self.decoders.values()))

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
            tokens = self.stream(
                material,
                duration_seconds,
                settings,
                streams,
                fine_windows=max(1, _MAX_FINE_ROWS // len(streams)),
                progress=progress,
            )
            acoustic = torch.cat(list(tokens.acoustic), dim=2)
            return tokens.semantic.upto(tokens.semantic.num_frames), acoustic

    def stream(
        self,
        material: Material,
        duration_seconds: float,
        settings: GenerationSettings,
        streams: Sequence[RandomStreams],
        *,
        fine_windows: int = 1,
        progress: ProgressReport = no_report,
    ) -> TokenStream:
        """The same codes as `generate`, handed out while later ones are still to be made.

        Args:
            material: As in `generate`.
            duration_seconds: As in `generate`.
            settings: As in `generate`.
            streams: As in `generate`.
            fine_windows: Windows of the fine stage that are made together and handed out.
            progress: As in `generate`.
        """
        rate = self.semantic.layout.target.spec.frame_rate_hz
        num_frames = max(1, -int(-duration_seconds * rate // 1))
        made = partial(self._track, material, settings, streams, progress)
        semantic = made(self.semantic, num_frames, None)
        scale = self.coarse.layout.target.spec.frame_rate_hz // rate
        coarse = made(self.coarse, num_frames * scale, semantic)
        known = material.known.get("fine")
        acoustic = self._acoustic(coarse, known, settings, streams, fine_windows, progress)
        return TokenStream(semantic, acoustic)

    def _track(  # noqa: PLR0913  (everything that decides a stage's codes)
        self,
        material: Material,
        settings: GenerationSettings,
        streams: Sequence[RandomStreams],
        progress: ProgressReport,
        model: StageModel,
        num_frames: int,
        semantic: Track | None,
    ) -> Track:
        """Codes of the semantic stage, or of the coarse one, which reads the semantic track."""
        name, spec = model.layout.name, model.layout.target.spec
        known = material.known.get(name)
        if known is None:
            known = torch.empty(len(streams), spec.num_quantizers, 0, dtype=torch.long)
        track = Track(known, num_frames)
        own = Track(known, num_frames)
        blocks = self._slide(model, own, material, settings, streams, semantic)
        if semantic is not None and self._runs_ahead(len(streams)):
            blocks = ahead(blocks)

        def reported() -> Iterator[Codes]:
            num_done = track.num_known
            for block in blocks:
                num_done += block.shape[2]
                progress(name, num_done / num_frames)
                yield block

        return track.made_by(reported())

    def _slide(
        self,
        model: StageModel,
        track: Track,
        material: Material,
        settings: GenerationSettings,
        streams: Sequence[RandomStreams],
        semantic: Track | None,
    ) -> Iterator[Codes]:
        """New codes of one stage, by windows that begin with the end of the one before.

        They are written to `track` too, which nobody else reads: this may run in a thread of its
        own, ahead of whoever takes them.
        """
        name, rate = model.layout.name, model.layout.target.spec.frame_rate_hz
        # Half a window, in whole semantic frames so that both rates cut at the same instant.
        semantic_rate = self.semantic.layout.target.spec.frame_rate_hz
        grid = rate // semantic_rate
        window = int(model.config.window_seconds * rate) // (2 * grid) * (2 * grid)
        sampling = SamplingConfig(
            temperature=getattr(settings.decided_temperatures, name),
            guidance=settings.guidance_of(name),
            guidance_of=self._guidance_of_melody(name, settings),
        )
        changes = [frame * grid for frame in material.changes(semantic_rate)]
        pieces = sliding_windows(track.num_frames, window, window // 2, track.num_known, changes)
        for number, piece in enumerate(pieces):
            if semantic is not None:
                codes = semantic.upto(-(-piece.stop // grid))
                material = replace(material, frames={**material.frames, "semantic": codes})
            first_new = piece.start + piece.num_known
            known = track.upto(first_new)[:, :, piece.start :]
            for block in self.decoders[name].blocks(
                material.cut(model.layout, piece.start, piece.stop, first_new),
                piece.stop - piece.start,
                sampling=sampling,
                generators=[stream.generator(name, number) for stream in streams],
                known_target=known if piece.num_known else None,
            ):
                track.append(block)
                yield block

    def _guidance_of_melody(self, stage: str, settings: GenerationSettings) -> dict[str, float]:
        """The melody's own guidance, for the last stage that reads one: there a tune is lost.

        In the semantic stage it follows no closer and costs the asked instrument (docs/log.md,
        sixth training).
        """
        if settings.melody_guidance is None:
            return {}
        stages = (self.semantic, self.coarse)
        reading = [
            s.layout.name for s in stages if any(p.name == "melody" for p in s.layout.prefixes)
        ]
        return {"melody": settings.melody_guidance} if reading[-1:] == [stage] else {}

    def _acoustic(
        self,
        coarse: Track,
        known: Codes | None,
        settings: GenerationSettings,
        streams: Sequence[RandomStreams],
        fine_windows: int,
        progress: ProgressReport,
    ) -> Iterator[Codes]:
        """The levels asked for: coarse codes with their fine ones, some windows at a time."""
        num_levels = self._num_levels(settings)
        first = 0
        if known is not None:
            first = min(known.shape[2], coarse.num_frames)
            both = torch.cat([coarse.upto(first), known[:, :, :first].cpu()], dim=1)
            yield both[:, :num_levels]
        spec = self.fine.layout.target.spec
        window = int(self.fine.config.window_seconds * spec.frame_rate_hz)
        if num_levels <= self.num_coarse:
            window, fine_windows = spec.frame_rate_hz, 1
        window = max(1, min(window, coarse.num_frames - first))
        starts = range(first, coarse.num_frames, window * fine_windows)
        for index, start in enumerate(starts):
            stop = min(start + window * fine_windows, coarse.num_frames)
            codes = coarse.upto(stop)[:, :, start:stop]
            if num_levels <= self.num_coarse:
                yield codes[:, :num_levels]
                continue
            fine = self._fine(codes, window, index * fine_windows, settings, streams)
            progress("fine", stop / coarse.num_frames)
            yield torch.cat([codes, fine], dim=1)[:, :num_levels]

    def _num_levels(self, settings: GenerationSettings) -> int:
        """Acoustic levels that are asked for, or all there are."""
        there_are = self.num_coarse + self.fine.layout.target.spec.num_quantizers
        asked = there_are if settings.num_levels is None else settings.num_levels
        if asked > there_are:
            raise PromptError(f"{asked} levels were asked for; choose 1 to {there_are}.")
        return asked

    def _fine(
        self,
        coarse: Tensor,
        window: int,
        first_number: int,
        settings: GenerationSettings,
        streams: Sequence[RandomStreams],
    ) -> Tensor:
        """Fine codes: windows side by side, all in one batch (AudioLM, Section III-C)."""
        num_frames = coarse.shape[2]
        num_windows = -(-num_frames // window)
        padded = functional.pad(
            coarse.float(), (0, num_windows * window - num_frames), mode="replicate"
        ).long()
        rows = padded.unflatten(2, (num_windows, window)).transpose(1, 2).flatten(0, 1)
        generators = [
            stream.generator("fine", first_number + number)
            for stream in streams
            for number in range(num_windows)
        ]
        blocks = self.decoders[self.fine.layout.name].blocks(
            {"coarse": rows},
            window,
            sampling=SamplingConfig(temperature=settings.decided_temperatures.fine),
            generators=generators,
        )
        fine = torch.cat([block.cpu() for block in blocks], dim=2)
        fine = fine.unflatten(0, (len(streams), num_windows))
        return fine.transpose(1, 2).flatten(2, 3)[:, :, :num_frames]

    def _runs_ahead(self, batch_size: int) -> bool:
        """Whether a second thread makes coarse codes while this one goes on with those made.

        Not with several samples: their threads share the samples instead. Not with the PyTorch
        loop: two of them hold one another up. Not on a GPU: its queue is one.
        """
        decoder = self.decoders[self.coarse.layout.name]
        is_alone = self.coarse.begin.device.type == "cpu" and not isinstance(decoder, TorchDecoder)
        return batch_size == 1 and self._num_threads > 1 and is_alone
