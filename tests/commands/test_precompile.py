# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Programs compiled for eight virtual devices: what is reported, and what helps when too big."""

import dataclasses
import json

import jax
import pytest

from nbp import precompile as job
from nbp import precompile as main
from nbp.config import load_config
from nbp.errors import ConfigError
from nbp.parallel.chips import CHIPS, Chip, parse_topology
from nbp.precompile import (
    PrecompileRequest,
    bound_seconds,
    list_changes,
    precompile,
    replace_key,
    seek_fit,
)
from tests import tiny

CPU = parse_topology("cpu:8")


def make_request(changes=None, **options):
    overrides = tiny.OVERRIDES | {"mesh.data": "0", "mesh.fsdp": "8"}
    overrides |= {"train.generator.optimizer": "adamw"}
    overrides |= changes or {}
    return PrecompileRequest(load_config(tiny.CONFIG, overrides), CPU, **options)


@pytest.fixture(scope="module")
def found():
    lines = []
    return precompile(make_request(), lines.append), lines


@pytest.mark.slow
def test_every_program_is_measured(found):
    report, lines = found
    names = ["tokenizer.update", "generator.update", "generator.evaluate", "generator.sample"]
    assert list(report["programs"]) == names
    lines = [line for line in lines if "/4 programs" not in line]
    assert len(lines) == 4
    assert all("GiB a device, fits" in line for line in lines)
    assert json.loads(json.dumps(report)) == report
    assert report["mesh"] == {"data": 1, "fsdp": 8, "tensor": 1}
    for program in report["programs"].values():
        assert program["fits"]
        assert program["bytes"]["peak"] >= program["bytes"]["parameters"]
        assert program["flops"] > 0


@pytest.mark.slow
def test_an_update_keeps_its_state_in_pieces(found):
    update = found[0]["programs"]["generator.update"]
    # Adam has two numbers for each parameter; counters of steps come on top.
    assert update["bytes"]["optimizer"] - 2 * update["bytes"]["parameters"] in (4, 8)
    assert update["collectives"]["all-gather"]["wire_bytes"] > 0
    assert update["collectives_in_attention"] == 0
    # Each device computes an eighth of what the model needs, and a little of it twice.
    assert update["model_flops"] <= update["flops"] * 1.35
    assert update["seconds"]["step"] == 0  # no speed is known of a processor


def test_times_are_those_of_the_slowest_part():
    chip = Chip("toy", 2**30, flops=100.0, bandwidth=10.0, network=5.0, source="here")
    seconds = bound_seconds(chip, flops=300.0, moved=50.0, wire=1.0)
    assert seconds == {"compute": 3.0, "memory": 5.0, "network": 0.2}


def test_changes_are_tried_until_one_fits(monkeypatch):
    request = make_request({"train.generator.batch": "32"})
    asked = []

    def measure(case, mesh, chip):
        """A program that only many micro-batches or recomputation of everything make small."""
        asked.append((dict(mesh.shape), case.clips))
        return {"fits": len(asked) in (2, 4), "bytes": {"peak": 2**30}}

    monkeypatch.setattr(job, "measure_case", measure)
    lines = []
    devices = jax.devices()
    tried = seek_fit(request, "generator.update", devices, CHIPS["v5e"], lines.append)
    changes = [found["change"] for found in tried]
    assert changes[:4] == [
        {"memory.remat": "dots"},
        {"memory.remat": "full"},
        {"train.generator.accumulate": 2},
        {"train.generator.accumulate": 4},
    ]
    assert lines[1] == "  with --config.memory.remat=full: 1.00 GiB a device, fits"
    # Heads allow two devices of tensor, and nothing fits there.
    assert [found["fits"] for found in tried] == [False, True, False, True, False, False]


def test_a_change_that_cannot_be_is_reported():
    request = make_request()
    found = job._try(request, {"mesh.fsdp": 3}, "generator.update", jax.devices(), CHIPS["v5e"])
    assert not found["fits"]
    assert "does not divide the 8 devices" in found["refused"]


def test_lists_of_changes():
    config = make_request().config
    kinds = list_changes(config, "tokenizer", 8)
    assert kinds == [
        [],
        [{"train.tokenizer.accumulate": 2}, {"train.tokenizer.accumulate": 4},
         {"train.tokenizer.accumulate": 8}],
        [{"mesh.data": 1, "mesh.fsdp": 8}],
        [],
    ]  # fmt: skip
    full = replace_key(config, ["memory", "remat"], "full")
    assert list_changes(full, "generator", 8)[0] == []
    assert dataclasses.replace(full, memory=config.memory) == config


def test_without_the_compiler_of_the_chip(monkeypatch):
    def absent(**_):
        raise RuntimeError("JAX TPU support not installed")

    monkeypatch.setattr(job.topologies, "get_topology_desc", absent)
    with pytest.raises(ConfigError, match=r"v5e:2x2.*not installed.*\"jax\[tpu\]==[\d.]+\""):
        job.find_devices(parse_topology("v5e:2x2"))
    with pytest.raises(ConfigError, match="no such device"):
        job.find_devices(parse_topology("gpu"))
    with pytest.raises(ConfigError, match="8 devices are here"):
        job.find_devices(parse_topology("cpu:16"))


@pytest.mark.slow
def test_the_command_writes_json(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(jax.config, "update", lambda *_: None)  # the devices of the tests stay
    out = tmp_path / "deep" / "report.json"
    arguments = ["--config", tiny.CONFIG, "--topology", "cpu:8", "--out", str(out)]
    main.main([*arguments, "--programs", "generator.sample", *tiny.flags()])
    report = json.loads(out.read_text())
    assert list(report["programs"]) == ["generator.sample"]
    assert report["settings"]["network"]["width"] == 16
    assert "generator.sample: 0.0" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="--programs sampler: this config has tokenizer.update"):
        precompile(make_request(programs=("sampler",)))
