from __future__ import annotations

from dataclasses import replace

import pytest
from makers import of_pixels

from featstore.extraction import result
from featstore.extraction.extract import extract
from featstore.extraction.result import BOTTLENECKS, ENGINE_HINT


@pytest.mark.parametrize("slowest", ["setup_s", "read_s", "preprocess_s", "forward_s", "write_s"])
def test_the_slowest_phase_is_named(images, tmp_path, slowest, monkeypatch):
    done = extract(store=tmp_path, **of_pixels(images))
    times = dict.fromkeys(done.times, 0.1) | {slowest: 9.0}
    network = replace(done, times=times, engine="eager", device="cuda:0 (a GPU)")
    assert network.bottleneck() == BOTTLENECKS[slowest]
    monkeypatch.setattr(result, "find_spec", lambda name: None)
    on_cpu = replace(network, device="cpu (2 threads)")
    hint = f" {ENGINE_HINT}" if slowest == "forward_s" else ""
    assert on_cpu.bottleneck() == BOTTLENECKS[slowest] + hint
    pixels = replace(done, times=times)
    assert pixels.bottleneck() == BOTTLENECKS["numpy" if slowest == "forward_s" else slowest]
