"""Recipes: the paper's sizes are met, and its stages take a real step."""

import pytest
import torch

from musiclm.core.errors import ConfigError
from musiclm.core.runtime import RandomStreams
from musiclm.recipes.describe import describe_parts, describe_stages
from musiclm.recipes.recipe import Recipe
from musiclm.recipes.registry import load_recipe
from musiclm.training.optimizer import build_adamw
from musiclm.training.task import StepContext
from musiclm.training.tasks.stage import StageTask


@pytest.mark.parametrize("name", ["tiny", "mini", "paper"])
def test_a_recipe_survives_json(name):
    recipe = load_recipe(name)
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_an_unknown_recipe_is_refused():
    with pytest.raises(ConfigError, match="tiny, mini, paper"):
        load_recipe("huge")


def test_the_papers_stages_have_its_parameters_and_lengths():
    # MusicLM, Section 4.1: 430M a stage; Section 4.2: crops of 30, 10 and 3 s.
    stages = {stage.name: stage for stage in describe_stages(load_recipe("paper"))}
    millions = {name: round(stage.num_parameters / 1e6) for name, stage in stages.items()}
    assert millions == {"semantic": 430, "coarse": 438, "fine": 428}
    lengths = {
        name: stage.num_prefix_positions + stage.num_target_positions
        for name, stage in stages.items()
    }
    assert lengths == {"semantic": 762, "coarse": 2262, "fine": 1800}


def test_every_recipe_has_the_papers_token_rates():
    for name in ("tiny", "mini", "paper"):
        recipe = load_recipe(name)
        assert recipe.acoustic_spec.num_quantizers * recipe.acoustic_spec.frame_rate_hz == 600
        assert recipe.semantic_spec.frame_rate_hz == 25


def test_mini_fits_the_bundle():
    recipe = load_recipe("mini")
    stored = sum(stage.num_parameters for stage in describe_stages(recipe))
    stored += sum(part.num_parameters for part in describe_parts(recipe) if "text" not in part.name)
    assert stored < 40e6  # a byte each as int8, and 48 MiB in all


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["semantic", "coarse", "fine"])
def test_a_stage_of_the_paper_takes_a_step(stage, unchecked):
    recipe = load_recipe("paper")
    streams = RandomStreams(0)
    config = recipe.stage_task(stage)
    task = StageTask(
        config, lambda embedding: embedding[:, :, None].long(), generator=streams.generator("init")
    )
    seconds = 0.4
    draw = streams.generator("codes")
    batch = {
        "semantic": torch.randint(0, 1024, (1, 1, int(25 * seconds)), generator=draw),
        "acoustic": torch.randint(0, 1024, (1, 12, int(50 * seconds)), generator=draw),
        "embedding": torch.randint(0, 1024, (1, 12), generator=draw).float(),
    }
    optimizer_config, parameters = task.optimizers["stage"]
    optimizer = build_adamw(optimizer_config, parameters)
    context = StepContext(0, 1, streams.generator("step"))
    before = task.loss("stage", batch, context)
    before.loss.backward()
    for group in optimizer.param_groups:
        group["lr"] = 1e-4
    optimizer.step()
    task.model.eval()
    with torch.no_grad():
        again = task.loss("stage", batch, context)
    assert bool(torch.isfinite(before.loss))
    assert again.loss.item() < before.loss.item()
