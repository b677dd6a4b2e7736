"""The stage model: one decoder-only transformer over the segments of a layout.

Axes: `batch`; `quantizers` and `frames` of a segment's codes; `columns` and `steps` of the target's
pattern; `positions` of the transformer; `dim`, its width; `levels` of a target asked for;
`entries` of a codebook.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from musiclm.core.config import Config
from musiclm.core.errors import ConfigError
from musiclm.layers.transformer import Transformer, TransformerConfig
from musiclm.stages.layout import Segment, SegmentLayout
from musiclm.stages.pattern import Flatten, joint_ids

Codes = Int[Tensor, "_batch _quantizers _frames"]  # segments differ in levels and frames


class StageConfig(Config):
    """A stage: what it reads and predicts, and how large it is."""

    layout: SegmentLayout
    """Its segments."""
    transformer: TransformerConfig
    """Its sizes."""
    window_seconds: float = Field(gt=0)
    """The longest crop it is trained on, and hence the longest window it generates at once
    (30 s semantic, 10 s coarse, 3 s fine; Section 4.2)."""
    output_table: Literal["target", "joint"] = "target"
    """Rows of the output table: the target's codes, or all segments' codes as the papers' joint
    vocabulary has it (the rows of prefixes are then never legal)."""
    embedding_std: float = Field(default=1.0, gt=0)
    """Standard deviation of the first embeddings; T5 1.1 starts at 1."""


@dataclass(frozen=True)
class StageOutput:
    """The cross-entropy of a batch under teacher forcing, in nats a token."""

    loss: Float[Tensor, ""]
    """Mean over all target tokens."""
    level_losses: Float[Tensor, " quantizers"]
    """Mean over the tokens of each target level."""


class SegmentEmbedding(nn.Module):
    """The embeddings of one segment: one table for all its levels, and a last row for "absent".

    An aligned segment has such a table for each frame of its look-ahead too.
    """

    def __init__(self, segment: Segment, dim: int) -> None:
        super().__init__()
        self.segment = segment
        self.num_ids = segment.spec.num_quantizers * segment.spec.codebook_size
        num_rows = self.num_ids * (1 + segment.look_ahead_frames) + 1
        self.weight = nn.Parameter(torch.empty(num_rows, dim))

    def sum_columns(
        self, ids: Int[Tensor, "batch columns steps"]
    ) -> Float[Tensor, "batch steps dim"]:
        """The sum of a step's embeddings."""
        if ids.shape[1] == 1:
            return functional.embedding(ids[:, 0], self.weight)
        rows = ids.transpose(1, 2).reshape(-1, ids.shape[1])
        summed = functional.embedding_bag(rows, self.weight, mode="sum")
        return summed.view(ids.shape[0], ids.shape[2], self.weight.shape[1])

    def prefix(self, codes: Codes) -> Float[Tensor, "batch positions dim"]:
        """Embeddings of a prefix: a position a code (`flatten`) or a frame (`sum`)."""
        if self.segment.pattern == "flatten":
            return self.sum_columns(Flatten(self.segment.spec).apply(codes))
        return self.sum_columns(joint_ids(codes, self.segment.spec))

    def aligned(
        self, codes: Codes, frames: Int[Tensor, " steps"]
    ) -> Float[Tensor, "batch steps dim"]:
        """Embeddings of the given frames with their look-ahead; absent past the last frame."""
        num_frames = int(frames[-1]) + 1
        look_ahead = self.segment.look_ahead_frames
        missing = max(0, num_frames + look_ahead - codes.shape[2])
        codes = functional.pad(codes, (0, missing), value=self.segment.absent_code)
        ids = joint_ids(codes, self.segment.spec)
        is_absent = ids == self.num_ids
        pad_id = self.weight.shape[0] - 1
        columns = [
            torch.where(is_absent, pad_id, ids + ahead * self.num_ids)[
                :, :, ahead : ahead + num_frames
            ]
            for ahead in range(1 + look_ahead)
        ]
        return self.sum_columns(torch.cat(columns, dim=1)).index_select(1, frames.to(codes.device))


class StageModel(nn.Module):
    """A decoder-only language model over token segments (MusicLM, Sections 3.2 and 4.1).

    The sequence is all prefixes that are not aligned, then the target's steps. The input of a step
    is the embedding of the step before it (a learned begin vector at the first) plus the aligned
    prefixes at that step; its state predicts the step. Each level has its own logits, so a step
    can only say legal codes. Prefixes carry no loss.

    Args:
        config: Layout and sizes.
        generator: Draws the first weights; the default generator when there is none.
    """

    def __init__(self, config: StageConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.layout = config.layout
        self.pattern = config.layout.pattern
        dim = config.transformer.dim
        self.embeddings = nn.ModuleDict(
            {segment.name: SegmentEmbedding(segment, dim) for segment in self.layout.segments}
        )
        self.begin = nn.Parameter(torch.empty(dim))
        self.transformer = Transformer(config.transformer, generator=generator)
        target = self.layout.target.spec
        self.num_target_ids = target.num_quantizers * target.codebook_size
        segments = self.layout.segments if config.output_table == "joint" else [self.layout.target]
        num_rows = sum(part.spec.num_quantizers * part.spec.codebook_size for part in segments)
        self.output = nn.Parameter(torch.empty(num_rows, dim))
        nn.init.normal_(self.output, std=dim**-0.5, generator=generator)
        nn.init.normal_(self.begin, std=config.embedding_std, generator=generator)
        for segment in self.layout.segments:
            table = self.embedding(segment).weight
            nn.init.normal_(table, std=config.embedding_std, generator=generator)

    def forward(self, codes: Mapping[str, Codes]) -> StageOutput:
        """The loss of a batch of crops, as `loss`."""
        target = codes[self.layout.target.name]
        spec = self.layout.target.spec
        states = self.target_states(codes)
        tables = self.target_table().unflatten(0, (spec.num_quantizers, -1)).unbind(0)
        sums: list[Tensor] = []
        counts: list[Tensor] = []
        for level, table in enumerate(tables):
            logits = functional.linear(self.states_of_level(states, level, target.shape[2]), table)
            wanted = target[:, level].reshape(-1)
            sums.append(
                functional.cross_entropy(
                    logits.flatten(0, 1).float(),  # float32: a sum over 1024 exponentials
                    wanted,
                    ignore_index=spec.codebook_size,
                    reduction="sum",
                )
            )
            counts.append((wanted != spec.codebook_size).sum())
        loss_sums, token_counts = torch.stack(sums), torch.stack(counts)
        return StageOutput(
            loss=loss_sums.sum() / token_counts.sum().clamp(min=1),
            level_losses=(loss_sums / token_counts.clamp(min=1)).detach(),
        )

    def prepare_for_decoding(self) -> "StageModel":
        """Turns the memory of wide matrices round, so that decode steps on a CPU run faster.

        A step multiplies one vector a sample with every matrix; for matrices that have more
        outputs than inputs, BLAS does that 1.4 to 2.7 times faster on columns than on rows. Shapes,
        values and saved weights stay the same. Also switches to eval mode.

        Returns:
            The model itself.
        """
        wide = [m.weight for m in self.modules() if isinstance(m, nn.Linear)] + [self.output]
        for weight in wide:
            if weight.shape[0] > weight.shape[1]:
                weight.data = weight.data.t().contiguous().t()
        return self.eval()

    def loss(self, codes: Mapping[str, Codes]) -> StageOutput:
        """Cross-entropy under teacher forcing, in nats a target token.

        Args:
            codes: Codes of every segment by name, any number of frames. The code
                `codebook_size` means absent: nothing to read in a prefix, no loss in the target,
                so that crops of different lengths fit in one batch.

        Raises:
            ConfigError: A segment is missing or has another number of levels.
        """
        self.check_codes(codes, self.layout.segments)
        return self(codes)

    def target_states(self, codes: Mapping[str, Codes]) -> Float[Tensor, "batch steps dim"]:
        """The states that predict each step of the target."""
        steps = self.pattern.apply(codes[self.layout.target.name])
        inputs = self.step_inputs(steps[:, :, :-1], self.embed_aligned(codes, steps.shape[2]))
        states = self.transformer(torch.cat([*self.embed_prefixes(codes), inputs], dim=1))
        return states[:, -steps.shape[2] :]

    def embed_prefixes(
        self, codes: Mapping[str, Codes]
    ) -> list[Float[Tensor, "batch positions dim"]]:
        """Embeddings of the prefixes that take positions, in reading order."""
        return [
            self.embedding(segment).prefix(codes[segment.name])
            for segment in self.layout.prefixes
            if not segment.aligned
        ]

    def embed_aligned(
        self, codes: Mapping[str, Codes], num_steps: int
    ) -> Float[Tensor, "batch steps dim"] | None:
        """The sum of the aligned prefixes at each step; None when the layout has none."""
        total: Tensor | None = None
        rate = self.layout.target.spec.frame_rate_hz
        newest = torch.tensor([self.pattern.frame_of(step) for step in range(num_steps)])
        for segment in self.layout.prefixes:
            if segment.aligned:
                frames = newest * segment.spec.frame_rate_hz // rate
                embedded = self.embedding(segment).aligned(codes[segment.name], frames)
                total = embedded if total is None else total + embedded
        return total

    def step_inputs(
        self,
        previous: Int[Tensor, "batch columns previous"],
        aligned: Float[Tensor, "batch all_steps dim"] | None,
    ) -> Float[Tensor, "batch steps dim"]:
        """Inputs of the first steps: begin vector, then the steps before each; aligned added.

        There is one step more than there are `previous` ones.
        """
        begin = self.begin.expand(previous.shape[0], 1, -1)
        embedded = self.embedding(self.layout.target).sum_columns(previous)
        inputs = torch.cat([begin, embedded], dim=1)
        return inputs if aligned is None else inputs + aligned[:, : inputs.shape[1]]

    def embed_step(self, ids: Int[Tensor, "batch columns 1"]) -> Float[Tensor, "batch 1 dim"]:
        """The embedding of one step, for the step after it."""
        return self.embedding(self.layout.target).sum_columns(ids)

    def target_table(self) -> Float[Tensor, "rows dim"]:
        """Rows of the output table that belong to the target: level by level."""
        return self.output[self.output.shape[0] - self.num_target_ids :]

    def level_logits(
        self, states: Float[Tensor, "batch dim"], levels: range
    ) -> Float[Tensor, "batch levels entries"]:
        """Float32 logits of consecutive levels from a step's state."""
        size = self.layout.target.spec.codebook_size
        rows = self.target_table()[levels.start * size : levels.stop * size]
        return functional.linear(states, rows).float().unflatten(1, (len(levels), size))

    def states_of_level(
        self, states: Float[Tensor, "batch steps dim"], level: int, num_frames: int
    ) -> Float[Tensor, "batch frames dim"]:
        """Of all `target_states`, those that predict one level, frame by frame."""
        if self.layout.target.pattern == "delay":
            return states[:, level : level + num_frames]
        return states[:, level :: self.layout.target.spec.num_quantizers]

    def check_codes(self, codes: Mapping[str, Codes], segments: tuple[Segment, ...]) -> None:
        """Refuses codes that do not fit the layout.

        Raises:
            ConfigError: A segment is missing or has another number of levels.
        """
        for segment in segments:
            if segment.name not in codes:
                given = ", ".join(codes) or "none"
                raise ConfigError(
                    f"The {self.layout.name} stage reads {segment.name!r} codes; given: {given}."
                )
            num_quantizers = codes[segment.name].shape[1]
            if num_quantizers != segment.spec.num_quantizers:
                raise ConfigError(
                    f"{segment.name!r} codes have {num_quantizers} levels; the {self.layout.name} "
                    f"stage takes {segment.spec.num_quantizers}."
                )

    def embedding(self, segment: Segment) -> SegmentEmbedding:
        """The embeddings of one of its segments."""
        embedding = self.embeddings[segment.name]
        assert isinstance(embedding, SegmentEmbedding)
        return embedding
