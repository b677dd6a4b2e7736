"""The codebook start: codes with near vectors get near rows, and sums stand for sums."""

import pytest
import torch

from musiclm.core.errors import ConfigError
from musiclm.stages.codebook_start import start_from_codebooks
from musiclm.stages.language_model import StageModel
from tests.support.stages import SIZE, STYLES, make_codes, make_config, make_layout


def books(layout, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        segment.name: torch.randn(segment.spec.num_quantizers, SIZE, 6, generator=generator)
        * 0.5 ** torch.arange(segment.spec.num_quantizers)[:, None, None]
        + 3.0
        for segment in layout.segments
    }


def started(stage, style, codebooks=None):
    layout = make_layout(stage, STYLES[style])
    model = StageModel(make_config(layout), generator=torch.Generator().manual_seed(1))
    vectors = codebooks or books(layout)
    start_from_codebooks(model, vectors, generator=torch.Generator().manual_seed(2))
    return model, vectors


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("stage", ["semantic", "coarse", "fine"])
def test_rows_are_as_far_apart_as_their_vectors(stage, style):
    model, vectors = started(stage, style)
    for segment in model.layout.segments:
        rows = model.embedding(segment).weight[:-1].detach()
        levels = rows.view(-1, segment.spec.num_quantizers, SIZE, rows.shape[1])
        for table in levels:
            for level, level_vectors in zip(table, vectors[segment.name], strict=True):
                near, far = torch.pdist(level), torch.pdist(level_vectors)
                closeness = torch.corrcoef(torch.stack([near, far]))[0, 1]
                assert closeness > 0.7  # 6 dimensions into 32 by a random matrix


def test_the_rows_of_a_summed_prefix_stand_for_the_quantized_vector():
    model, vectors = started("semantic", "summed")
    layout = model.layout
    prefix = layout.prefixes[0]
    codes = make_codes(layout, 5, batch_size=64)["conditioning"]
    summed = model.embedding(prefix).prefix(codes)[:, 0].detach()
    centred = vectors["conditioning"] - vectors["conditioning"].mean(dim=1, keepdim=True)
    decoded = sum(centred[level][codes[:, level, 0]] for level in range(3))
    matrix = torch.linalg.lstsq(decoded, summed).solution
    torch.testing.assert_close(decoded @ matrix, summed, rtol=1e-3, atol=1e-3)


def test_predictions_start_with_the_same_neighbours():
    model, _ = started("coarse", "summed")
    read = model.embedding(model.layout.target).weight[: model.num_target_ids]
    scale = model.config.transformer.dim**-0.5
    torch.testing.assert_close(model.target_table(), read * scale)


def test_other_segments_and_the_absent_row_stay_as_they_are():
    layout = make_layout("coarse", STYLES["aligned"])
    untouched = StageModel(make_config(layout), generator=torch.Generator().manual_seed(1))
    model, _ = started("coarse", "aligned", {"semantic": books(layout)["semantic"]})
    for segment in layout.segments:
        before, after = untouched.embedding(segment).weight, model.embedding(segment).weight
        assert torch.equal(before[-1], after[-1])
        assert torch.equal(before, after) == (segment.name != "semantic")


def test_codebooks_of_another_shape_are_refused():
    layout = make_layout("fine", STYLES["paper"])
    wrong = {"coarse": books(layout)["coarse"][:1]}
    with pytest.raises(ConfigError, match="coarse"):
        started("fine", "paper", wrong)
