"""Benchmarks: medians, ratios, and what counts as having become slower."""

import pytest

from musiclm.cli.bench import _pair
from musiclm.cli.bench_figures import Figure, Ratio, StoredRatios, check_ratios, ratio_of, timed
from musiclm.core.errors import DataError, MusicLMError


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
