"""Streams: the tokens and samples of the whole piece, made no earlier than they are asked for."""

import inspect
import io

import pytest
import torch

from musiclm.audio.waveform import Waveform
from musiclm.cli import streaming
from musiclm.codec.soundstream import SoundStream
from musiclm.core.errors import PromptError
from musiclm.core.runtime import RandomStreams
from musiclm.generation.cascade import Cascade
from musiclm.generation.material import ConditioningSpan, Material
from musiclm.generation.player import Player
from musiclm.generation.prompt import GenerationSettings
from musiclm.generation.record import GenerationRecord
from musiclm.generation.stream import MusicStream
from musiclm.recipes.tiny import tiny
from tests.support.stages import ALIGNED, SIZE, SUMMED, make_layout, make_model

SECONDS = 3.3
SETTINGS = GenerationSettings(duration_seconds=SECONDS)
STREAMS = [RandomStreams(1)]
NUM_FRAMES = 166  # whole semantic frames: 83 of them at 25 Hz


def make_cascade(num_threads):
    return Cascade(
        make_model(make_layout("semantic", SUMMED)),
        make_model(make_layout("coarse", ALIGNED), seed=1),
        make_model(make_layout("fine", ALIGNED), seed=2),
        num_threads=num_threads,
    )


@pytest.fixture(scope="module")
def cascade():
    return make_cascade(1)


def material(num_known=0):
    generator = torch.Generator().manual_seed(0)

    def codes(levels, frames):
        return torch.randint(0, SIZE, (1, levels, frames), generator=generator)

    known = {
        "semantic": codes(1, num_known // 2),
        "coarse": codes(2, num_known),
        "fine": codes(3, num_known),
    }
    return Material((ConditioningSpan(0.0, codes(3, 1)),), known=known if num_known else {})


@pytest.mark.parametrize("num_known", [0, 60])
@pytest.mark.parametrize("num_threads", [1, 2])
def test_streamed_tokens_are_those_of_the_whole(cascade, num_known, num_threads):
    given = material(num_known)
    semantic, acoustic = cascade.generate(given, SECONDS, SETTINGS, STREAMS)
    tokens = make_cascade(num_threads).stream(given, SECONDS, SETTINGS, STREAMS)
    blocks = list(tokens.acoustic)
    assert len(blocks) > 2
    assert acoustic.shape == (1, 5, NUM_FRAMES)
    assert torch.equal(torch.cat(blocks, dim=2), acoustic)
    assert torch.equal(tokens.semantic.upto(tokens.semantic.num_frames), semantic)


@pytest.mark.parametrize("num_known", [0, 60])
@pytest.mark.parametrize("num_levels", [1, 2, 3, 5])
def test_fewer_levels_are_the_first_of_all(cascade, num_known, num_levels):
    given = material(num_known)
    _, whole = cascade.generate(given, SECONDS, SETTINGS, STREAMS)
    settings = SETTINGS.model_copy(update={"num_levels": num_levels})
    _, fewer = cascade.generate(given, SECONDS, settings, STREAMS)
    assert torch.equal(fewer, whole[:, :num_levels])
    streamed = make_cascade(1).stream(given, SECONDS, settings, STREAMS)
    assert torch.equal(torch.cat(list(streamed.acoustic), dim=2), fewer)


def test_the_fine_stage_rests_when_nobody_hears_it():
    cascade = make_cascade(1)
    settings = SETTINGS.model_copy(update={"num_levels": 2})
    told: list[str] = []
    cascade.generate(
        material(), SECONDS, settings, STREAMS, progress=lambda stage, _: told.append(stage)
    )
    assert set(told) == {"semantic", "coarse"}
    too_many = SETTINGS.model_copy(update={"num_levels": 6})
    with pytest.raises(PromptError, match="choose 1 to 5"):
        cascade.generate(material(), SECONDS, too_many, STREAMS)


def test_a_caller_in_inference_mode_may_stream_from_a_second_thread(cascade):
    with torch.inference_mode():
        tokens = make_cascade(2).stream(material(60), SECONDS, SETTINGS, STREAMS)
        streamed = torch.cat(list(tokens.acoustic), dim=2)
    assert torch.equal(streamed, cascade.generate(material(60), SECONDS, SETTINGS, STREAMS)[1])


def test_nothing_is_made_before_it_is_asked_for(cascade):
    tokens = cascade.stream(material(), 30.0, SETTINGS, STREAMS)
    assert tokens.semantic.num_made == 0
    first = next(tokens.acoustic)
    assert first.shape == (1, 5, 50)
    assert tokens.semantic.num_made < 0.2 * tokens.semantic.num_frames


@pytest.fixture(scope="module")
def codec():
    with torch.random.fork_rng():
        return SoundStream(tiny().codec.task.codec).eval()


def music_stream(cascade, codec):
    record = GenerationRecord(
        prompt="a tune",
        seed=1,
        settings=SETTINGS,
        model_name="random",
        model_sha256="0",
        audio_sha256="",
        device="cpu",
    )
    tokens = cascade.stream(material(), SECONDS, SETTINGS, STREAMS)
    reports = []
    num_samples = round(SECONDS * codec.sample_rate_hz)
    return MusicStream(tokens, codec, num_samples, record, lambda *report: reports.append(report))


def test_streamed_audio_is_that_of_the_whole_sample_for_sample(cascade, codec):
    pieces = list(music_stream(cascade, codec))
    assert len(pieces) > 2
    streamed = torch.cat([piece.samples for piece in pieces])
    _, acoustic = cascade.generate(material(), SECONDS, SETTINGS, STREAMS)
    player = Player(codec, streamed.shape[0])
    whole = torch.cat([player.push(acoustic[0]), player.flush()])
    assert streamed.shape[0] == round(SECONDS * codec.sample_rate_hz)
    assert torch.equal(streamed, whole)


def test_a_stream_becomes_a_file_with_its_record(cascade, codec, tmp_path):
    path = tmp_path / "tune.wav"
    first_sound = streaming.write_stream(music_stream(cascade, codec), path, 0.0)
    assert first_sound > 0
    written = Waveform.read(path)
    streamed = torch.cat([piece.samples for piece in music_stream(cascade, codec)])
    torch.testing.assert_close(written.samples, streamed, atol=1 / 32_768, rtol=0)
    record = GenerationRecord.read(tmp_path / "tune.json")
    assert len(record.audio_sha256) == 64
    assert sorted(found.name for found in tmp_path.iterdir()) == ["tune.json", "tune.wav"]


def test_a_broken_stream_leaves_nothing(codec, tmp_path):
    def broken():
        yield Waveform(torch.zeros(100), 24_000)
        raise ValueError("no more")

    stream = broken()
    stream_like = type("Broken", (), {"sample_rate_hz": 24_000, "__iter__": lambda self: stream})()
    with pytest.raises(ValueError, match="no more"):
        inspect.unwrap(streaming.write_stream)(stream_like, tmp_path / "x.wav", 0.0)
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_gets_a_wav_file_of_open_length(cascade, codec):
    pipe = io.BytesIO()
    streaming._write_to(pipe, music_stream(cascade, codec), 0.0)
    data = pipe.getvalue()
    assert data[:4] == b"RIFF"
    assert data[36:40] == b"data"
    assert len(data) == 44 + 2 * round(SECONDS * codec.sample_rate_hz)


def test_only_wav_can_be_streamed(tmp_path):
    streaming.check_stream_output(tmp_path / "x.wav")
    streaming.check_stream_output(streaming.STANDARD_OUTPUT)
    with pytest.raises(PromptError, match=r"use a \.wav name"):
        streaming.check_stream_output(tmp_path / "x.ogg")
