"""Linear probes: they find what is there, only what is there, and always the same."""

import math
from pathlib import Path

import pytest
import torch

from musiclm.audio.spectrogram import LogMelConfig
from musiclm.audio.waveform import Waveform
from musiclm.core.errors import DataError
from musiclm.core.runtime import RandomStreams
from musiclm.data.manifest import Clip, Corpus, Labels, Note, write_manifest
from musiclm.evaluation.probes import (
    ProbeConfig,
    hot_frames,
    mel_representation,
    pooled,
    run_probes,
)

RATE = 8_000
CONFIG = ProbeConfig(
    sample_rate_hz=RATE,
    crop_seconds=2.0,
    num_fit_clips=24,
    num_test_clips=12,
    frames_per_clip=6,
    novelty_lags=20,
)
MEL = LogMelConfig(
    sample_rate_hz=RATE, window_length=1024, fft_size=1024, hop_length=80, num_mels=64, high_hz=4000
)


def _clip(number: int, folder: Path, draws: torch.Generator) -> Clip:
    """Notes of C, E or G#, pure or with overtones, at one of three tempi, with gaps."""
    tempo = (60.0, 120.0, 240.0)[number % 3]
    is_organ = number % 2 == 0
    beat = 60 / tempo
    pitches = torch.randint(0, 3, (math.ceil(2.4 / beat),), generator=draws)
    notes = [
        Note(start_seconds=i * beat, end_seconds=(i + 0.8) * beat, pitch=60 + 4 * int(pitch))
        for i, pitch in enumerate(pitches)
    ]
    times = torch.arange(int(2.4 * RATE)) / RATE
    samples = torch.zeros_like(times)
    for note in notes:
        sounding = (times >= note.start_seconds) & (times < note.end_seconds)
        for overtone in (1, 3, 5) if is_organ else (1,):
            hertz = overtone * 440 * 2 ** ((note.pitch - 69) / 12)
            samples += 0.1 * torch.sin(2 * math.pi * hertz * times) * sounding
    name = f"{number}.wav"
    Waveform(samples, RATE).write(folder / name)
    return Clip(
        clip_id=str(number),
        path=name,
        duration_seconds=2.4,
        sample_rate_hz=RATE,
        split="train" if number < 24 else "validation",
        labels=Labels(lead="organ" if is_organ else "flute", tempo_bpm=tempo),
        melody=tuple(notes),
    )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("probed")
    draws = RandomStreams(1).generator("clips")
    write_manifest(folder, [_clip(number, folder, draws) for number in range(36)])
    return Corpus.open(folder)


def loudest_bands(samples: torch.Tensor) -> torch.Tensor:
    """Tokens: the loudest of the mel bands of each frame."""
    return hot_frames(mel_representation(MEL)(samples)[0].argmax(dim=0), MEL.num_mels)


def test_mels_and_tokens_tell_what_noise_does_not(corpus: Corpus):
    noise = RandomStreams(2).generator("noise")
    representations = {
        "mel": mel_representation(MEL),
        "tokens": loudest_bands,
        "noise": lambda _: torch.randn(1, 8, 50, generator=noise),
    }
    report = run_probes(corpus, representations, CONFIG)
    assert report.scores["mel"]["pitch_class"].accuracy > 0.9
    assert report.scores["tokens"]["pitch_class"].accuracy > 0.9
    assert report.scores["mel"]["instrument"].accuracy > 0.9
    assert report.scores["mel"]["tempo"].accuracy > 0.8
    assert report.scores["noise"]["pitch_class"].accuracy < 0.6
    pitch = report.scores["mel"]["pitch_class"]
    assert (pitch.num_classes, report.scores["mel"]["instrument"].num_tested) == (3, 12)
    assert pitch.num_tested == pytest.approx(12 * 6, abs=6)
    table = report.markdown().splitlines()
    assert len(table) == 2 + len(representations) + 1
    assert f"{pitch.accuracy:.3f}" in table[2]
    gain = report.above("mel", "noise")
    assert gain["instrument"].low > 0
    assert gain["instrument"].mean == pytest.approx(
        report.scores["mel"]["instrument"].accuracy - report.scores["noise"]["instrument"].accuracy
    )


def test_several_crops_of_a_clip_share_its_labels_and_count_as_one(corpus: Corpus):
    """Crops of 1 s at 0.35 and 1.05 s of 2.4 s: all of a clip's frames and crops are its own."""
    config = CONFIG.model_copy(update={"crop_seconds": 1.0, "crops_per_clip": 2})
    seen: list[int] = []

    def mel(samples: torch.Tensor) -> torch.Tensor:
        seen.append(samples.shape[1])
        return mel_representation(MEL)(samples)

    report = run_probes(corpus, {"mel": mel}, config)
    scores = report.scores["mel"]
    assert seen == [RATE] * 2 * (24 + 12)
    assert scores["instrument"].num_tested == 2 * 12
    assert scores["pitch_class"].num_tested == pytest.approx(12 * 6, abs=8)
    assert scores["instrument"].accuracy > 0.9
    assert scores["pitch_class"].accuracy > 0.9
    for score in scores.values():
        assert len(score.by_clip) == 12
    halves = set(scores["tempo"].by_clip.values())
    assert halves <= {0.0, 0.5, 1.0}


def test_probes_can_be_scored_on_another_corpus(corpus: Corpus):
    representations = {"mel": mel_representation(MEL)}
    same = run_probes(corpus, representations, CONFIG)
    assert run_probes(corpus, representations, CONFIG, test_corpus=corpus) == same


def test_the_same_seed_gives_the_same_report(corpus: Corpus):
    representations = {"mel": mel_representation(MEL)}
    small = CONFIG.model_copy(update={"num_fit_clips": 18, "num_test_clips": 9})
    assert run_probes(corpus, representations, small) == run_probes(corpus, representations, small)


def test_pooling_knows_the_period_of_changes():
    frames = torch.zeros(3, 100)
    frames[:, ::10] = 1.0
    summary = pooled(frames, 30)
    assert summary.shape == (9 + 30,)
    correlation = summary[9:]
    assert correlation[9] > 0.7
    assert correlation[9] == pytest.approx(correlation.max())
    assert pooled(torch.zeros(3, 5), 30).shape == (39,)


def test_unlabelled_and_missing_clips_are_refused(corpus: Corpus):
    bare = tuple(clip.model_copy(update={"labels": Labels()}) for clip in corpus.clips)
    with pytest.raises(DataError, match="no labels to probe"):
        run_probes(Corpus(corpus.folder, bare), {"mel": mel_representation(MEL)}, CONFIG)
    with pytest.raises(DataError, match="no validation clips"):
        run_probes(corpus.split("train"), {"mel": mel_representation(MEL)}, CONFIG)
