from __future__ import annotations

from dataclasses import replace

import pytest
from makers import of_pixels

from featstore.extraction import result
from featstore.extraction.extract import extract
from featstore.extraction.result import BOTTLENECKS, ENGINE_HINT, PHASES


@pytest.mark.parametrize("slowest", PHASES)
def test_the_slowest_phase_is_named(images, tmp_path, slowest, monkeypatch):
    done = extract(store=tmp_path, **of_pixels(images))
    assert done.times.keys() > PHASES.keys()
    assert sum(done.times[name] for name in PHASES) <= done.duration_s
    patches = replace(done, model="mosaiks:8/3", times={"open_s": 3.0, "read_s": 1.0})
    assert "drawing patches 75 %, preparation 0 %, waiting for images 25 %" in (
        patches.shares_of_time()
    )
    assert patches.bottleneck() == BOTTLENECKS["mosaiks"]
    times = dict.fromkeys(done.times, 0.1) | {slowest: 9.0}
    network = replace(done, times=times, engine="eager", device="cuda:0 (a GPU)")
    assert network.bottleneck() == BOTTLENECKS[slowest]
    monkeypatch.setattr(result, "find_spec", lambda name: None)
    on_cpu = replace(network, device="cpu (2 threads)")
    hint = f" {ENGINE_HINT}" if slowest == "forward_s" else ""
    assert on_cpu.bottleneck() == BOTTLENECKS[slowest] + hint
    pixels = replace(done, times=times)
    assert pixels.bottleneck() == BOTTLENECKS["numpy" if slowest == "forward_s" else slowest]
