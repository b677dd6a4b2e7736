"""MusicCaps and caption files: what is there is imported, what is missing is said."""

import csv
import json
from pathlib import Path

import pytest
import torch

from musiclm.audio.waveform import Waveform
from musiclm.core.errors import DataError
from musiclm.data.corpora.captions import read_captions
from musiclm.data.corpora.musiccaps import COLUMNS, corpus_from_musiccaps, read_musiccaps
from musiclm.data.manifest import Corpus

RATE = 8_000
ROWS = (
    ("-0Gj8-vB1q4", 30, 40, "['sad', 'piano']", 'A slow, "sad" piano.\nIt rains.', False, True),
    ("abc_def-123", 1, 3, "[]", "Drums.", True, True),
    ("zzzzzzzzzzz", 0, 10, "['loud']", "A loud band.", False, False),
)


@pytest.fixture
def published(tmp_path) -> Path:
    """A file in the published format: quotes, commas and line breaks in captions."""
    path = tmp_path / "musiccaps-public.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for ytid, start, end, aspects, caption, balanced, is_eval in ROWS:
            writer.writerow(
                [ytid, start, end, "/m/0140xf,/m/02cjck", aspects, caption, 4, balanced, is_eval]
            )
    return path


def tone(seconds: float, hz: float = 440.0) -> Waveform:
    times = torch.arange(round(seconds * RATE)) / RATE
    return Waveform(0.3 * torch.sin(2 * torch.pi * hz * times), RATE)


def test_rows_are_read_with_their_types(published):
    rows = read_musiccaps(published)
    assert [row.ytid for row in rows] == [row[0] for row in ROWS]
    assert rows[0].aspect_list == ("sad", "piano")
    assert rows[0].audioset_positive_labels == ("/m/0140xf", "/m/02cjck")
    assert (rows[1].is_balanced_subset, rows[1].is_audioset_eval) == (True, True)
    assert (rows[0].start_s, rows[0].end_s, rows[0].author_id) == (30, 40, 4)


def test_clips_that_are_there_become_a_corpus_and_missing_ones_are_said(published, tmp_path):
    clips = tmp_path / "clips"
    tone(10).write(clips / "deep" / "-0Gj8-vB1q4_30.wav")
    whole = torch.cat([tone(1, 110).samples, tone(2, 880).samples, tone(4, 110).samples])
    Waveform(whole, RATE).write(clips / "abc_def-123.flac")
    result = corpus_from_musiccaps(published, clips, tmp_path / "corpus")
    assert result.missing == ("zzzzzzzzzzz",)
    assert result.unusable == {}
    corpus = Corpus.open(tmp_path / "corpus")
    by_id = {clip.clip_id: clip for clip in corpus.clips}
    assert set(by_id) == {"-0Gj8-vB1q4", "abc_def-123"}
    assert all(clip.split == "test" for clip in corpus.clips)
    assert [c.kind for c in by_id["-0Gj8-vB1q4"].captions] == ["prose", "tags"]
    cut = corpus.audio(by_id["abc_def-123"])  # the whole video was given: seconds 1 to 3 of it
    assert cut.duration_seconds == pytest.approx(2)
    loudest = int(torch.fft.rfft(cut.samples).abs().argmax())
    assert loudest / cut.duration_seconds == pytest.approx(880, rel=0.01)


def test_a_second_import_converts_nothing_again(published, tmp_path):
    clips = tmp_path / "clips"
    tone(10).write(clips / "zzzzzzzzzzz.wav")
    corpus_from_musiccaps(published, clips, tmp_path / "corpus")
    path = tmp_path / "corpus" / "audio" / "zzzzzzzzzzz.flac"
    before = path.stat().st_mtime_ns
    seen: list[tuple[int, int]] = []
    corpus_from_musiccaps(
        published, clips, tmp_path / "corpus", on_row=lambda done, total: seen.append((done, total))
    )
    assert path.stat().st_mtime_ns == before
    assert seen[-1] == (3, 3)


def test_unusable_audio_is_said_and_does_not_stop_the_rest(published, tmp_path):
    clips = tmp_path / "clips"
    tone(10).write(clips / "zzzzzzzzzzz.wav")
    (clips / "abc_def-123.wav").write_bytes(b"no audio at all")
    result = corpus_from_musiccaps(published, clips, tmp_path / "corpus")
    assert list(result.unusable) == ["abc_def-123"]
    assert result.missing == ("-0Gj8-vB1q4",)


def test_malformed_input_is_told(published, tmp_path):
    with pytest.raises(DataError, match="No MusicCaps file"):
        read_musiccaps(tmp_path / "none.csv")
    other = tmp_path / "other.csv"
    other.write_text("ytid,caption\na,b\n")
    with pytest.raises(DataError, match="no column 'start_s'"):
        read_musiccaps(other)
    text = published.read_text().replace("['loud']", "not a list")
    other.write_text(text)
    with pytest.raises(DataError, match="row 4 is malformed"):
        read_musiccaps(other)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no audio of the 3 rows"):
        corpus_from_musiccaps(published, tmp_path / "empty", tmp_path / "corpus")
    with pytest.raises(DataError, match="is no folder"):
        corpus_from_musiccaps(published, tmp_path / "nowhere", tmp_path / "corpus")


def test_captions_alone_are_read_from_the_same_file(published):
    rows = read_captions(published)
    assert [row.row_id for row in rows] == [row[0] for row in ROWS]
    assert rows[0].text == 'A slow, "sad" piano. It rains.'


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "one song\n\n  two   songs \n"),
        ("a.csv", "text\none song\ntwo songs\n"),
        ("a.json", json.dumps(["one song", {"prompt": "two songs"}])),
        ("a.jsonl", '{"caption": "one song"}\n"two songs"\n'),
    ],
)
def test_captions_of_every_kind(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    assert [row.text for row in read_captions(path)] == ["one song", "two songs"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "\n \n", "holds no captions"),
        ("a.csv", "title\nx\n", "row without a caption"),
        ("a.json", "{", "cannot be read"),
        ("a.xml", "<a/>", "is no caption file"),
        ("a.json", "[3]", "row without a caption"),
    ],
)
def test_odd_caption_files_are_told(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_captions(path)
    with pytest.raises(DataError, match="No caption file"):
        read_captions(tmp_path / "none.txt")
