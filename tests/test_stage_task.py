"""StageTask cuts the right codes out of a batch, learns, and reports honest figures."""

import math

import pytest
import torch

from musiclm.core.errors import ConfigError
from musiclm.stages.layout import coarse_layout
from musiclm.training.task import OptimizerConfig, StepContext
from musiclm.training.tasks.stage import StageTask, StageTaskConfig, unigram_entropy
from tests.support.stages import COARSE, CONDITIONING, SIZE, STYLES, make_config, make_layout


def conditioning(embedding):
    """Codes that can be checked: the first three numbers of the embedding."""
    return embedding[:, :3, None].long()


def make_task(layout, text_conditioning=None, **changes):
    config = StageTaskConfig(
        stage=make_config(layout, embedding_std=0.3),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        **changes,
    )
    return StageTask(
        config,
        conditioning,
        text_conditioning=text_conditioning,
        generator=torch.Generator().manual_seed(0),
    )


def make_batch():
    generator = torch.Generator().manual_seed(0)
    return {
        "semantic": torch.randint(0, SIZE, (4, 1, 5), generator=generator),
        "acoustic": torch.randint(0, SIZE, (4, 5, 10), generator=generator),
        "embedding": torch.randint(0, SIZE, (4, 6), generator=generator).float(),
    }


def context(step=0):
    return StepContext(step, 100, torch.Generator().manual_seed(step))


def test_codes_are_cut_out_of_the_batch():
    batch = make_batch()
    codes = make_task(make_layout("coarse", STYLES["paper"])).codes(batch)
    assert torch.equal(codes["conditioning"][:, :, 0], batch["embedding"][:, :3].long())
    assert torch.equal(codes["semantic"], batch["semantic"])
    assert torch.equal(codes["coarse"], batch["acoustic"][:, :2])
    codes = make_task(make_layout("fine", STYLES["aligned"])).codes(batch)
    assert torch.equal(codes["coarse"], batch["acoustic"][:, :2])
    assert torch.equal(codes["fine"], batch["acoustic"][:, 2:5])


@pytest.mark.parametrize("stage", ["semantic", "coarse", "fine"])
def test_training_lowers_the_loss(stage):
    task, batch = (
        make_task(make_layout(stage, STYLES["aligned"]), optional_dropout=0.2),
        make_batch(),
    )
    ((config, parameters),) = task.optimizers.values()
    optimizer = torch.optim.Adam(parameters, lr=config.learning_rate)
    task.model.train()
    for step in range(40):
        optimizer.zero_grad()
        task.loss("stage", batch, context(step)).loss.backward()
        optimizer.step()
    task.model.eval()
    with torch.no_grad():
        figures = task.validation_metrics(batch)
    assert figures["loss"] < 0.7 * figures["unigram_nats"] < 0.7 * math.log(SIZE)
    levels = task.config.stage.layout.target.spec.num_quantizers
    means = sum(figures[f"level_{level}_nats"] for level in range(1, levels + 1)) / levels
    assert means == pytest.approx(figures["loss"], rel=1e-4)


def test_optional_segments_are_left_out_sometimes():
    task, batch = make_task(make_layout("semantic", STYLES["paper"]), optional_dropout=0.5), None
    batch = {
        name: value.repeat(50, *[1] * (value.ndim - 1)) for name, value in make_batch().items()
    }
    codes = task._drop_optional(task.codes(batch), context().generator)
    is_absent = (codes["conditioning"] == SIZE).all(dim=(1, 2))
    assert 0.35 < float(is_absent.float().mean()) < 0.65
    assert bool((codes["conditioning"][~is_absent] < SIZE).all())
    assert torch.equal(codes["semantic"], batch["semantic"])


def told(texts):
    """Codes of a caption: its length at every level."""
    return torch.tensor([[[len(text)]] * 4 for text in texts])


def spy(seen, loss):
    """The loss, with what it was given kept."""

    def kept(codes):
        seen.append(codes)
        return loss(codes)

    return kept


def test_captions_stand_in_for_audio_in_their_share_of_the_crops(monkeypatch):
    layout = make_layout("semantic", STYLES["summed"])
    tokens = make_batch()
    batch = {**tokens, "texts": ["abc", "", "abcde", "a"]}
    seen: list[dict[str, torch.Tensor]] = []
    for share in (0.0, 0.5, 1.0):
        task = make_task(layout, caption_share=share, text_conditioning=told)
        monkeypatch.setattr(task.model, "loss", spy(seen, task.model.loss))
        task.loss("stage", batch, context())
    heard = tokens["embedding"][:, :3].long()
    never, half, always = (codes["conditioning"][:, :, 0] for codes in seen)
    assert torch.equal(never, heard)
    assert always.tolist() == [[3] * 3, heard[1].tolist(), [5] * 3, [1] * 3]
    for row in range(4):
        assert half[row].tolist() in (heard[row].tolist(), always[row].tolist())
    assert torch.equal(half[1], heard[1])


def test_a_caption_share_needs_the_tokenizer_of_texts():
    with pytest.raises(ConfigError, match="caption_share"):
        make_task(make_layout("semantic", STYLES["paper"]), caption_share=0.5)


def test_the_ablation_is_another_layout():
    layout = coarse_layout(CONDITIONING, None, COARSE, STYLES["aligned"])
    batch = {name: value for name, value in make_batch().items() if name != "semantic"}
    output = make_task(layout).loss("stage", batch, context())
    assert 1 < float(output.loss.detach()) < 6


def test_unigram_entropy_of_known_frequencies():
    codes = torch.tensor([[[0, 1, 2, 3], [0, 0, 0, 0], [0, 1, 4, 4]]])
    entropies = unigram_entropy(codes, 4)
    torch.testing.assert_close(entropies, torch.tensor([math.log(4), 0.0, math.log(2)]))


def test_misfits_are_refused():
    config = StageTaskConfig(stage=make_config(make_layout("coarse", STYLES["paper"])))
    with pytest.raises(ConfigError, match="give the task the conditioning tokenizer"):
        StageTask(config)
    with pytest.raises(ConfigError, match="needs 'acoustic'"):
        StageTask(config, conditioning).codes({"embedding": torch.zeros(1, 6), "semantic": None})
