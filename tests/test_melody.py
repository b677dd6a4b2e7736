"""Melodies: voices, the embedder's symmetries, tokens, a stage that reads them, measures."""

from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from musiclm.audio.pitch import held_tones, track_pitch
from musiclm.audio.waveform import Waveform
from musiclm.conditioning.interval_profile import discriminants, window_profiles
from musiclm.conditioning.log_frequency import LogFrequency, LogFrequencyConfig, tuning_bins
from musiclm.conditioning.melody import MelodyEmbedder, MelodyEmbedderConfig, triplet_loss
from musiclm.conditioning.melody_tokenizer import MelodyTokenizer
from musiclm.core.errors import ConfigError, DataError
from musiclm.core.runtime import RandomStreams
from musiclm.data.manifest import Corpus
from musiclm.data.melody.line import Line, SingerErrors, performed
from musiclm.data.melody.source import MelodySource, frame_targets
from musiclm.data.melody.tokens import (
    MelodyCropSource,
    has_melody_tokens,
    write_melody_tokens,
)
from musiclm.data.melody.voices import VOICE_KINDS, _partials, sing
from musiclm.evaluation.melody import (
    ANY_KEY,
    MelodyNote,
    melody_ranks,
    note_recall,
    ratio_estimate,
    sounding_recall,
)
from musiclm.evaluation.seams import measure_seams
from musiclm.evaluation.transcription import HeardNote, Transcript, notes_of
from musiclm.generation.melody_prompt import diagnose, is_clipped, sounding_part
from musiclm.recipes.melody import melody_recipe
from musiclm.stages.extension import melody_segment, with_segment
from musiclm.tokens.spec import TokenSpec
from musiclm.training.melody_tokenizer import fit_melody_tokenizer
from musiclm.training.task import StepContext
from musiclm.training.tasks.melody import MelodyTask
from tests.support.melodies import melody_notes, write_melody_corpus
from tests.support.stages import ALIGNED, SIZE, make_codes, make_layout, make_model

RATE = 12_000


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, unchecked):
    return Corpus.open(write_melody_corpus(tmp_path_factory.mktemp("melodies") / "corpus"))


@pytest.fixture(scope="module")
def embedder():
    with RandomStreams(3).layers_draw_from("embedder"):
        return MelodyEmbedder(melody_recipe("tiny").task.embedder).eval()


def line(seed=0, seconds=4.0):
    return Line.from_notes(melody_notes(seed, seconds))


def test_a_line_moves_in_key_and_tempo_and_is_cut():
    own = line()
    assert own.faster(2.0).ends[-1] == pytest.approx(own.ends[-1] / 2)
    assert (own.transposed(3.0).pitches == own.pitches + 3).all()
    cut = own.between(1.0, 2.0)
    assert cut.num_notes == 3
    assert cut.starts[0] == pytest.approx(0.0, abs=0.34)
    moved = own.moved_into(45.0, 57.0)
    assert 45 <= np.median(moved.pitches) <= 57
    assert ((moved.pitches - own.pitches) % 12 == 0).all()
    assert own.index_at(np.array([0.0, 0.32, 100.0])).tolist() == [0, -1, -1]


def test_a_faultless_performance_is_the_line_and_errors_keep_the_order():
    none = SingerErrors(0.0, 0.0, 0.0, 0.0, 1.0)
    same = performed(np.random.default_rng(0), line(), none)
    np.testing.assert_allclose(same.pitches, line().pitches)
    np.testing.assert_allclose(same.starts, line().starts, atol=2e-3)
    wild = performed(np.random.default_rng(0), line(), SingerErrors(time_seconds=0.3))
    assert (np.diff(wild.starts) > 0).all()
    assert (wild.ends[:-1] <= wild.starts[1:] + 1e-9).all()


@pytest.mark.parametrize("kind", VOICE_KINDS)
def test_a_voice_sings_the_notes_it_is_given(kind):
    one = Line(np.array([0.2]), np.array([1.8]), np.array([69.0]))
    none = SingerErrors(0.0, 0.0, 0.0, 0.0, 1.0)
    samples = sing(np.random.default_rng(2), one, 2.0, kind, RATE, errors=none)
    again = sing(np.random.default_rng(2), one, 2.0, kind, RATE, errors=none)
    assert samples.dtype == np.float32
    assert len(samples) == 2 * RATE
    assert np.isfinite(samples).all()
    assert np.abs(samples).max() <= 1
    np.testing.assert_array_equal(samples, again)
    track = track_pitch(Waveform(torch.from_numpy(samples), RATE))
    heard = float(track.pitches[35:60].median())
    off = (heard - 69 + 6) % 12 - 6
    assert abs(off) < 0.9  # A, in some octave, within the voice's own tuning and vibrato


def test_partials_are_a_sum_of_sines():
    draw = np.random.default_rng(0)
    hz, strengths = draw.uniform(100, 400, 402), draw.uniform(0, 1, (24, 402))
    ticks = np.arange(2 * RATE) * 200 / RATE
    phase = 2 * np.pi * np.cumsum(np.interp(ticks, np.arange(402), hz)) / RATE
    wanted = sum(
        np.interp(ticks, np.arange(402), row) * np.sin(number * phase)
        for number, row in enumerate(strengths, start=1)
    )
    np.testing.assert_allclose(_partials(hz, strengths, 2 * RATE, RATE), wanted, atol=2e-3)


def test_voices_refuse_rates_between_their_ticks():
    with pytest.raises(ConfigError, match="200 Hz"):
        sing(np.random.default_rng(0), line(), 1.0, "hum", 22_050)


def test_the_front_end_turns_a_transposition_into_a_shift_and_measures_tuning():
    front = LogFrequency(LogFrequencyConfig())
    times = torch.arange(RATE) / RATE

    def tone(pitch):
        hz = 440 * 2 ** ((pitch - 69) / 12)
        partials = [torch.sin(2 * torch.pi * n * hz * times) / n for n in range(1, 6)]
        return torch.stack(partials).sum(dim=0)[None] * 0.1

    low, high = front(tone(60.0)), front(tone(64.0))
    middle = slice(8, 17)
    shifted = low[0, 20 : -12 - 20, middle]
    torch.testing.assert_close(high[0, 32:-20, middle].argmax(0), shifted.argmax(0))
    sharp = front(tone(60.3))  # taken out: it looks like the key itself
    assert int(sharp[0, :, 12].argmax()) == int(low[0, :, 12].argmax())
    assert float(tuning_bins(sharp).abs()) < 0.35


def test_embeddings_do_not_depend_on_the_key_of_the_contour(embedder):
    contour = torch.rand(1, 14, 100, generator=torch.Generator().manual_seed(0))
    other = torch.cat([contour[:, :12].roll(5, dims=1), contour[:, 12:]], dim=1)
    starts = torch.tensor([[0, 10]])
    a, b = embedder.embed_windows(contour, starts), embedder.embed_windows(other, starts)
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(a.norm(dim=-1), torch.ones(1, 2))


def test_profiles_know_the_order_of_intervals_and_discriminants_tell_tunes_apart():
    contour = torch.zeros(2, 14, 100)
    contour[0, 0, :50] = contour[0, 4, 50:] = 1.0  # a third up, in the middle
    contour[1, 4, :50] = contour[1, 0, 50:] = 1.0  # a third down
    profiles = window_profiles(contour, torch.zeros(2, 1, dtype=torch.long), 100)[:, 0]
    features = profiles.unflatten(1, (2, -1, 12))[:, 0, 5]
    assert features[0, 4] > 5 * features[0, 8]
    assert features[1, 8] > 5 * features[1, 4]
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(30, 8, generator=generator)
    noise = torch.randn(30, 6, 8, generator=generator) * torch.tensor([5.0] * 4 + [0.1] * 4)
    rows = (centres[:, None] + noise).flatten(0, 1)
    owners = torch.arange(30).repeat_interleave(6)
    mean, directions = discriminants(rows, owners, 4, shrinkage=0.0)
    turned = torch.nn.functional.normalize((rows - mean) @ directions.T, dim=1)
    scores = turned @ turned.T
    scores.fill_diagonal_(-1)
    assert (owners[scores.argmax(dim=1)] == owners).float().mean() > 0.95


def test_a_contour_is_made_of_shares_and_loudness_does_not_matter(embedder):
    samples = torch.from_numpy(sing(np.random.default_rng(0), line(), 4.0, "hum", RATE))[None]
    contour = embedder.hear(samples).contour()
    assert contour.shape == (1, 14, 100)
    torch.testing.assert_close(
        contour[:, :13].square().sum(dim=1), torch.ones(1, 100), atol=1e-3, rtol=0
    )
    quiet = embedder.hear(0.1 * samples).contour()
    torch.testing.assert_close(contour, quiet, atol=1e-2, rtol=1e-2)


def test_gradients_in_bfloat16_are_those_of_float32():
    # oneDNN reads past its input for a channels-last kernel dilated by an octave: the gradient is
    # then NaN or garbage, as it happens. So its input must have another layout.
    with RandomStreams(0).layers_draw_from("embedder"):
        model = MelodyEmbedder(MelodyEmbedderConfig())
    layouts: list[bool] = []
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d) and layer.dilation[0] > 1:
            layer.register_forward_pre_hook(
                lambda _, inputs: layouts.append(inputs[0].is_contiguous())
            )
    noise = RandomStreams(0).generator("noise")
    samples = 0.1 * torch.randn(2, 2 * model.sample_rate_hz, generator=noise)
    gradients: list[dict[str, torch.Tensor]] = []
    for is_bfloat16 in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=is_bfloat16):
            hearing = model.hear(samples)
        (hearing.pitch_logits.float().square().mean() + hearing.onset_logits.mean()).backward()
        gradients.append(
            {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        )
    assert layouts == [True] * 4
    exact, short = gradients
    assert exact.keys() == short.keys()
    assert len(exact) > 20
    for name, gradient in exact.items():
        assert (short[name] - gradient).norm() <= 0.1 * gradient.norm() + 1e-6, name


def test_triplets_are_won_by_melodies_that_lie_apart():
    apart = torch.eye(4).repeat_interleave(2, dim=0)
    groups = torch.arange(4).repeat_interleave(2)
    assert float(triplet_loss(apart, groups, groups)) == 0
    collapsed = torch.ones(8, 4) / 2
    assert float(triplet_loss(collapsed, groups, groups)) == pytest.approx(0.2)


def test_targets_name_the_sounding_key():
    config = melody_recipe("tiny").source
    pitches, onsets = frame_targets(line(seconds=6.0), config)
    assert pitches.shape == onsets.shape == (150,)
    assert pitches[0] == round(line().pitches[0])
    assert onsets.sum() == 18
    assert (pitches == -1).any()


def test_batches_are_a_function_of_the_step_and_the_task_learns(corpus):
    recipe = melody_recipe("tiny")
    source = MelodySource(corpus, recipe.source, seed=0)
    batch, again, other = source.batch(3, 0), source.batch(3, 0), source.batch(4, 0)
    assert torch.equal(batch["samples"], again["samples"])
    assert not torch.equal(batch["samples"], other["samples"])
    assert batch["samples"].shape == (8, 72_000)
    assert batch["melodies"].tolist() == [0] * 4 + [1] * 4 + [0, 0, 1, 1, 2, 2, 3, 3]
    assert len(source.validation_batches()) == 1
    with RandomStreams(0).layers_draw_from("task"):
        task = MelodyTask(recipe.task)
    task.start_windows(source.written_batch(step, versions=3) for step in range(4))
    optimizer = torch.optim.AdamW(task.model.parameters(), 3e-3)
    losses = []
    for step in range(6):
        context = StepContext(step, 6, torch.Generator())
        output = task.loss("melody", batch, context)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(float(output.loss.detach()))
    assert losses[-1] < losses[0]
    with torch.no_grad():
        figures = task.validation_metrics(batch)
    assert 0 <= figures["pitch_class_accuracy"] <= 1


def test_tokens_are_fitted_saved_and_kept_beside_a_store(corpus, embedder, tmp_path):
    recipe = melody_recipe("tiny")
    tokenizer = MelodyTokenizer(recipe.tokenizer).eval()
    tokenizer.embedder.load_state_dict(embedder.state_dict())
    source = MelodySource(corpus, recipe.source, seed=0)
    fit = fit_melody_tokenizer(tokenizer, [source.batch(0, 0)], seed=0)
    assert fit.distortions[1] <= fit.distortions[0] < 1
    tokenizer.save(tmp_path / "melody.safetensors", storage="float32")
    loaded = MelodyTokenizer.load(tmp_path / "melody.safetensors")
    samples = source.batch(0, 0)["samples"][:2]
    codes = tokenizer.tokenize(samples)
    assert torch.equal(loaded.tokenize(samples), codes)
    assert codes.shape == (2, 2, 150)
    assert tokenizer.pitch_classes(codes).max() <= 12
    (tmp_path / "store").mkdir()
    assert write_melody_tokens(corpus, tmp_path / "store", tokenizer) == 8
    assert has_melody_tokens(tmp_path / "store", "")
    assert not has_melody_tokens(tmp_path / "store", "of other weights")

    class Crops:
        class config:  # noqa: N801
            crop_seconds = 2.0

        def batch(self, step, microbatch):
            return {"clip_ids": ["m0", "none"], "start_seconds": torch.tensor([9.0, 0.0])}

    source_of_crops: Any = Crops()

    spec = tokenizer.token_spec
    crops = MelodyCropSource(source_of_crops, tmp_path / "store", spec, dropout=0.0, seed=0)
    melody = crops.batch(0, 0)["melody"]
    assert melody.shape == (2, 2, 50)
    assert (melody[0, :, :25] < spec.codebook_size).all()
    assert (melody[0, :, 25:] == spec.codebook_size).all()  # past the end of the clip
    assert (melody[1] == spec.codebook_size).all()
    other = spec.model_copy(update={"codebook_size": 8})
    with pytest.raises(DataError, match="other melody tokens"):
        MelodyCropSource(source_of_crops, tmp_path / "store", other, dropout=0.0, seed=0)


def test_humming_that_was_stopped_goes_on_where_it_was(corpus, embedder, tmp_path, monkeypatch):
    with RandomStreams(0).layers_draw_from("tokenizer"):
        tokenizer = MelodyTokenizer(melody_recipe("tiny").tokenizer).eval()
    for level in tokenizer.quantizer.quantizers:
        torch.nn.init.normal_(level.codebook, generator=torch.Generator().manual_seed(0))
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for store in (whole, stopped):
        store.mkdir()
    write_melody_tokens(corpus, whole, tokenizer, weights_sha256="a")

    def stop(done, of):
        if done == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr("musiclm.data.melody.tokens._SAVE_EVERY", 2)
    with pytest.raises(KeyboardInterrupt):
        write_melody_tokens(corpus, stopped, tokenizer, weights_sha256="a", on_progress=stop)
    assert not has_melody_tokens(stopped, "a")
    source: Any = None
    with pytest.raises(DataError, match="not finished"):
        MelodyCropSource(source, stopped, tokenizer.token_spec, dropout=0.0, seed=0)
    told: list[int] = []
    arguments: dict[str, Any] = {"on_progress": lambda done, of: told.append(done)}
    write_melody_tokens(corpus, stopped, tokenizer, weights_sha256="a", **arguments)
    assert told == [5, 6, 7, 8]
    tokens = [load_file(store / "melody.safetensors") for store in (whole, stopped)]
    assert list(tokens[0]) == list(tokens[1])
    assert all(torch.equal(tokens[0][name], tokens[1][name]) for name in tokens[0])
    told.clear()
    write_melody_tokens(corpus, stopped, tokenizer, weights_sha256="b", **arguments)
    assert len(told) == 8


def test_a_stage_that_learns_of_melodies_says_the_same_without_one():
    model = make_model(make_layout("semantic", ALIGNED))
    spec = TokenSpec(name="melody", num_quantizers=2, codebook_size=SIZE, frame_rate_hz=25)
    segment = melody_segment(spec, 3)
    extended = with_segment(model, segment, torch.Generator().manual_seed(5)).eval()
    codes = make_codes(model.layout, 20)
    absent = {**codes, "melody": torch.full((2, 2, 20), SIZE)}
    hummed = {**codes, "melody": make_codes(extended.layout, 20)["melody"]}
    with torch.no_grad():
        own = model.target_states(codes)
        torch.testing.assert_close(extended.target_states(absent), own)
        assert not torch.allclose(extended.target_states(hummed), own)
    forced = segment.model_copy(update={"is_optional": False})
    with pytest.raises(ConfigError, match="optional"):
        with_segment(model, forced, torch.Generator())


def noise(seconds=3.0, seed=0):
    return torch.randn(int(seconds * RATE), generator=torch.Generator().manual_seed(seed)) * 0.1


def test_bad_melodies_are_told_from_good_ones():
    def found(samples):
        waveform = Waveform(samples.float(), RATE)
        return diagnose(waveform, track_pitch(waveform))

    times = torch.arange(3 * RATE) / RATE
    hum = torch.from_numpy(sing(np.random.default_rng(1), line(seconds=3.0), 3.0, "hum", RATE))
    whistle = sing(np.random.default_rng(1), line(seconds=3.0), 3.0, "whistle", RATE)
    assert found(hum) == "melody"
    assert found(torch.from_numpy(whistle)) == "melody"
    assert found(torch.zeros(3 * RATE)) == "silence"
    assert found(noise()) == "noise"
    assert found(noise() * torch.exp(-12 * (times % 0.5))) == "drums"
    assert found((hum * 100).clamp(-1, 1)) == "clipped"
    hz = 120 * 2 ** (0.7 * torch.sin(2 * torch.pi * 2.1 * times) * torch.sin(9 * times + 1))
    phase = 2 * torch.pi * torch.cumsum(hz / RATE, 0)
    speech = sum(torch.sin(n * phase) / n for n in range(1, 9)) * 0.1
    assert found(speech) == "speech"


def test_syllables_with_an_intonation_are_speech_although_some_rest_for_a_moment():
    # Phrases of 1.5 s fall by four semitones; every other syllable rises by three on its way.
    times = torch.arange(6 * RATE) / RATE
    rise = 3 * torch.exp(-0.5 * (((times % 0.45) - 0.2) / 0.08) ** 2)
    hz = 120 * 2 ** ((rise - 4 * (times % 1.5) / 1.5) / 12)
    phase = 2 * torch.pi * torch.cumsum(hz / RATE, 0)
    syllables = (torch.sin(2 * torch.pi * 4.5 * times) > -0.6).float()
    voiced = sum(torch.sin(n * phase) / n for n in range(1, 12)) * syllables
    waveform = Waveform(0.1 * voiced + 0.02 * noise(6.0) * (1 - syllables), RATE)
    assert diagnose(waveform, track_pitch(waveform)) == "speech"


def test_a_long_recording_is_tracked_in_blocks_like_a_whole(monkeypatch):
    waveform = Waveform(noise(5.0), RATE)
    whole = track_pitch(waveform)
    monkeypatch.setattr("musiclm.audio.pitch._BLOCK_FRAMES", 100)
    blocks = track_pitch(waveform)
    torch.testing.assert_close(blocks.levels, whole.levels)
    torch.testing.assert_close(blocks.clarity, whole.clarity)
    assert torch.equal(blocks.pitches, whole.pitches)


def test_a_recording_too_loud_is_found_at_any_level_and_a_sine_is_not_one():
    hum = torch.from_numpy(sing(np.random.default_rng(1), line(seconds=3.0), 3.0, "hum", RATE))
    cut = (4 * hum / hum.abs().max()).clamp(-1, 1)
    assert is_clipped(cut)
    assert is_clipped(0.2 * cut)
    assert not is_clipped(hum)
    assert not is_clipped(0.9 * torch.sin(2 * torch.pi * 440 * torch.arange(3 * RATE) / RATE))
    assert not is_clipped(torch.zeros(RATE))


def test_music_of_several_instruments_is_a_melody_and_what_only_strikes_is_not():
    # No two tones here have a common period that autocorrelation could find.
    times = torch.arange(4 * RATE) / RATE
    band = torch.zeros(4 * RATE)
    for number, pitch in enumerate((43.2, 55.1, 62.4, 66.7, 70.3, 75.9)):
        hz = 440 * 2 ** ((pitch - 69) / 12)
        stroke = torch.exp(-2 * ((times + 0.13 * number) % 0.6))
        band += stroke * sum(torch.sin(2 * torch.pi * hz * n * times) / n for n in (1, 2, 3))
    strokes = 3 * noise(4.0) * torch.exp(-12 * (times % 0.5))
    mixed = Waveform(0.1 * band + 0.3 * strokes, RATE)
    assert float((track_pitch(mixed).clarity > 0.8).float().mean()) < 0.25
    assert diagnose(mixed, track_pitch(mixed)) == "melody"
    assert held_tones(mixed) > 0.5
    for other in (strokes, noise(4.0), noise(4.0).cumsum(0), torch.zeros(100)):
        assert held_tones(Waveform(other, RATE)) < 0.1


def test_silent_ends_are_trimmed():
    hum = torch.from_numpy(sing(np.random.default_rng(1), line(seconds=3.0), 3.0, "whistle", RATE))
    gap = torch.zeros(2 * RATE)
    padded = Waveform(torch.cat([gap, hum, gap]), RATE)
    first, count = sounding_part(padded, track_pitch(padded))
    assert 1.8 < first / RATE < 2.5
    assert 2.5 < count / RATE < 3.5


@pytest.mark.parametrize("snr_db", [40, 20, 12])
def test_a_microphones_noise_and_knocks_are_trimmed_like_silence(snr_db):
    rate = 48_000
    hum = sing(np.random.default_rng(3), line(seconds=5.0), 5.0, "hum", rate)
    hiss = np.random.default_rng(0).standard_normal((2, 12 * rate)).astype(np.float32)
    hiss *= np.sqrt((hum**2).mean()) * 10 ** (-snr_db / 20) * 2**0.5
    recorded = hiss
    recorded[:, 3 * rate : 8 * rate] += hum
    recorded[:, rate // 2 : rate // 2 + 200] += 0.5
    mixed = Waveform(torch.from_numpy(recorded.mean(axis=0)), rate)
    track = track_pitch(mixed)
    assert diagnose(mixed, track) == "melody"
    assert 4.6 < sounding_part(mixed, track)[1] / rate < 5.4


def test_a_melody_is_recalled_in_another_key_and_a_little_late():
    notes = [MelodyNote(i / 3, (i + 0.9) / 3, n.pitch) for i, n in enumerate(melody_notes(0, 4.0))]
    posteriors = np.zeros((int(5 * 22_050 / 256), 88), np.float32)
    for note in notes:
        first = int((note.start_seconds + 0.3) * 22_050 / 256)
        posteriors[first : first + 20, round(note.pitch) - 21 + 5] = 0.9
    assert sounding_recall(posteriors, notes) == 1.0
    wrong = [
        MelodyNote(n.start_seconds, n.end_seconds, 60 + 6 * (i % 2)) for i, n in enumerate(notes)
    ]
    assert sounding_recall(posteriors, wrong) < 0.7
    heard = notes_of(posteriors)
    assert [note.pitch for note in heard] == [round(note.pitch) + 5 for note in notes]


def test_notes_are_recalled_where_they_begin_at_their_pitch():
    notes = [MelodyNote(0.5 * i, 0.5 * i + 0.4, 60 + 2 * i) for i in range(8)]

    def played(semitones, late_seconds=0.0):
        return [
            HeardNote(note.start_seconds + late_seconds, 4.5, int(note.pitch) + semitones, 1.0)
            for note in notes
        ]

    assert note_recall(played(0), notes, 4.5) == 1.0
    assert note_recall(played(-12, 0.3), notes, 4.5) == 1.0
    assert note_recall(played(5), notes, 4.5) < 0.5
    assert note_recall(played(5, 0.3), notes, 4.5, transpositions=ANY_KEY) == 1.0
    assert note_recall(played(0, 0.7), notes, 4.5) < 0.5
    # Half of the notes an octave up: the melody moves as a whole or not at all.
    broken = [*played(0)[::2], *played(12)[1::2]]
    assert note_recall(broken, notes, 4.5) == 0.5
    # A chord that only sounds on has one beginning.
    cluster = [HeardNote(0.0, 4.5, pitch, 1.0) for pitch in range(48, 96)]
    assert note_recall(cluster, notes, 4.5) == 1 / 8
    assert note_recall([], notes, 4.5) == 0.0
    assert note_recall(played(0), notes, 0.0) == 0.0


def test_ratios_keep_pairs_together():
    generator = RandomStreams(0).generator("ratio")
    ratio = ratio_estimate([0.8, 0.4, 0.6], [0.4, 0.2, 0.3], generator)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((2.0, 2.0, 2.0))


def test_notes_become_a_midi_file(tmp_path):
    symusic = pytest.importorskip("symusic")
    posteriors = np.zeros((100, 88), np.float32)
    posteriors[10:50, 60 - 21] = 0.8
    posteriors[60:90, 64 - 21] = 0.5
    Transcript(notes_of(posteriors)).write(tmp_path / "a.mid")
    notes = symusic.Score(str(tmp_path / "a.mid")).to("second").tracks[0].notes
    assert [note.pitch for note in notes] == [60, 64]
    ends = [note.end for note in notes]
    assert ends == pytest.approx([50 * 256 / 22_050, 90 * 256 / 22_050], abs=0.01)


def test_ranks_find_the_own_item():
    items = [torch.eye(4)[[i]] for i in range(4)]
    assert melody_ranks(items[:2], items) == [1, 1]
    assert melody_ranks([items[1]], items) == [4]  # ties count against it


def test_a_click_is_a_seam_and_smooth_music_has_none():
    samples = noise(20.0)
    smooth = measure_seams(Waveform(samples, RATE), [5.0, 10.0, 15.0])
    assert smooth.num_seams == 3
    assert smooth.flux_ratio == pytest.approx(1.0, abs=0.25)
    rough = samples.clone()
    for second in (5, 10, 15):
        rough[second * RATE : second * RATE + 300] *= 30
    assert measure_seams(Waveform(rough, RATE), [5.0, 10.0, 15.0]).flux_ratio > 2
    stepped = samples.clone()
    stepped[10 * RATE :] *= 10
    assert measure_seams(Waveform(stepped, RATE), [10.0]).level_ratio > 5
