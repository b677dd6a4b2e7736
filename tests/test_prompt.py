import math

import pytest

from musiclm.core.errors import PromptError
from musiclm.generation.prompt import (
    Temperatures,
    checked_duration,
    checked_seed,
    checked_text,
)


def test_text_is_trimmed_and_normalised():
    assert checked_text("  a calm\n violin\u00a0melody ") == "a calm violin melody"


@pytest.mark.parametrize("text", ["", "   ", "\n\t", "\u3000"])
def test_empty_text_is_refused(text):
    with pytest.raises(PromptError, match="empty"):
        checked_text(text)


def test_absurdly_long_text_is_refused():
    with pytest.raises(PromptError, match="at most 2,000"):
        checked_text("piano " * 5_000)


@pytest.mark.parametrize("text", ["静かなピアノ", "🎻🎹", "пианино"])
def test_any_script_is_accepted(text):
    assert checked_text(text) == text


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf, 10_000])
def test_durations_out_of_range_are_refused(seconds):
    with pytest.raises(PromptError, match="duration"):
        checked_duration(float(seconds))


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_out_of_range_are_refused(seed):
    with pytest.raises(PromptError, match="seed"):
        checked_seed(seed)


def test_temperatures_default_to_the_papers_and_scale_together():
    halved = Temperatures().scaled(0.5)
    assert (halved.semantic, halved.coarse, halved.fine) == (0.5, 0.475, 0.2)
