"""The codebook start: a stage's first embeddings stand for the vectors behind the codes.

Codes that mean nearly the same then start nearly alike, in what a stage reads and in what it
predicts. From the usual random rows a short training never finds out which codes are neighbours:
at a learning rate of 2e-3 a row of deviation 1 hardly moves in a thousand steps, and each row of a
table of 1024 is met only now and then.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from musiclm.core.errors import ConfigError
from musiclm.stages.language_model import StageModel

Codebooks = Float[Tensor, "_levels _entries _vector"]  # tokenizers differ in all three


@torch.no_grad()
def start_from_codebooks(
    model: StageModel, codebooks: Mapping[str, Codebooks], *, generator: torch.Generator
) -> None:
    """Sets embeddings, and the rows of the target's output table, to projections of codebooks.

    A random matrix takes the vectors to the model's width; every table that shows another frame
    has a matrix of its own. The levels of a prefix that is summed into one position keep their
    relative sizes, so that the sum stands for the vector that was quantized; elsewhere each level
    starts with the same size.

    Args:
        model: An untrained stage.
        codebooks: The vectors of every level, by segment; other segments stay as they are.
        generator: Draws the projections.

    Raises:
        ConfigError: A codebook has another number of levels or entries than its segment.
    """
    dim = model.config.transformer.dim
    for segment in model.layout.segments:
        if segment.name not in codebooks:
            continue
        vectors, spec = codebooks[segment.name], segment.spec
        if vectors.shape[:2] != (spec.num_quantizers, spec.codebook_size):
            raise ConfigError(
                f"The codebooks of {segment.name!r} have {vectors.shape[0]} levels of "
                f"{vectors.shape[1]} entries; its segment has {spec.num_quantizers} of "
                f"{spec.codebook_size}. Use the tokenizer that made the tokens."
            )
        keeps_sizes = segment.pattern == "sum" and not segment.aligned
        rows = _standardized(vectors, keeps_sizes=keeps_sizes).flatten(0, 1)
        tables = [
            rows @ _projection(rows, dim, generator) for _ in range(1 + segment.look_ahead_frames)
        ]
        weight = model.embedding(segment).weight
        weight[:-1] = torch.cat(tables).to(weight) * model.config.embedding_std
        if segment.role == "target":
            table = model.target_table()
            table.copy_(tables[0] * dim**-0.5)


def _standardized(
    vectors: Float[Tensor, "levels entries vector"], *, keeps_sizes: bool
) -> Float[Tensor, "levels entries vector"]:
    """Codebooks around zero; root mean square 1 in the first level, or in each."""
    centred = vectors.float() - vectors.float().mean(dim=1, keepdim=True)
    sizes = centred.square().mean(dim=(1, 2), keepdim=True).sqrt()
    return centred / (sizes[:1] if keeps_sizes else sizes).clamp(min=1e-8)


def _projection(
    rows: Float[Tensor, "rows vector"], dim: int, generator: torch.Generator
) -> Float[Tensor, "vector dim"]:
    """A random matrix that keeps the size of a coordinate."""
    size = rows.shape[1]
    return torch.randn(size, dim, generator=generator).to(rows) * size**-0.5
