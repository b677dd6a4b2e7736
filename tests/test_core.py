"""Core: configs that refuse nonsense, random streams, devices, whole files, weights on disk."""

import os
from pathlib import Path

import pytest
import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn

from musiclm.core.config import Config
from musiclm.core.errors import ConfigError, MusicLMError
from musiclm.core.files import write_text_whole
from musiclm.core.pretrained import (
    load_weights,
    read_config_json,
    save_weights,
    sha256_of_file,
)
from musiclm.core.runtime import RandomStreams, Runtime


class Inner(Config):
    size: int = Field(default=3, gt=0)
    """Some size."""


class Outer(Config):
    name: str
    """Some name."""
    inner: Inner = Inner()
    """Some part."""


def test_config_comes_back_from_json():
    config = Outer(name="a", inner=Inner(size=7))
    assert Outer.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{"name": "a", "nmae": 1}', "nmae"),
        ('{"name": "a", "inner": {"size": 0}}', r"inner\.size"),
        ("{}", "name"),
        ('{"name": ', "the whole"),
    ],
)
def test_config_says_what_is_wrong_and_where(text, place):
    with pytest.raises(ConfigError, match=f"Outer: {place}: ") as caught:
        Outer.from_json(text)
    assert "\n" not in str(caught.value)


def test_config_is_frozen():
    config = Outer(name="a")
    with pytest.raises(ValidationError, match="frozen"):
        config.name = "b"  # pyright: ignore[reportAttributeAccessIssue]  (the test)


def draws(streams: RandomStreams, *name: str | int) -> list[int]:
    return torch.randint(1_000_000, (4,), generator=streams.generator(*name)).tolist()


def test_streams_depend_on_seed_and_name_alone():
    assert draws(RandomStreams(1), "crops", 3) == draws(RandomStreams(1), "crops", 3)
    others = [
        draws(RandomStreams(1), "crops", 4),
        draws(RandomStreams(2), "crops", 3),
        draws(RandomStreams(1), "noise", 3),
        draws(RandomStreams(1), "crops"),
    ]
    assert draws(RandomStreams(1), "crops", 3) not in others
    assert len({tuple(draw) for draw in others}) == len(others)


def test_streams_are_the_same_on_every_machine():
    assert draws(RandomStreams(7), "golden") == [576484, 17714, 442590, 480761]


def test_streams_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    draws(RandomStreams(0), "a")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def threads_kept():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads_kept")
def test_runtime_chooses_the_cpu_with_the_threads_asked_for():
    runtime = Runtime.choose("cpu", num_threads=1)
    assert runtime.device == torch.device("cpu")
    assert torch.get_num_threads() == runtime.num_threads == 1
    assert Runtime.choose("cpu").num_threads == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cpu:0", "", "cuda:99"])
def test_unknown_devices_are_refused(device):
    with pytest.raises(ConfigError, match="Device"):
        Runtime.choose(device)


@pytest.mark.parametrize("num_threads", [0, -1])
def test_impossible_thread_counts_are_refused(num_threads):
    with pytest.raises(ConfigError, match="must be at least 1"):
        Runtime.choose("cpu", num_threads=num_threads)


def test_written_files_replace_whole_and_have_ordinary_rights(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    write_text_whole(path, "first")
    write_text_whole(path, "zweites Mal: ü")
    assert path.read_text(encoding="utf-8") == "zweites Mal: ü"
    assert list(path.parent.iterdir()) == [path]
    (tmp_path / "plain.txt").write_text("")
    assert path.stat().st_mode == (tmp_path / "plain.txt").stat().st_mode


class Small(nn.Module):
    """One of each kind of tensor."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.matrix = nn.Parameter(torch.randn(6, 50, generator=generator))
        self.vector = nn.Parameter(torch.randn(50, generator=generator))
        self.register_buffer("count", torch.tensor(seed))
        self.register_buffer("large", torch.tensor([1e6 + seed]))


def saved_and_loaded(path: Path, storage: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    source, target = Small(1), Small(2)
    save_weights(source, path, config_json='{"a": 1}', storage=storage)  # pyright: ignore[reportArgumentType]
    load_weights(target, path)
    return source.state_dict(), target.state_dict()


def test_float32_weights_are_exact(tmp_path):
    source, target = saved_and_loaded(tmp_path / "w.safetensors", "float32")
    assert all(torch.equal(source[name], target[name]) for name in source)
    assert read_config_json(tmp_path / "w.safetensors") == '{"a": 1}'


def test_a_module_may_go_without_a_part_of_the_file_that_is_named(tmp_path):
    path, target = tmp_path / "w.safetensors", Small(2)
    whole = Small(1)
    whole.register_buffer("luxury", torch.ones(3))
    save_weights(whole, path, config_json="{}")
    with pytest.raises(MusicLMError, match="luxury"):
        load_weights(target, path)
    load_weights(target, path, spare=["luxury"])
    assert torch.equal(target.matrix, whole.matrix)
    assert "luxury" not in target.state_dict()


@pytest.mark.parametrize("storage", ["float16", "int8"])
def test_small_storage_is_close_and_keeps_what_does_not_fit(tmp_path, storage):
    source, target = saved_and_loaded(tmp_path / "w.safetensors", storage)
    largest = source["matrix"].abs().amax(dim=1, keepdim=True)
    step = largest / 127 if storage == "int8" else largest / 1024
    assert ((source["matrix"] - target["matrix"]).abs() <= step / 2 + 1e-6).all()
    torch.testing.assert_close(target["vector"], source["vector"], rtol=1e-3, atol=1e-6)
    assert torch.equal(target["count"], source["count"])
    assert torch.equal(target["large"], source["large"])
    assert all(tensor.dtype != torch.float16 for tensor in target.values())


def test_storage_kinds_shrink(tmp_path):
    sizes: list[int] = []
    for storage in ("float32", "float16", "int8"):
        path = tmp_path / f"{storage}.safetensors"
        save_weights(nn.Linear(200, 200), path, config_json="{}", storage=storage)
        sizes.append(path.stat().st_size)
    assert sizes[0] > 1.8 * sizes[1] > 1.8 * 1.8 * sizes[2]


def test_sha256_is_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of_file(tmp_path / "a") == expected


def test_errors_are_one_family():
    assert issubclass(ConfigError, MusicLMError)
    assert issubclass(ConfigError, ValueError)
