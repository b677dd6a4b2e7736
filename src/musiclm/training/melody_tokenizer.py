"""Fitting melody tokens: codebooks on the contours that a trained embedder hears."""

from collections.abc import Iterable

import torch

from musiclm.conditioning.melody_tokenizer import MelodyTokenizer
from musiclm.core.errors import DataError
from musiclm.training.fit import ResidualFit, fit_residual_quantizer
from musiclm.training.task import Batch


@torch.no_grad()
def fit_melody_tokenizer(
    tokenizer: MelodyTokenizer, batches: Iterable[Batch], *, seed: int
) -> ResidualFit:
    """Sets the codebooks to what is heard in recordings, hums, whistles and instruments.

    Args:
        tokenizer: Holds the trained embedder; its quantizer is changed.
        batches: Of `MelodySource`.
        seed: Of the k-means starts.

    Raises:
        DataError: There is no batch.
    """
    tokenizer.eval()
    device = tokenizer.embedder.pitch_out.weight.device
    contours = [tokenizer.contour(batch["samples"].to(device)) for batch in batches]
    if not contours:
        raise DataError("There are no melodies to fit codebooks on.")
    rows = torch.cat(contours).transpose(1, 2).flatten(0, 1)
    return fit_residual_quantizer(rows, tokenizer.quantizer, seed=seed)
