"""Benchmarks: medians, ratios, what counts as slower, and the arithmetic of a GPU's bars."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from musiclm.cli.bench import _pair
from musiclm.cli.bench_figures import Figure, Ratio, StoredRatios, check_ratios, ratio_of, timed
from musiclm.cli.bench_gpu import (
    BARS,
    LIMIT,
    Sizes,
    bandwidth_limit,
    bar_ratios,
    bytes_of_window,
    gpu_figures,
    not_measured,
    random_stage,
    training_operations,
)
from musiclm.cli.bench_measures import random_codes, stage_speed
from musiclm.core.errors import DataError, MusicLMError
from musiclm.recipes.paper import paper
from musiclm.recipes.registry import load_recipe
from musiclm.stages.decoder import TorchDecoder
from tests.support.stages import STYLES, make_layout, make_model


def test_figures_and_ratios():
    fast = Figure(name="ours", unit="tokens/s", values=(30.0, 10.0, 20.0))
    slow = Figure(name="theirs", unit="tokens/s", values=(5.0,))
    absent = Figure(name="absent", unit="", note="not measured")
    assert fast.median == 20.0
    assert absent.median is None
    assert ratio_of("r", fast, slow, "higher")[0].value == 4.0
    assert ratio_of("r", fast, absent, "higher") == []
    by_name = {"ours": fast, "theirs": slow}
    assert _pair(by_name, "ours", "theirs", "higher")[0].name == "ours / theirs"
    assert _pair(by_name, "ours", "nobody", "higher") == []


def test_timing_leaves_the_first_run_out():
    calls = []
    seconds = timed(lambda: calls.append(0), 3)
    assert len(calls) == 4
    assert len(seconds) == 3


def test_what_takes_too_long_is_measured_fewer_times():
    calls: list[int] = []
    assert len(timed(lambda: calls.append(0), 3, patience_seconds=0.0)) == len(calls) == 1


def test_only_worse_ratios_are_refused(tmp_path):
    def ratios(speed, memory):
        return (
            Ratio(name="speed", value=speed, better="higher"),
            Ratio(name="memory", value=memory, better="lower"),
        )

    path = tmp_path / "ratios.json"
    with pytest.raises(DataError, match="--store-ratios"):
        StoredRatios.read(path)
    path.write_text(StoredRatios(machine="this", ratios=ratios(10.0, 1.0)).to_json())
    stored = StoredRatios.read(path)
    check_ratios(ratios(8.1, 1.2), stored, 0.25)
    check_ratios(ratios(100.0, 0.1), stored, 0.25)
    with pytest.raises(MusicLMError, match=r"speed is 7, was 10"):
        check_ratios(ratios(7.0, 1.0), stored, 0.25)
    with pytest.raises(MusicLMError, match=r"memory is 1\.3, was 1"):
        check_ratios(ratios(10.0, 1.3), stored, 0.25)
    with pytest.raises(MusicLMError, match="nothing was checked"):
        check_ratios((), stored, 0.25)


CPU = torch.device("cpu")
TINY = Sizes(
    copy_bytes=2**16,
    product_dim=16,
    decode_seconds=0.4,
    batch_size=3,
    training_batch=2,
    training_seconds=0.4,
)


def test_every_bar_is_measured_where_it_can_be():
    figures = gpu_figures(load_recipe("tiny"), CPU, 2, sizes=TINY)
    assert all(figure.median is not None and figure.median > 0 for figure in figures)
    assert all(len(figure.values) == 2 for figure in figures if figure.name != LIMIT)
    by_name = {figure.name: figure.median or 0.0 for figure in figures}
    ratios = {ratio.name: ratio.value for ratio in bar_ratios(figures)}
    assert list(ratios) == [bar.name for bar in BARS]
    for bar in BARS:
        assert ratios[bar.name] == pytest.approx(by_name[bar.over] / by_name[bar.under])
        assert f"at least {bar.least:g}" in bar.name


def test_a_cpu_says_of_every_bar_that_it_was_not_measured():
    figures = not_measured("the device is the CPU")
    assert [figure.name for figure in figures] == [bar.name for bar in BARS]
    assert {figure.note for figure in figures} == {"not measured: the device is the CPU"}
    assert bar_ratios(figures) == []


def test_speed_counts_the_tokens_of_all_samples(monkeypatch):
    monkeypatch.setattr("musiclm.cli.bench_measures.timed", lambda action, runs: (2.0,) * runs)
    decoder = TorchDecoder(make_model(make_layout("coarse", STYLES["paper"])), "a test")
    figure = stage_speed(decoder, "coarse", 3, batch_size=4, seconds=0.2)
    assert figure.values == (4 * 10 * 2 / 2.0,) * 3  # samples, frames, levels; seconds


def test_bytes_of_a_window_are_those_of_its_steps():
    # Two layers, 32 wide, 2 heads of 16, feed-forward 48; 20 codes a level.
    layer = 32 * 96 + 32 * 32 + 32 * 96 + 48 * 32
    model = make_model(make_layout("semantic", STYLES["paper"]))  # 3 positions before 10 steps
    cached = sum(2 * 2 * 32 * (3 + step) for step in range(1, 11))
    numbers = 10 * (2 * layer + 20 * 32)
    assert bytes_of_window(model, 0.4, batch_size=1) == 4 * (numbers + cached)
    assert bytes_of_window(model, 0.4, batch_size=5) == 4 * (numbers + 5 * cached)
    half = make_model(make_layout("semantic", STYLES["paper"])).to(torch.bfloat16)
    assert bytes_of_window(half, 0.4, batch_size=1) == 2 * (numbers + cached)
    # Delayed targets say all levels at each of 20 + 2 - 1 steps, here after no position at all.
    model = make_model(make_layout("coarse", STYLES["all_aligned"]))
    flat = bytes_of_window(model, 0.4, batch_size=1)
    cached = sum(2 * 2 * 32 * step for step in range(1, 41))
    assert flat == 4 * (40 * (2 * layer + 20 * 32) + cached)
    model = make_model(make_layout("coarse", STYLES["summed"]))
    cached = sum(2 * 2 * 32 * (11 + step) for step in range(1, 22))
    assert bytes_of_window(model, 0.4, batch_size=1) == 4 * (
        21 * (2 * layer + 2 * 20 * 32) + cached
    )


def test_the_limit_is_what_a_copy_of_those_bytes_takes():
    model = make_model(make_layout("semantic", STYLES["paper"]))
    copy = Figure(name="copy", unit="GB/s", values=(1.0, 2.0, 9.0))
    limit = bandwidth_limit(model, copy, 0.4).median
    assert limit == pytest.approx(10 / (bytes_of_window(model, 0.4, batch_size=1) / 2e9))
    nothing = bandwidth_limit(model, Figure(name="copy", unit="GB/s"), 0.4)
    assert nothing.median is None


@pytest.mark.parametrize("style", list(STYLES))
@pytest.mark.parametrize("stage", ["semantic", "coarse", "fine"])
def test_operations_of_a_training_step_are_those_that_run(stage, style):
    model = make_model(make_layout(stage, STYLES[style])).train()
    codes = random_codes(model.layout.segments, 3, 0.4)
    with FlopCounterMode(display=False) as counter:
        model.loss(codes).loss.backward()
    counts = counter.get_flop_counts()["Global"]
    products = sum(count for op, count in counts.items() if "attention" not in str(op))
    num_positions = model.layout.num_positions(0.4)
    pairs = num_positions * (num_positions + 1) // 2
    attention = 3 * 2 * 3 * 2 * pairs * 2 * 32  # passes, 2 a product, samples, layers, width
    assert training_operations(model, 3, 0.4) == products + attention


def test_the_papers_stage_reads_its_weights_once_a_token():
    model = random_stage(paper().stage_task("semantic").stage, torch.device("meta"))
    model = model.to(torch.bfloat16)
    # 430 million parameters less embeddings and the other segments' logits: 0.8 GB in bfloat16;
    # the cache of 762 positions has 75 MB when it is full.
    step = bytes_of_window(model, 30.0, batch_size=1) / 750
    assert 0.80e9 < step < 0.90e9
