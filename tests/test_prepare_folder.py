"""A folder of audio files becomes a corpus; bad files are named and left out."""

import json

import numpy as np
import pytest
import soundfile
import torch

from musiclm.audio.waveform import Waveform
from musiclm.core.errors import DataError
from musiclm.data.corpora.folder import FolderSettings, corpus_from_folder, split_of
from musiclm.data.manifest import Corpus
from musiclm.data.quality import duplicates, fingerprint, quality_flags


def tones(seed, seconds=3.0, rate=24_000):
    draw = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    parts = [np.sin(2 * np.pi * f * time * (1 + 0.1 * time)) for f in draw.uniform(80, 4000, 6)]
    envelope = 0.5 + 0.5 * np.sin(2 * np.pi * draw.uniform(0.5, 4) * time)
    return (0.1 * sum(parts) * envelope).astype(np.float32)


def wave(samples, rate=24_000):
    return Waveform(torch.from_numpy(np.asarray(samples, dtype=np.float32)), rate)


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "music"
    for artist in ("ann", "bob"):
        (folder / artist).mkdir(parents=True)
    stereo = np.stack([tones(1, rate=44_100), tones(2, rate=44_100)], axis=1)
    soundfile.write(folder / "ann" / "one.wav", stereo, 44_100)
    soundfile.write(folder / "ann" / "two.flac", tones(3), 24_000)
    soundfile.write(folder / "bob" / "three.ogg", tones(4, rate=48_000), 48_000)
    soundfile.write(folder / "top.wav", tones(5), 24_000)
    (folder / "ann" / "one.txt").write_text("a calm harp\nslow, harp, calm\n")
    (folder / "ann" / "two.json").write_text(json.dumps({"captions": ["It is fast. It is loud."]}))
    (folder / "metadata.csv").write_text('file_name,caption\nbob/three.ogg,"a trumpet"\n')
    return folder


def test_a_folder_becomes_a_corpus(source, tmp_path):
    result = corpus_from_folder(source, tmp_path / "corpus", FolderSettings(licence="CC0"))
    assert result.left_out == ()
    clips = {clip.source: clip for clip in result.corpus.clips}
    assert set(clips) == {"ann/one.wav", "ann/two.flac", "bob/three.ogg", "top.wav"}
    for clip in clips.values():
        audio = result.corpus.audio(clip)
        assert audio.sample_rate_hz == clip.sample_rate_hz == 24_000
        assert audio.duration_seconds == pytest.approx(3.0, abs=0.01)
        assert clip.licence == "CC0"
    kinds = [(c.text, c.kind) for c in clips["ann/one.wav"].captions]
    assert kinds == [("a calm harp", "sentence"), ("slow, harp, calm", "tags")]
    assert clips["ann/two.flac"].captions[0].kind == "prose"
    assert clips["bob/three.ogg"].captions[0].text == "a trumpet"
    assert clips["ann/one.wav"].split == clips["ann/two.flac"].split == split_of("ann")


def test_it_can_be_run_again_and_converts_only_what_is_new(source, tmp_path):
    dest = tmp_path / "corpus"
    first = corpus_from_folder(source, dest, FolderSettings())
    times = {c.path: (dest / c.path).stat().st_mtime_ns for c in first.corpus.clips}
    soundfile.write(source / "bob" / "four.wav", tones(6), 24_000)
    second = corpus_from_folder(source, dest, FolderSettings())
    assert len(second.corpus.clips) == len(first.corpus.clips) + 1
    assert all((dest / path).stat().st_mtime_ns == time for path, time in times.items())
    assert set(first.corpus.clips) <= set(second.corpus.clips)
    assert Corpus.open(dest).clips == second.corpus.clips


def test_bad_files_are_left_out_each_with_a_reason(source, tmp_path):
    (source / "broken.wav").write_bytes(b"RIFF nothing")
    (source / "empty.mp3").write_bytes(b"")
    soundfile.write(source / "silent.wav", np.zeros(48_000), 24_000)
    soundfile.write(source / "short.wav", tones(7, 0.2), 24_000)
    soundfile.write(source / "copy.wav", tones(5) * 0.5, 24_000)
    soundfile.write(source / "nan.wav", np.full(48_000, np.nan), 24_000, subtype="FLOAT")
    result = corpus_from_folder(source, tmp_path / "corpus", FolderSettings())
    reasons = {item.path.name: item.reason for item in result.left_out}
    assert len(result.corpus.clips) == 4
    assert set(reasons) == {
        "broken.wav", "empty.mp3", "silent.wav", "short.wav", "nan.wav", "top.wav",
    }  # fmt: skip
    assert "silent" in reasons["silent.wav"]
    assert "too short" in reasons["short.wav"]
    assert "same recording" in reasons["top.wav"]
    assert all("\n" not in reason for reason in reasons.values())


def test_nothing_usable_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no folder"):
        corpus_from_folder(tmp_path / "absent", tmp_path / "corpus", FolderSettings())
    (tmp_path / "music").mkdir()
    (tmp_path / "music" / "broken.wav").write_bytes(b"x")
    with pytest.raises(DataError, match="no usable audio"):
        corpus_from_folder(tmp_path / "music", tmp_path / "corpus", FolderSettings())
    assert not (tmp_path / "corpus" / "manifest.jsonl").exists()


def test_metadata_without_file_names_is_an_error(source, tmp_path):
    (source / "metadata.csv").write_text("name,caption\nx.wav,nice\n")
    with pytest.raises(DataError, match="file_name"):
        corpus_from_folder(source, tmp_path / "corpus", FolderSettings())


def test_split_by_file_does_not_look_at_folders(tmp_path):
    for index in range(12):
        (tmp_path / "music" / "ann").mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "music" / "ann" / f"{index}.wav", tones(index, 1.5), 24_000)
    settings = FolderSettings(split_by="file")
    clips = corpus_from_folder(tmp_path / "music", tmp_path / "corpus", settings).corpus.clips
    assert [clip.split for clip in clips] == [split_of(clip.source) for clip in clips]


def test_quality_flags():
    good = tones(1)
    assert quality_flags(wave(good)) == ()
    assert quality_flags(wave(np.zeros(24_000))) == ("silent",)
    assert "too short" in quality_flags(wave(good[:9_000]))
    assert quality_flags(wave(np.full(24_000, np.inf))) == ("not finite",)
    assert "clipped" in quality_flags(wave(np.clip(good * 20, -1, 1)))
    assert "offset" in quality_flags(wave(good * 0.3 + 0.2))
    quiet = np.concatenate([good[:12_000], np.zeros(60_000, dtype=np.float32)])
    assert "mostly silent" in quality_flags(wave(quiet))


def test_fingerprints_find_copies_and_nothing_else():
    prints = [fingerprint(wave(tones(seed))) for seed in range(8)]
    noise = np.random.default_rng(0).standard_normal(len(tones(3))).astype(np.float32)
    prints.append(fingerprint(wave(tones(3) * 0.3 + 1e-5 * noise)))
    assert duplicates(prints) == [(8, 3)]
    assert duplicates([]) == []
