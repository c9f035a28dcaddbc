from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch

from featstore.errors import BackboneError
from featstore.models import engine_choice, model_cache, networks
from featstore.models.engine_choice import (
    Rates,
    choose_engine,
    compiling_engine,
    fixed_plan,
    images_per_s,
)
from featstore.models.model_cache import CacheFile

CPU = torch.device("cpu")
GPU = torch.device("cuda", 0)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setenv("FEATSTORE_CACHE", str(tmp_path))
    return CacheFile("resnet50", "rates", {"precision": "fp32"})


def present(monkeypatch, *packages, compilers=("g++",)):
    monkeypatch.setattr(engine_choice, "find_spec", lambda name: name in packages or None)
    found = {name: name for name in compilers}
    monkeypatch.setattr(engine_choice.shutil, "which", found.get)
    monkeypatch.delenv("CXX", raising=False)


@pytest.mark.parametrize(
    ("packages", "device", "precision", "expected"),
    [
        (("openvino",), CPU, "fp32", "openvino"),
        ((), CPU, "fp32", "inductor"),
        (("triton",), GPU, "bf16", "inductor"),
        ((), GPU, "bf16", None),
    ],
)
def test_the_engine_that_compiles(monkeypatch, packages, device, precision, expected):
    present(monkeypatch, *packages)
    assert compiling_engine(device, precision) == expected


def test_openvino_is_not_asked_for_emulated_bf16(monkeypatch):
    present(monkeypatch, "openvino")
    monkeypatch.setattr(engine_choice, "has_fast_bf16", lambda _: False)
    assert compiling_engine(CPU, "bf16") == "inductor"
    monkeypatch.setattr(engine_choice, "has_fast_bf16", lambda _: True)
    monkeypatch.setattr(engine_choice, "version", lambda name: "2026.4.1")
    assert compiling_engine(CPU, "bf16") == "openvino"


@pytest.mark.parametrize("release", ["2026.3.0", "not installed"])
def test_an_openvino_that_would_round_first_layers_is_not_asked_for_bf16(monkeypatch, release):
    """A build without its distribution's metadata tells no version."""
    present(monkeypatch, "openvino")
    monkeypatch.setattr(engine_choice, "has_fast_bf16", lambda _: True)
    monkeypatch.setattr(engine_choice, "version", lambda name: release)
    assert compiling_engine(CPU, "bf16") == "inductor"
    assert compiling_engine(CPU, "fp32") == "openvino"


def test_nothing_is_measured_where_the_choice_is_fixed(monkeypatch):
    assert fixed_plan("on", "openvino", 1).engine == "openvino"
    assert fixed_plan("off", "openvino", 10**9).engine == "eager"
    assert fixed_plan("auto", "openvino", 63).engine == "eager"
    assert fixed_plan("auto", "openvino", 64) is None
    present(monkeypatch, compilers=())
    engine = compiling_engine(CPU, "fp32")
    assert "compiler" in fixed_plan("auto", engine, 10**9).reason
    with pytest.raises(BackboneError, match="pip install openvino"):
        fixed_plan("on", engine, 1)


class Machine:
    """A machine on which engines have known rates; notes what was measured."""

    def __init__(self, eager, compiled=None, setup_s=4.0, n_nodes=125):
        self.rates = Rates(eager, n_nodes, compiled, setup_s)
        self.measured = []

    def choose(
        self, n_images, kept, *, engine="openvino", device=CPU, precision="fp32", is_compiled=False
    ):
        plan = choose_engine(engine, device, precision, n_images, kept, is_compiled, self.measure)
        return plan.engine

    def measure(self, engine, rates):
        self.measured.append(engine)
        return self.rates if rates else replace(self.rates, compiled=None, setup_s=0.0)


def test_a_network_that_takes_11_s_in_all_does_not_wait_for_openvino(kept):
    machine = Machine(10)
    assert machine.choose(110, kept) == "eager"
    assert machine.measured == ["eager"]


@pytest.mark.parametrize(("precision", "expected"), [("fp32", "eager"), ("bf16", "openvino")])
def test_openvino_starts_faster_on_processors_with_bfloat16(kept, precision, expected):
    assert Machine(100, 130).choose(1_200, kept, precision=precision) == expected


def test_rates_are_measured_once_and_decide(kept):
    machine = Machine(10, 35)
    assert machine.choose(1_000, kept) == "openvino"
    assert machine.measured == ["eager", "openvino"]
    # Later commands know both rates and the set-up: 6.5 s for 65 images, or 1.9 s after 4 s.
    assert machine.choose(65, kept) == "openvino"
    assert machine.choose(50, kept) == "eager"
    assert machine.choose(50, kept, is_compiled=True) == "openvino"
    assert len(machine.measured) == 2


def test_an_engine_that_turns_out_slower_is_not_used(kept):
    machine = Machine(10, 9)
    assert [machine.choose(10**6, kept) for _ in range(2)] == ["eager", "eager"]
    assert machine.measured == ["eager", "openvino"]


@pytest.mark.parametrize(("n_images", "expected"), [(10_000, "eager"), (5_000_000, "inductor")])
def test_a_gpu_compiles_when_it_pays(kept, n_images, expected):
    machine = Machine(4_000, 4_800)
    assert machine.choose(n_images, kept, engine="inductor", device=GPU) == expected


def test_the_reason_names_both_rates(kept):
    machine = Machine(10, 35)
    plan = choose_engine("openvino", CPU, "fp32", 1_000, kept, False, machine.measure)
    assert str(plan) == (
        "Computing with OpenVINO: PyTorch computes 10 images/s here, OpenVINO 35, for 1,000 images."
    )


def test_damaged_rates_are_measured_again(kept):
    machine = Machine(10, 35)
    machine.choose(1_000, kept)
    path = kept._path
    path.write_bytes(path.read_bytes().replace(b"35", b"36"))
    machine.choose(1_000, kept)
    assert machine.measured == ["eager", "openvino"] * 2


@pytest.mark.parametrize("whole", [False, True])
def test_a_rate_is_the_best_of_several_timings(whole):
    times = iter([0, 4, 4, 5, 5, 5.1, 6, 6.2])
    seen = []
    found = images_per_s(
        lambda x: seen.append(len(x)), torch.zeros(8, 1), whole, lambda: next(times)
    )
    assert seen == ([8] if whole else [2, 2])
    assert found == 2


def test_another_machine_version_or_setting_has_files_of_its_own(kept, monkeypatch):
    names = {kept._path}
    names.add(CacheFile("resnet50", "rates", {"precision": "bf16"})._path)
    names.add(CacheFile("resnet18", "rates", {"precision": "fp32"})._path)
    monkeypatch.setattr(model_cache, "version", lambda name: f"{name} 0")
    names.add(CacheFile("resnet50", "rates", {"precision": "fp32"})._path)
    monkeypatch.setattr(model_cache, "_code_digest", lambda: "other code")
    names.add(CacheFile("resnet50", "rates", {"precision": "fp32"})._path)
    assert len(names) == 5


def test_the_cache_keeps_what_was_used_last_within_its_size(kept, monkeypatch):
    monkeypatch.setattr(model_cache, "MAX_NBYTES", 400)
    files = [CacheFile("resnet50", "openvino", {"n": n}) for n in range(4)]
    for age, file in enumerate(files[:3]):
        file.write(b"x" * 60)
        os.utime(file._path, (age, age))
    assert files[0].read() == b"x" * 60
    files[3].write(b"y" * 60)
    assert [file.exists() for file in files] == [True, False, True, True]
    files[1].write(b"z" * 300)
    assert not files[1].exists()


def test_a_folder_that_cannot_be_written_is_no_hindrance(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FEATSTORE_CACHE", str(tmp_path / "file"))
    file = CacheFile("resnet50", "rates", {})
    file.write(b"x")
    assert file.read() is None


def test_layers_are_listed_once(kept, monkeypatch):
    networks.network_layers.cache_clear()
    first = networks.network_layers("alexnet", 64)
    networks.network_layers.cache_clear()
    monkeypatch.setattr(networks, "_list_layers", None)
    assert networks.network_layers("alexnet", 64) == first
