"""Prompts beyond a sentence, on a model with random weights: what is kept, changed and refused."""

import json
import warnings
from dataclasses import replace

import pytest
import torch

from musiclm.audio.waveform import Waveform
from musiclm.cli.main import main
from musiclm.core.errors import PromptError
from musiclm.generation.candidates import ranked, similarity
from musiclm.generation.gathering import gather
from musiclm.generation.mixing import clip_embedding, mixed_embedding, text_embedding
from musiclm.generation.musiclm import MusicLM
from musiclm.generation.prompt import GenerationSettings
from musiclm.generation.request import (
    GenerationRequest,
    make_request,
    parse_story,
    parse_style_part,
)
from musiclm.generation.token_file import TokenSet
from tests.support.bundle import write_random_bundle
from tests.support.corpus import tune


@pytest.fixture(scope="module")
def folder(tmp_path_factory, unchecked):
    return write_random_bundle(tmp_path_factory.mktemp("prompts") / "model")


@pytest.fixture(scope="module")
def model(folder):
    return MusicLM.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "clip.wav"
    tune(2, 3.0)[0].write(path)
    return path


def test_a_story_file_becomes_sections():
    text = "# a walk\n0:00  calm piano\n\n0:15 drums enter\n1:02:03.5 the end\n"
    sections = parse_story(text)
    assert [section.start_seconds for section in sections] == [0.0, 15.0, 3723.5]
    assert sections[1].text == "drums enter"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no section"),
        ("calm piano", "line 1"),
        ("0:05 calm piano", "0:00"),
        ("0:00 a\n0:00 b", "line 2"),
        ("0:00 a\n0:75 b", "line 2"),
    ],
)
def test_a_story_that_is_none_says_which_line(text, said):
    with pytest.raises(PromptError, match=said) as caught:
        parse_story(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "part", ["jazz", "x:jazz", "0:jazz", "nan:jazz", "99:jazz", "1:", "1:@no.wav"]
)
def test_a_part_of_a_mix_needs_a_weight_and_something_to_weigh(part):
    with pytest.raises(PromptError):
        parse_style_part(part)


def test_a_mix_is_a_weighted_sum_of_texts_and_clips(model, clip):
    conditioner = model.conditioner
    parts = [parse_style_part(text) for text in ("0.7:jazz", "-0.3:drums", f"0.5:@{clip}")]
    wanted = (
        0.7 * text_embedding(conditioner, "jazz")
        - 0.3 * text_embedding(conditioner, "drums")
        + 0.5 * clip_embedding(conditioner, Waveform.read(clip))
    )
    mixed = mixed_embedding(conditioner, parts)
    torch.testing.assert_close(mixed, wanted / wanted.norm())
    alone = mixed_embedding(conditioner, parts[:1])
    torch.testing.assert_close(alone, text_embedding(conditioner, "jazz"))
    with pytest.raises(PromptError, match="below 0"):
        mixed_embedding(conditioner, parts[1:2])
    with pytest.raises(PromptError, match="cancel"):
        mixed_embedding(conditioner, [parse_style_part("1:a"), parse_style_part("-1:a")])


def test_a_mix_may_only_lead_away_from_something_where_a_prompt_says_what_to_play(model):
    away = make_request(mix=["-0.5:drums"])
    assert away.needs_text
    assert not make_request(mix=["0.5:drums"]).needs_text
    parts = [parse_style_part("1:calm"), *away.mix]
    wanted = model.conditioner.tokenizer.tokenize(mixed_embedding(model.conditioner, parts)[None])
    (span,) = gather(model, "calm", away, 4.0).material.spans
    assert torch.equal(span.codes, wanted)


def test_one_text_as_a_story_or_a_mix_is_the_text_itself(model):
    plain = gather(model, "calm", GenerationRequest(), 4.0).material
    told = gather(model, "", make_request(story=[(0, "calm")]), 4.0).material
    mixed = gather(model, "", make_request(mix=["2:calm"]), 4.0).material
    assert torch.equal(plain.spans[0].codes, told.spans[0].codes)
    assert torch.equal(plain.spans[0].codes, mixed.spans[0].codes)


def test_a_blend_moves_from_one_text_to_the_next_in_steps(model):
    request = make_request(story=[(0, "calm"), (10, "loud"), (30, "end")], blend_seconds=5.0)
    spans = gather(model, "", request, 40.0).material.spans
    assert [span.start_seconds for span in spans] == [0, 10, 12.5, 15, 30, 32.5, 35]
    loud = gather(model, "loud", GenerationRequest(), 4.0).material.spans[0].codes
    assert torch.equal(spans[3].codes, loud)
    with pytest.raises(PromptError, match="longer duration"):
        gather(model, "", request, 30.0)


def test_a_continuation_begins_with_the_clip_and_goes_on(model, clip):
    known = model.encode(Waveform.read(clip))
    piece = model.generate(duration_seconds=1.0, continue_from=clip)
    assert piece.waveform.num_samples == 4 * 24_000
    assert torch.equal(piece.tokens.acoustic[:, :150], known.acoustic)
    assert torch.equal(piece.tokens.semantic[:75], known.semantic)
    other = model.generate(duration_seconds=1.0, continue_from=clip, seed=1)
    assert not torch.equal(piece.tokens.acoustic, other.tokens.acoustic)


def test_kept_tokens_keep_the_tune_and_the_length(model, tmp_path):
    first = model.generate("calm", duration_seconds=1.5)
    first.tokens.write(tmp_path / "a.safetensors")
    again = model.generate(keep_from=tmp_path / "a.safetensors", seed=5)
    assert torch.equal(again.tokens.semantic, first.tokens.semantic)
    assert torch.equal(again.tokens.conditioning, first.tokens.conditioning)
    assert not torch.equal(again.tokens.acoustic, first.tokens.acoustic)
    assert again.waveform.num_samples == first.waveform.num_samples


def test_a_melody_changes_the_music_and_its_absence_leaves_it(model, clip, tmp_path):
    plain = model.generate("calm", duration_seconds=1.0)
    hummed = model.generate("calm", duration_seconds=1.0, melody=clip)
    assert not torch.equal(plain.tokens.semantic, hummed.tokens.semantic)
    Waveform(torch.zeros(48_000), 16_000).write(tmp_path / "silent.wav")
    with pytest.warns(UserWarning, match="silent"):
        silent = model.generate("calm", duration_seconds=1.0, melody=tmp_path / "silent.wav")
    assert torch.equal(plain.tokens.semantic, silent.tokens.semantic)


def test_melody_tokens_are_kept_in_a_file_and_say_the_tune_like_the_recording(
    model, clip, tmp_path
):
    silence = torch.zeros(24_000)
    recorded = Waveform(torch.cat([silence, Waveform.read(clip).samples, silence]), 24_000)
    recorded.write(tmp_path / "recorded.wav")
    tokens = model.encode(Waveform.read(tmp_path / "recorded.wav"))
    assert tokens.melody is not None
    assert tokens.melody.shape[1] == len(tokens.semantic)
    is_absent = tokens.melody == model.melody.token_spec.codebook_size
    assert is_absent[:, :20].all()
    assert is_absent[:, -18:].all()
    assert not is_absent[:, 25:95].any()
    tokens.write(tmp_path / "recorded.safetensors")
    read = TokenSet.read(tmp_path / "recorded.safetensors").melody
    assert read is not None
    assert torch.equal(read, tokens.melody)
    asked = [make_request(melody=tmp_path / f"recorded.{end}") for end in ("wav", "safetensors")]
    heard, kept = (gather(model, "calm", request, 6.0).material.frames for request in asked)
    assert torch.equal(heard["melody"], kept["melody"])


def test_a_piece_keeps_the_melody_it_was_made_with(model, clip, tmp_path):
    piece = model.generate("calm", duration_seconds=1.0, melody=clip)
    assert piece.tokens.melody is not None
    assert piece.tokens.melody.shape == (2, 25)
    piece.tokens.write(tmp_path / "a.safetensors")
    again = model.generate("calm", duration_seconds=1.0, melody=tmp_path / "a.safetensors")
    assert torch.equal(again.tokens.acoustic, piece.tokens.acoustic)
    assert model.generate("calm", duration_seconds=1.0).tokens.melody is None


def test_what_holds_no_melody_tokens_says_so(model, clip, tmp_path):
    silent = model.encode(Waveform(torch.zeros(48_000), 24_000))
    assert silent.melody is None
    silent.write(tmp_path / "silent.safetensors")  # like the files of before there were any
    assert TokenSet.read(tmp_path / "silent.safetensors").melody is None
    with pytest.raises(PromptError, match="no melody tokens"):
        model.generate("calm", melody=tmp_path / "silent.safetensors")
    for melody in (torch.zeros(5, 50), torch.full((2, 50), 30_000)):
        replace(silent, melody=melody.long()).write(tmp_path / "other.safetensors")
        with pytest.raises(PromptError, match="another model"):
            model.generate("calm", melody=tmp_path / "other.safetensors")


def test_a_melody_comes_again_in_longer_music_and_waits_for_what_is_continued(model, clip):
    request = make_request(melody=clip, continue_from=clip)
    melody = gather(model, "calm", request, 6.0).material.frames["melody"]
    size = model.melody.token_spec.codebook_size
    assert (melody[:, :, :75] == size).all()
    alone = gather(model, "calm", make_request(melody=clip), 6.0).material.frames["melody"]
    assert torch.equal(melody[:, :, 75:], alone[:, :, : melody.shape[2] - 75])
    assert alone.shape[2] >= 6 * 25


def test_a_melody_is_followed_as_closely_as_it_should_be(model, clip):
    def tokens(melody_guidance=None, melody=clip):
        settings = GenerationSettings(duration_seconds=1.0, melody_guidance=melody_guidance)
        piece = model.generate("calm", settings=settings, melody=melody)
        assert piece.settings.melody_guidance == melody_guidance
        return piece.tokens

    plain, close, loose = tokens(), tokens(5.0), tokens(0.0)
    assert torch.equal(tokens(1.0).acoustic, plain.acoustic)
    for other in (close, loose):
        assert torch.equal(other.semantic, plain.semantic)
        assert not torch.equal(other.acoustic, plain.acoustic)
    assert torch.equal(tokens(5.0, None).acoustic, tokens(melody=None).acoustic)


@pytest.mark.parametrize("melody_guidance", [None, 3.0])
def test_a_batch_may_follow_a_tune_each(model, clip, tmp_path, melody_guidance):
    other, silent = tmp_path / "other.wav", tmp_path / "silent.wav"
    tune(5, 3.0)[0].write(other)
    Waveform(torch.zeros(48_000), 16_000).write(silent)
    requests = [make_request(melody=path) for path in (clip, other, silent)]
    settings = GenerationSettings(duration_seconds=1.0, melody_guidance=melody_guidance)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        batch = model.generate_batch(
            ["calm"] * 3, seeds=[1, 2, 1], settings=settings, request=requests
        )
        for piece in batch:
            single = model.generate(
                "calm", seed=piece.seed, settings=settings, request=piece.request
            )
            assert torch.equal(single.tokens.acoustic, piece.tokens.acoustic)
    assert [piece.request for piece in batch] == requests
    assert not torch.equal(batch[0].tokens.semantic, batch[2].tokens.semantic)
    with pytest.raises(PromptError, match="different kinds"):
        model.generate_batch(
            ["calm"] * 2,
            seeds=[1, 2],
            settings=settings,
            request=[requests[0], GenerationRequest()],
        )


def test_a_model_without_melody_says_so(tmp_path, clip):
    plain = MusicLM.from_pretrained(
        write_random_bundle(tmp_path / "plain", has_melody=False), device="cpu"
    )
    with pytest.raises(PromptError, match="no melodies"):
        plain.generate("calm", melody=clip)


def test_similarity_of_a_story_compares_every_section_with_every_text(model):
    request = make_request(story=[(0, "calm"), (1, "loud")])
    piece = model.generate(duration_seconds=2.0, request=request)
    found = similarity(model.conditioner, piece.waveform, "", request)
    assert found is not None
    assert found.sections.shape == (2, 2)
    assert found.score == pytest.approx(float(found.sections.diagonal().mean()))
    assert ranked([0.1, 0.5, 0.5]) == [1, 2, 0]


def run(folder, *arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main(["generate", *map(str, arguments), "--model", str(folder), "--device", "cpu"])


def test_the_record_makes_every_kind_of_piece_again(folder, clip, tmp_path):
    story = tmp_path / "story.txt"
    story.write_text("0:00 calm\n0:01 loud\n")
    out = tmp_path / "a.wav"
    run(
        folder,
        *("--story", story, "--blend", 0.5, "--duration", 2),
        *("--melody", clip, "--melody-guidance", 3, "--output", out),
    )
    again = tmp_path / "b.wav"
    run(folder, "--from", out.with_suffix(".json"), "--output", again)
    assert again.read_bytes() == out.read_bytes()
    run(
        folder,
        *("--mix", "0.7:jazz", "--mix", "-0.3:drums", "--style-from", clip, "--duration", 0.5),
        *("--continue-from", clip, "--output", out),
    )
    run(folder, "--from", out.with_suffix(".json"), "--output", again)
    assert again.read_bytes() == out.read_bytes()
    record = json.loads(out.with_suffix(".json").read_text())
    assert [part["weight"] for part in record["request"]["mix"]] == [0.7, -0.3, 1.0]


def test_candidates_keep_the_best_and_say_the_scores(folder, tmp_path, capsys):
    out = tmp_path / "a.wav"
    run(folder, "calm", "--candidates", 3, "--duration", 0.5, "--output", out, "--seed", 4)
    said = [line for line in capsys.readouterr().err.splitlines() if "similarity" in line]
    assert len(said) == 3
    assert said[0].endswith("kept")
    record = json.loads(out.with_suffix(".json").read_text())
    assert f"seed {record['seed']}:" in said[0]
    assert f"{record['similarity']:.3f}" in said[0]


def test_a_file_that_changed_since_is_not_taken_for_the_same(folder, clip, tmp_path):
    own = tmp_path / "own.wav"
    own.write_bytes(clip.read_bytes())
    out = tmp_path / "a.wav"
    run(folder, "calm", "--duration", 0.5, "--melody", own, "--output", out)
    Waveform(torch.zeros(24_000), 24_000).write(own)
    with pytest.raises(SystemExit) as stop:
        run(folder, "--from", out.with_suffix(".json"), "--output", tmp_path / "b.wav")
    assert stop.value.code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["--story", "nowhere.txt"],
        ["calm", "--melody", "nowhere.wav"],
        ["calm", "--mix", "jazz"],
        ["--continue-from", "nowhere.wav"],
        ["--keep-from", "nowhere.safetensors"],
        ["calm", "--melody-guidance", "2"],
        ["calm", "--melody", "@clip", "--melody-guidance", "21"],
        ["calm", "--melody", "@clip", "--melody-guidance", "nan"],
        ["calm", "--candidates", "0"],
        ["calm", "--candidates", "2", "--batch", "2"],
        ["calm", "--blend", "-1"],
        ["calm", "--blend", "5"],
        ["--story", "@story", "--mix", "1:jazz"],
        ["--story", "@story", "--style-from", "@clip"],
        ["calm", "--melody", "@clip", "--keep-from", "@clip"],
        ["calm", "--keep-from", "@clip", "--duration", "5"],
        ["--continue-from", "@clip", "--candidates", "2"],
    ],
)
def test_impossible_requests_are_one_line(folder, clip, arguments, capsys, tmp_path, monkeypatch):
    (tmp_path / "story.txt").write_text("0:00 calm\n0:05 loud\n")
    files = {"@clip": clip, "@story": tmp_path / "story.txt"}
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    with pytest.raises(SystemExit) as stop:
        run(folder, *(files.get(argument, argument) for argument in arguments))
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not list((tmp_path / "work").iterdir())
    # Said before anything is made: no bar of progress was drawn.
    assert "semantic" not in error


def test_a_record_says_everything_itself(folder, clip, tmp_path, capsys):
    out = tmp_path / "a.wav"
    run(folder, "calm", "--duration", 0.5, "--output", out)
    refused = {
        "leave the prompt and what else to play out": ["loud"],
        "leave the prompt and what else to play, --seed out": ["--melody", clip, "--seed", 0],
        "leave --seed, --duration out": ["--seed", 3, "--duration", 1],
        "leave --temperature, --guidance, --levels out": [
            *("--temperature", 1, "--guidance", 1, "--levels", 2)
        ],
    }
    for said, asked in refused.items():
        capsys.readouterr()
        with pytest.raises(SystemExit):
            run(folder, *asked, "--from", out.with_suffix(".json"), "--output", tmp_path / "b.wav")
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    assert not (tmp_path / "b.wav").exists()


def test_a_batch_writes_the_tokens_of_every_piece(folder, tmp_path):
    options = ("--duration", 0.5, "--batch", 2, "--output", tmp_path / "a.wav")
    run(folder, "calm", *options, "--tokens", tmp_path / "t.safetensors")
    names = {"a-1.wav", "a-2.wav", "a-1.json", "a-2.json", "t-1.safetensors", "t-2.safetensors"}
    assert {path.name for path in tmp_path.iterdir()} == names
    first, second = (TokenSet.read(tmp_path / f"t-{number}.safetensors") for number in (1, 2))
    assert not torch.equal(first.acoustic, second.acoustic)
