"""Rendered scores: reading, grouping, harmony, arranging, captions, and the corpus they make."""

import itertools
import re
import struct

import numpy as np
import pytest
import torch

from musiclm.core.errors import DataError, DependencyError
from musiclm.data.manifest import Corpus
from musiclm.data.rendered.abc import parse_key, parse_metre, read_abc
from musiclm.data.rendered.adaptation import adaptation, adapted_notes
from musiclm.data.rendered.arranger import compose, perform
from musiclm.data.rendered.captions import templates, tidy, write_captions
from musiclm.data.rendered.corpus import RenderSettings, render_corpus
from musiclm.data.rendered.facts import facts_of
from musiclm.data.rendered.game_midi import (
    game_captions,
    load_game_pieces,
    midi_in_wad,
    plan_game_clip,
)
from musiclm.data.rendered.harmony import coloured, infer_chords, voiced
from musiclm.data.rendered.instruments import INSTRUMENTS
from musiclm.data.rendered.mixing import balanced, in_room
from musiclm.data.rendered.performance import Clock
from musiclm.data.rendered.plan import fitting_styles, is_held_out_music, plan_clip
from musiclm.data.rendered.score import ScoreNote, Tune, beat_quarters
from musiclm.data.rendered.splits import is_held_out_wording, split_of_group
from musiclm.data.rendered.styles import all_styles
from musiclm.data.rendered.synthesizer import (
    TRAIN_SOUNDFONTS,
    Event,
    Synthesizer,
    find_soundfont,
    train_soundfont,
)
from musiclm.data.rendered.tunes import TuneLibrary, cluster_names

SOUNDFONT = find_soundfont(TRAIN_SOUNDFONTS)
needs_soundfont = pytest.mark.skipif(SOUNDFONT is None, reason="FluidR3_GM is not installed")

SCALE = "X:1\nT:Scale\nM:4/4\nL:1/4\nK:D\n"
FILLER = "DEFG|ABcd|DEFG|ABcd|DEFG|ABcd|"


def tune_of(tmp_path, text):
    path = tmp_path / "book.abc"
    path.write_text(text, encoding="latin-1")
    return read_abc(path, "book")


def first_pitches(tmp_path, music, count):
    (tune,) = tune_of(tmp_path, SCALE + music + FILLER)
    return [note.pitch for note in tune.notes[:count]]


def made_up_tune(number, metre="4/4", mode="major", length=64):
    draw = np.random.default_rng(number)
    scale = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}[mode]
    walk = np.cumsum(draw.integers(-2, 3, length))
    steps = np.abs((walk + 14) % 28 - 14) - 5
    notes = tuple(
        ScoreNote(i * 0.5, i * 0.5 + 0.5, 67 + 12 * (s // 7) + scale[s % 7] - 7)
        for i, s in enumerate(steps.tolist())
    )
    return Tune(f"book/{number}", f"Tune {number}", "book", "", metre, 0, mode, 0.0, notes)


@pytest.fixture(scope="module")
def library():
    metres = itertools.cycle(["4/4", "6/8", "3/4", "2/4", "9/8"])
    modes = itertools.cycle(["major", "major", "minor"])
    tunes = tuple(made_up_tune(i, next(metres), next(modes)) for i in range(60))
    return TuneLibrary(tunes, (), cluster_names(tunes))


def key(text):
    found = parse_key(text)
    assert found is not None
    return found


def test_abc_keys_and_metres():
    assert key("E Minor").alterations["F"] == 1
    assert key("Gm").tonic == 7
    assert key("Gm").alterations["B"] == -1
    assert key("Amix").alterations == dict.fromkeys("DEAB", 0) | {"F": 1, "C": 1, "G": 0}
    assert key("Bb").tonic == 10
    assert parse_key("none") is None
    assert parse_metre("C|") == "4/4"
    assert parse_metre(" 6/8 % note") == "6/8"


def test_abc_key_signature_octaves_and_accidentals_that_last_for_the_bar(tmp_path):
    assert first_pitches(tmp_path, "D F c c'|", 4) == [62, 66, 73, 85]
    # The natural holds within its bar and ends with it.
    assert first_pitches(tmp_path, "=F F ^G G|F G A B|", 6) == [65, 65, 68, 68, 66, 67]


@pytest.mark.parametrize(
    ("music", "lengths"),
    [
        ("D2 E F|", [2, 1, 1]),
        ("D>E F G|", [1.5, 0.5, 1, 1]),
        ("D<E F G|", [0.5, 1.5, 1, 1]),
        ("D/E/ F G A|", [0.5, 0.5, 1, 1, 1]),
        ("(3DEF G A|", [2 / 3, 2 / 3, 2 / 3, 1, 1]),
        ("D3/2E/ F G|", [1.5, 0.5, 1, 1]),
        ('{g}D "Am"E !trill!F ~G|', [1, 1, 1, 1]),
        ("[DF]2 E F|", [2, 1, 1]),
    ],
)
def test_abc_note_lengths(tmp_path, music, lengths):
    (tune,) = tune_of(tmp_path, SCALE + music + FILLER)
    found = [n.end_quarters - n.start_quarters for n in tune.notes[: len(lengths)]]
    assert found == pytest.approx(lengths)


def test_abc_ties_make_one_note_also_over_a_bar_line(tmp_path):
    (tune,) = tune_of(tmp_path, SCALE + "D E F G-|G E F2-|F2 D2|" + FILLER)
    assert tune.notes[3].end_quarters - tune.notes[3].start_quarters == 2
    assert tune.notes[5].end_quarters - tune.notes[5].start_quarters == 4


def test_abc_repeats_and_endings(tmp_path):
    (tune,) = tune_of(tmp_path, SCALE + "|:D4|E4|1F4:|2G4|" + FILLER)
    names = [note.pitch for note in tune.notes[:6]]
    assert names == [62, 64, 66, 62, 64, 67]
    (plain,) = tune_of(tmp_path, SCALE + "|:D4|E4:|:F4|G4:|" + FILLER)
    assert [n.pitch for n in plain.notes[:8]] == [62, 64, 62, 64, 66, 67, 66, 67]


def test_abc_pickup_puts_the_first_full_bar_on_a_bar_line(tmp_path):
    (tune,) = tune_of(tmp_path, SCALE + "A|" + FILLER)
    assert tune.pickup_quarters == 1
    assert tune.notes[0].start_quarters == 3
    assert tune.notes[1].start_quarters == 4


def test_abc_leaves_out_what_it_cannot_place(tmp_path):
    assert tune_of(tmp_path, SCALE + "D4|") == []
    assert tune_of(tmp_path, SCALE.replace("K:D", "K:none") + FILLER) == []


def test_near_duplicates_share_a_group_in_any_key():
    tunes = [made_up_tune(i) for i in range(12)]
    moved = tuple(ScoreNote(n.start_quarters, n.end_quarters, n.pitch + 3) for n in tunes[4].notes)
    copy = Tune("book/copy", "Copy", "book", "", "4/4", 3, "major", 0.0, moved)
    groups = cluster_names([*tunes, copy])
    assert groups["book/copy"] == groups["book/4"]
    assert len(set(groups.values())) == len(tunes)


def test_splits_are_fixed_and_near_their_shares():
    names = [f"group {i}" for i in range(4000)]
    shares = [split_of_group(name) for name in names]
    assert shares == [split_of_group(name) for name in names]
    assert 0.88 < shares.count("train") / 4000 < 0.92
    assert 0.035 < shares.count("test") / 4000 < 0.065


def test_styles_are_many_and_cover_metres():
    styles = all_styles()
    assert len(styles) >= 45
    assert len({style.name for style in styles}) == len(styles)
    metres = {style.metre for style in styles}
    assert {"4/4", "3/4", "6/8", "2/4", "9/8", "5/4", "12/8", "7/8"} <= metres
    assert 0.05 < sum(style.held_out for style in styles) / len(styles) < 0.15


def test_chords_of_a_cadence():
    bars = [(60, 64, 67, 72), (65, 69, 72, 69), (67, 71, 74, 71), (60, 64, 67, 60)]
    notes = [
        ScoreNote(4.0 * bar + beat, 4.0 * bar + beat + 1, pitch)
        for bar, pitches in enumerate(bars)
        for beat, pitch in enumerate(pitches)
    ]
    assert infer_chords(notes, 4, 4.0, 0, "major") == [(0, "M"), (5, "M"), (7, "M"), (0, "M")]


def test_voicings_stay_close_and_hold_their_chord():
    previous = ()
    for root, quality in [(0, "M"), (5, "M"), (7, "M"), (9, "m"), (2, "m"), (0, "M")]:
        chord = coloured(root, quality, 0, "seventh")
        voicing = voiced(chord, previous, 50, 4)
        assert {pitch % 12 for pitch in voicing} <= set(chord.pitch_classes)
        assert list(voicing) == sorted(voicing)
        if previous:
            assert max(abs(a - b) for a, b in zip(voicing, previous, strict=True)) <= 7
        previous = voicing


@pytest.mark.parametrize("metre", ["4/4", "2/4", "3/4", "6/8", "9/8", "12/8", "3/8"])
def test_adapted_tunes_keep_order_and_meet_the_bars(metre):
    tune = made_up_tune(1, metre)
    found = 0
    for style in all_styles():
        how = adaptation(tune.metre, style.metre, is_swung=style.swing > 0.59)
        if how is None:
            continue
        found += 1
        notes, _ = adapted_notes(tune, how, style.metre, 1.0)
        starts = [note.start_quarters for note in notes]
        assert starts == sorted(starts)
        bar_starts = {round(n.start_quarters / style.bar_quarters, 6) % 1 for n in notes}
        assert 0 in bar_starts
        assert all(note.end_quarters > note.start_quarters for note in notes)
    assert found > 0


def test_swing_delays_the_offbeat_only():
    clock = Clock(quarters_per_second=2.0, swing=2 / 3)
    assert clock.seconds(1.0) == pytest.approx(0.5)
    assert clock.seconds(1.5) == pytest.approx((1 + 2 / 3) / 2)
    times = [clock.seconds(q) for q in np.linspace(0, 4, 65)]
    assert times == sorted(times)


def test_plans_and_compositions_are_functions_of_seed_and_index(library):
    for index in range(6):
        first, second = (plan_clip(library, 3, index) for _ in range(2))
        assert first == second
        assert compose(first, 3) == compose(second, 3)
    assert plan_clip(library, 3, 0) != plan_clip(library, 4, 0)


def test_training_clips_hold_nothing_that_is_held_out(library):
    plans = [plan_clip(library, 5, index) for index in range(160)]
    for plan in plans:
        assert split_of_group(library.cluster_of[plan.tune.tune_id]) == plan.split
        if plan.split == "train":
            assert not is_held_out_music(plan)
    outside = [plan for plan in plans if plan.split != "train"]
    assert any(plan.uses_held_out_soundfont for plan in outside)
    assert any(not plan.uses_held_out_soundfont for plan in outside)
    assert all(not s.held_out for s in fitting_styles(made_up_tune(1), "train"))


def test_compositions_are_playable_and_as_long_as_they_say(library):
    for index in range(14):
        composition = compose(plan_clip(library, 11, index), 11)
        assert 4 < composition.duration_seconds < 75
        lead = composition.plan.lead
        starts = [note.start_seconds for note in composition.melody]
        assert len(starts) > 8
        assert starts == sorted(starts)
        assert composition.melody[-1].end_seconds <= composition.duration_seconds
        own = [n.pitch for n in composition.parts[0].notes]
        assert lead.low - 6 <= np.median(own) <= lead.high + 6
        for part in composition.parts:
            assert all(0 <= n.pitch <= 127 for n in part.notes)
            assert all(n.end_quarters > n.start_quarters for n in part.notes)


def test_backing_fits_the_melody(library):
    """Long melody notes are chord tones far more often than the same notes a semitone up."""
    right = wrong = total = 0
    for index in range(14):
        composition = compose(plan_clip(library, 2, index), 2)
        chords, style = composition.part("chords"), composition.plan.style
        if chords is None or style is None or style.harmony not in ("triad", "seventh"):
            continue
        for note in composition.parts[0].notes:
            middle = (note.start_quarters + note.end_quarters) / 2
            sounding = {
                c.pitch % 12 for c in chords.notes if c.start_quarters <= middle < c.end_quarters
            }
            total += bool(sounding)
            right += note.pitch % 12 in sounding
            wrong += (note.pitch + 1) % 12 in sounding
    assert total > 100
    assert right / total > 0.4
    assert right > 2 * wrong


def test_captions_say_what_is_true_and_keep_the_held_out_words_for_tests(library):
    words = set()
    for index in range(36):
        plan = plan_clip(library, 9, index)
        composition = compose(plan, 9)
        captions = write_captions(composition, 9)
        assert {"tags", "sentence"} & {caption.kind for caption in captions}
        assert len({caption.text for caption in captions}) == len(captions) >= 3
        assert plan.split != "train" or not any(caption.is_held_out for caption in captions)
        facts = facts_of(composition)
        for caption in captions:
            assert "{" not in caption.text
            assert "  " not in caption.text
            words |= set(caption.text.lower().split())
            named = {
                name
                for name, instrument in INSTRUMENTS.items()
                if re.search(rf"\b{name}\b", caption.text.lower())
                and instrument.family in ("brass", "voice")
                and name not in ("choir", "oohs", "brass section")
            }
            everything = " ".join(itertools.chain.from_iterable(facts.values())).lower()
            assert all(name in everything for name in named)
            if "no drums" in caption.text or "no percussion" in caption.text:
                assert not composition.has_drums
    assert len(words) > 200


def test_held_out_wordings_are_about_a_fifth_and_never_all_of_a_kind():
    for kind, rows in templates().items():
        held_out = [row for row in rows if is_held_out_wording(row)]
        assert len(held_out) < len(rows), kind
    every = [row for rows in templates().values() for row in rows]
    assert 0.08 < sum(map(is_held_out_wording, every)) / len(every) < 0.35


def test_articles_are_mended():
    assert tidy("a upbeat Irish jig. it is a Italian tune") == (
        "An upbeat Irish jig. It is an Italian tune"
    )
    assert tidy("a euphoric tune by a harp") == "A euphoric tune by a harp"


def test_the_lead_is_louder_by_what_was_asked():
    draw = np.random.default_rng(0)
    lead = (0.01 * draw.standard_normal(48_000)).astype(np.float32)
    rest = (0.2 * draw.standard_normal(48_000)).astype(np.float32)
    mix = balanced(lead * 10, rest, 4.0)
    own = mix - rest
    assert 20 * np.log10(own.std() / rest.std()) == pytest.approx(4.0, abs=0.2)
    assert np.array_equal(balanced(lead, np.zeros_like(lead), 4.0), lead)


def test_a_room_adds_a_tail_and_a_dry_sound_none():
    click = np.zeros(24_000, dtype=np.float32)
    click[100] = 1
    assert np.array_equal(in_room(click, "dry", 0), click)
    hall = in_room(click, "hall", 0)
    assert hall.shape == click.shape
    assert np.abs(hall[6_000:12_000]).max() > 1e-4
    assert hall[100] == pytest.approx(1.0, abs=1e-3)


def test_missing_soundfont_is_one_helpful_line(tmp_path, monkeypatch):
    monkeypatch.setattr("musiclm.data.rendered.synthesizer._FOLDERS", ())
    monkeypatch.delenv("MUSICLM_SOUNDFONTS", raising=False)
    with pytest.raises(DependencyError, match="fluid-soundfont-gm"):
        train_soundfont()
    (tmp_path / "FluidR3_GM.sf2").write_bytes(b"x")
    monkeypatch.setenv("MUSICLM_SOUNDFONTS", str(tmp_path))
    assert train_soundfont() == tmp_path / "FluidR3_GM.sf2"


@needs_soundfont
def test_synthesizer_plays_the_pitch_it_is_given_and_leaves_no_trace():
    synthesizer = Synthesizer(train_soundfont())
    program = Event(0.0, "program", 0, INSTRUMENTS["flute"].program)
    note = [program, Event(0.0, "on", 0, 69, 100), Event(1.0, "off", 0, 69)]
    first = synthesizer.render(note, 1.0)
    synthesizer.render([program, Event(0.0, "on", 0, 40, 120)], 0.5)
    assert np.array_equal(first, synthesizer.render(note, 1.0))
    spectrum = np.abs(np.fft.rfft(first * np.hanning(24_000)))
    assert abs(int(spectrum[300:600].argmax()) + 300 - 440) <= 4


@needs_soundfont
def test_a_rendered_corpus_is_resumable_and_the_same_each_time(tmp_path, library):
    settings = RenderSettings(seed=2, soundfont=str(SOUNDFONT))
    seen = []
    whole = render_corpus(
        tmp_path / "whole", settings, 0.02, library=library, on_progress=seen.append
    )
    assert seen[-1].clips == len(whole.clips)
    render_corpus(tmp_path / "grown", settings, 0.001, library=library)
    grown = render_corpus(tmp_path / "grown", settings, 0.02, library=library)
    assert [c.model_dump() for c in grown.clips] == [c.model_dump() for c in whole.clips]
    for clip in whole.clips:
        wave = whole.audio(clip)
        assert wave.sample_rate_hz == 24_000
        assert wave.duration_seconds == pytest.approx(clip.duration_seconds)
        assert torch.equal(wave.samples, grown.audio(clip).samples)
        assert 0.05 < float(wave.samples.abs().max()) <= 1.0
    assert whole.duration_hours >= 0.02
    assert Corpus.open(tmp_path / "whole").clips == whole.clips
    with pytest.raises(DataError, match="seed"):
        render_corpus(
            tmp_path / "whole", settings.model_copy(update={"seed": 3}), 0.02, library=library
        )


@needs_soundfont
def test_a_corpus_of_one_split_has_the_clips_that_the_whole_one_would_have(tmp_path, library):
    settings = RenderSettings(seed=2, soundfont=str(SOUNDFONT), splits=("test",))
    clips = render_corpus(tmp_path, settings, 0.001, library=library).clips
    assert {clip.split for clip in clips} == {"test"}
    index = int(clips[0].clip_id[1:])
    earlier = [plan_clip(library, 2, number).split for number in range(index + 1)]
    assert earlier == [*(split for split in earlier[:-1] if split != "test"), "test"]
    composition = compose(plan_clip(library, 2, index), 2)
    assert clips[0].melody == composition.melody


@needs_soundfont
def test_the_melody_is_heard_where_the_labels_say(library):
    synthesizer = Synthesizer(train_soundfont())
    right = total = 0
    plans = (plan_clip(library, 21, index) for index in itertools.count())
    arranged = (plan for plan in plans if plan.kind == "arranged" and plan.tempo_bpm < 110)
    for plan in itertools.islice(arranged, 2):
        composition = compose(plan, 21)
        samples = perform(composition, synthesizer, 21).samples.numpy()
        for note in composition.melody[:40]:
            start = int((note.start_seconds + 0.02) * 24_000)
            piece = samples[start : start + 6_000]
            spectrum = np.abs(np.fft.rfft(piece * np.hanning(len(piece)), 24_000))
            at = [
                sum(
                    spectrum[int(h * f) - 3 : int(h * f) + 4].max()
                    for f in [440 * 2 ** ((note.pitch + step - 69) / 12)]
                    for h in (1, 2)
                )
                for step in (-1, 0, 1)
            ]
            right += at[1] == max(at)
            total += 1
    assert right / total > 0.6
    assert beat_quarters("6/8") == 1.5


def midi_bytes(seconds):
    """A MIDI file of one flute track: 96 ticks a quarter, a note a quarter of a second."""
    events = b"\x00\xc0\x49"
    for index in range(int(seconds * 4)):
        pitch = 60 + index * 7 % 12
        events += bytes([0, 0x90, pitch, 100, 48, 0x80, pitch, 0])
    events += b"\x00\xff\x2f\x00"
    head = b"MThd" + struct.pack(">IHHH", 6, 0, 1, 96)
    return head + b"MTrk" + struct.pack(">I", len(events)) + events


def test_game_music_is_found_in_folders_and_wads(tmp_path):
    music = midi_bytes(30)
    lumps = b"\x00" * 8 + music
    directory = struct.pack("<ii8s", 12, 8, b"MAP01") + struct.pack(
        "<ii8s", 20, len(music), b"D_E1M1"
    )
    head = struct.pack("<4sii", b"IWAD", 2, 12 + len(lumps))
    (tmp_path / "game.wad").write_bytes(head + lumps + directory)
    (tmp_path / "copy.mid").write_bytes(music)
    (tmp_path / "other.mid").write_bytes(midi_bytes(40))
    (tmp_path / "broken.mid").write_bytes(b"MThd")
    assert midi_in_wad(b"not a wad") == []
    (piece,) = load_game_pieces(tmp_path / "game.wad")
    assert piece.name == "D_E1M1"
    assert piece.end_seconds == pytest.approx(30.0, abs=0.1)
    pieces = load_game_pieces(tmp_path)
    assert len(pieces) == 2
    with pytest.raises(DataError, match="freedoom"):
        load_game_pieces(tmp_path / "broken.mid")
    for seed in range(8):
        clip = plan_game_clip(np.random.default_rng(seed), pieces, "train")
        assert clip == plan_game_clip(np.random.default_rng(seed), pieces, "train")
        assert clip.instruments == ("flute",)
        assert 20 < clip.duration_seconds <= 60
        captions = game_captions(np.random.default_rng(seed), clip)
        assert all("flute" in caption.text for caption in captions)
        assert clip.piece.split != "train" or not any(c.is_held_out for c in captions)
