"""Judges from a user's own weights: VGGish's shapes and front end, CLAP and AST when installed."""

import pytest
import torch
from safetensors.torch import save_file

from musiclm.audio.waveform import Waveform
from musiclm.core.errors import CheckpointError
from musiclm.evaluation.analysis import TextAudioModel
from musiclm.evaluation.embedders import Embedder
from musiclm.evaluation.pretrained_judges import TransformersJudge
from musiclm.evaluation.vggish import VGGish


def noise(seconds: float, rate: int = 16_000) -> Waveform:
    generator = torch.Generator().manual_seed(0)
    return Waveform(0.3 * torch.randn(int(seconds * rate), generator=generator), rate)


@pytest.fixture(scope="module")
def vggish_file(tmp_path_factory):
    """Weights in the names of the PyTorch port, with its PCA, most of them zero."""
    path = tmp_path_factory.mktemp("vggish") / "vggish.safetensors"
    state = {name: torch.zeros_like(value) for name, value in VGGish().state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    for name, value in state.items():
        if name.startswith("features"):
            value.normal_(0, 0.1, generator=generator)
    state["embeddings.0.weight"][:128, :512] = torch.eye(128).repeat(1, 4)
    state["embeddings.2.weight"][:128, :128] = torch.eye(128)
    state["embeddings.4.weight"][:, :128] = torch.eye(128)
    save_file({**state, "pproc.pca_means": torch.zeros(128, 1)}, path)
    return path


def test_vggish_has_the_published_size_and_one_row_each_half_second(vggish_file):
    model = VGGish.load(vggish_file)
    assert sum(parameter.numel() for parameter in model.parameters()) == 72_141_184
    rows = model.embed(noise(2.5))
    assert rows.shape == (4, 128)
    assert isinstance(model, Embedder)
    assert float(rows.std()) > 0
    assert torch.equal(model.embed(noise(2.5)), rows)


def test_vggish_bands_are_found_where_htk_puts_them(vggish_file):
    filters = VGGish.load(vggish_file).get_buffer("filters")
    assert filters.shape == (64, 257)
    mel = 1127 * torch.log1p(torch.tensor([125.0, 7500.0]) / 700)
    middle_hz = 700 * torch.expm1((mel[0] + (mel[1] - mel[0]) * 32 / 65) / 1127)
    assert abs(int(filters[31].argmax()) - float(middle_hz) / 31.25) < 1


def test_vggish_refuses_other_weights(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="another model"):
        VGGish.load(tmp_path / "other.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="no VGGish weights"):
        VGGish.load(tmp_path / "broken.safetensors")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_ast_gives_embeddings_and_class_logits(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.ASTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_length=128,
        num_mel_bins=32,
        num_labels=5,
    )
    transformers.ASTForAudioClassification(config).save_pretrained(tmp_path)
    transformers.ASTFeatureExtractor(max_length=128, num_mel_bins=32).save_pretrained(tmp_path)
    judge = TransformersJudge("ast", tmp_path)
    assert isinstance(judge, Embedder)
    assert judge.embed(noise(2.0, 24_000)).shape == (3, 16)
    assert judge.class_logits(noise(2.0)).shape == (5,)
    assert len(judge.tags) == 5
    assert torch.equal(judge.embed(noise(2.0)), judge.embed(noise(2.0)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_clap_is_an_embedder_and_a_joint_space(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.ClapConfig(
        text_config={**sizes, "intermediate_size": 16, "vocab_size": 300, "projection_dim": 8},
        audio_config={
            "patch_embeds_hidden_size": 8,
            "hidden_size": 16,
            "depths": [1, 1],
            "num_attention_heads": [2, 2],
            "num_hidden_layers": 2,
            "spec_size": 64,
            "num_mel_bins": 16,
            "window_size": 4,
            "projection_dim": 8,
            "enable_fusion": False,
        },
        projection_dim=8,
    )
    transformers.ClapModel(config).save_pretrained(tmp_path)
    transformers.ClapFeatureExtractor(
        feature_size=16,
        sampling_rate=8_000,
        hop_length=80,
        fft_window_size=256,
        frequency_max=4000,
        max_length_s=2,
        truncation="rand_trunc",
    ).save_pretrained(tmp_path)
    letters = ["<s>", "<pad>", "</s>", "<unk>", "a", "b", "c"]
    vocab = {letter: number for number, letter in enumerate(letters)}
    transformers.RobertaTokenizer(vocab=vocab, merges=[]).save_pretrained(tmp_path)
    judge = TransformersJudge("clap", tmp_path)
    assert isinstance(judge, Embedder)
    assert isinstance(judge, TextAudioModel)
    assert judge.embed(noise(2.0)).shape == (3, 8)
    joint = judge.embed_audio(noise(1.0, 8_000).samples[None])
    long = noise(3.0, 8_000).samples[None]
    assert torch.equal(judge.embed_audio(long), judge.embed_audio(long))
    text = judge.embed_text(["abc", "a"])
    assert joint.shape == (1, 8)
    assert torch.allclose(text.norm(dim=1), torch.ones(2), atol=1e-5)


def test_absent_weights_are_one_clear_line(tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed")
    with pytest.raises(CheckpointError, match="No CLAP weights"):
        TransformersJudge("clap", tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="no usable AST"):
        TransformersJudge("ast", tmp_path)
