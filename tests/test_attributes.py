"""Attributes: which leads have a tag, who is heard, and agreement against exact chance."""

import numpy as np
import pytest

from musiclm.core.errors import DataError
from musiclm.evaluation.attributes import (
    INSTRUMENT_TAGS,
    heard_instruments,
    instrument_agreement,
    instrument_of_lead,
)
from musiclm.evaluation.musicnn_tags import MSD_TAGS, MTT_TAGS


def probabilities(*loudest: str) -> np.ndarray:
    """One clip a tag: that tag likely, the others less so, `drums` likeliest of all."""
    rows = np.full((len(loudest), len(MTT_TAGS)), 0.1)
    rows[:, MTT_TAGS.index("drums")] = 0.9
    for row, tag in zip(rows, loudest, strict=True):
        row[MTT_TAGS.index(tag)] = 0.6
    return rows


@pytest.mark.parametrize(
    ("lead", "instrument"),
    [
        ("piano", "piano"),
        ("classical guitar", "guitar"),
        ("distorted guitar", "guitar"),
        ("Fiddle", "violin"),
        ("synth strings", "synth"),
        ("warm pad", "synth"),
        ("pizzicato strings", "strings"),
        ("oohs", "choir"),
        ("pan flute", "flute"),
        ("harp", "harp"),
        ("harpsichord", "harpsichord"),
        ("harmonica", None),
        ("electric piano", None),
        ("bass guitar", None),
        ("synth bass", None),
        ("steel drums", None),
        ("trumpet", None),
        ("", None),
    ],
)
def test_instrument_of_lead(lead, instrument):
    assert instrument_of_lead(lead) == instrument


def test_every_instrument_has_its_tags_among_mtt():
    assert all(set(tags) <= set(MTT_TAGS) for tags in INSTRUMENT_TAGS.values())
    assert all(instrument_of_lead(name) == name for name in INSTRUMENT_TAGS)


def test_the_likeliest_melody_instrument_is_heard_over_the_drums():
    heard = heard_instruments(probabilities("flute", "choral", "sitar"), MTT_TAGS)
    assert heard == ["flute", "choir", "sitar"]


def test_leads_without_a_tag_do_not_count():
    agreement = instrument_agreement(
        ["flute", "trumpet", "piano"], probabilities("flute", "guitar", "violin"), MTT_TAGS
    )
    assert agreement.num_clips == 2
    assert agreement.rate == 0.5
    assert agreement.rate_by_instrument == {"flute": 1.0, "piano": 0.0}


def test_chance_is_the_mean_over_permuted_leads():
    generator = np.random.default_rng(0)
    leads = generator.choice(["flute", "piano", "violin"], 30, p=[0.6, 0.3, 0.1]).tolist()
    heard = generator.choice(["flute", "piano", "harp"], 30).tolist()
    agreement = instrument_agreement(leads, probabilities(*heard), MTT_TAGS)
    permuted = [
        np.mean(generator.permutation(np.array(leads)) == np.array(heard)) for _ in range(3000)
    ]
    assert agreement.chance == pytest.approx(np.mean(permuted), abs=0.01)
    assert agreement.times_chance == pytest.approx(agreement.rate / agreement.chance)


def test_always_playing_one_instrument_scores_chance():
    leads = ["flute"] * 8 + ["piano"] * 2
    agreement = instrument_agreement(leads, probabilities(*["flute"] * 10), MTT_TAGS)
    assert agreement.times_chance == pytest.approx(1.0)


def test_impossible_requests_are_refused():
    with pytest.raises(DataError, match="1 leads for 2 clips"):
        instrument_agreement(["flute"], probabilities("flute", "harp"), MTT_TAGS)
    with pytest.raises(DataError, match="No clip's lead"):
        instrument_agreement(["tuba"], probabilities("flute"), MTT_TAGS)
    with pytest.raises(DataError, match="use the MTT variant"):
        instrument_agreement(["flute"], np.zeros((1, 50)), MSD_TAGS)
