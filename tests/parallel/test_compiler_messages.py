# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Complaints of compilers in the wordings of several versions, and what becomes of them."""

import dataclasses
import types

import jax
import pytest

from nbp import build
from nbp import precompile as job
from nbp import precompile as main
from nbp.config import load_config
from nbp.errors import ConfigError
from nbp.lowering import Case
from nbp.parallel import compiler_messages as messages
from nbp.parallel.chips import CHIPS
from nbp.parallel.compiler_messages import explain_failure, is_exhausted, read_exhausted
from nbp.parallel.mesh import make_mesh
from tests import tiny

G = 2**30
OLD = "Pallas TPU requires a libtpu version that's at most a month old. Found version string:\nX"


@pytest.mark.parametrize(
    "needed, text",
    [
        (17.75, "Ran out of memory in memory space hbm. Used 17.75G of 15.75G hbm."),
        (
            21.95,
            "XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 21.95G "
            "of 15.48G hbm.\n Exceeded hbm capacity by 6.47G.\n\nTotal hbm usage >= 22.47G:\n",
        ),
        (
            57.74,
            "TPU backend error: the total memory required for HLO temporaries (57.74G) exceeds "
            "available HBM (15.75G) by 41.99G.",
        ),
        (
            10.94,
            "Attempting to reserve 3.95G at the bottom of memory. That was not possible. There are "
            "1.92G free, 0B reserved, and 1.92G reservable.\nTotal hbm usage >= 10.94G:\n",
        ),
        (3.95, "Attempting to reserve 3.95G at the bottom of memory. There are 1.92G free."),
        (32.0, "Out of memory while trying to allocate 34359738368 bytes."),
        (1.5, "Out of memory while trying to allocate 1.50GiB."),
        (4.0, "Out of memory allocating: allocation of 4,294,967,296 bytes exceeds the limit"),
        (20.1, "Ran out of memory in memory space hbm. Used 20.10GiB of 16.00GiB hbm"),
        (16 + 6.47, "The program exceeds the capacity of this device (15.75G) by 6.47G."),
    ],
)
def test_sizes_are_read_in_every_known_wording(needed: float, text: str) -> None:
    found = read_exhausted(f"RESOURCE_EXHAUSTED: {text}", capacity=16 * G)
    assert found == pytest.approx(needed * G, rel=1e-9)


@pytest.mark.parametrize(
    "text",
    [
        "RESOURCE_EXHAUSTED: what no version has said so far, 3 times",
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem. Used 20.5M of 16.0M vmem.",
        "RESOURCE_EXHAUSTED: Scoped vmem limit exceeded: trying to allocate 20M",
    ],
)
def test_a_complaint_without_a_size_of_the_device_is_still_one(text: str) -> None:
    assert is_exhausted(text)
    assert read_exhausted(text, capacity=16 * G) is None


def test_other_failures_are_no_complaints_of_size() -> None:
    text = "INTERNAL: Used 17.75G of 15.75G hbm"
    assert not is_exhausted(text)
    assert read_exhausted(text, capacity=G) is None


def fail(error: Exception) -> Case:
    """A program whose compiler raises `error`."""

    def compile() -> None:
        raise error

    lowered = types.SimpleNamespace(compile=compile)
    jaxpr = jax.make_jaxpr(lambda x: x)(1.0)
    return Case("generator.update", lambda: (lowered, jaxpr), {"parameters": 8}, 4)


@pytest.mark.parametrize(
    "text, told",
    [
        ("Used 20.0G of 15.75G hbm", "generator.update: 20.00 GiB a device, does not fit"),
        ("who knows", "generator.update: does not fit (the compiler does not tell how much"),
    ],
)
def test_a_program_that_does_not_fit_is_reported_and_advised_on(
    monkeypatch: pytest.MonkeyPatch, text: str, told: str
) -> None:
    error = jax.errors.JaxRuntimeError(f"RESOURCE_EXHAUSTED: {text}")
    overrides = tiny.OVERRIDES | {"stages": "('generator',)"}
    config = load_config(tiny.CONFIG, overrides)
    monkeypatch.setattr(job, "make_cases", lambda *_: [fail(error)])
    request = job.PrecompileRequest(config, job.Topology("cpu:8", "cpu", (8,)))
    lines: list[str] = []
    report = job.precompile(request, lines.append)
    assert not report["programs"]["generator.update"]["fits"]
    assert lines[0].startswith(told)
    assert lines[1].startswith("  with --config.memory.remat=dots: ")
    assert report["programs"]["generator.update"]["advice"]


@pytest.mark.parametrize("found", ["0.0.17", "0.0.420", ""])
@pytest.mark.parametrize("text", [OLD, "INTERNAL: Mosaic failed", "UNIMPLEMENTED: version 9"])
def test_a_wrong_libtpu_is_named_with_the_right_one_and_the_command(
    monkeypatch: pytest.MonkeyPatch, found: str, text: str
) -> None:
    monkeypatch.setattr(messages, "find_libtpu", lambda: found)
    monkeypatch.setattr(messages, "find_wanted", lambda: "0.0.42.*")
    told = str(explain_failure(RuntimeError(text)))
    assert "\n" not in told
    assert text.splitlines()[0] in told
    assert f"libtpu {found or '(no package'}" in told
    assert "goes with 0.0.42.*" in told
    assert f'pip install "jax[tpu]=={jax.__version__}"' in told


def test_with_the_right_libtpu_a_failure_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "find_libtpu", lambda: "0.0.42.1")
    monkeypatch.setattr(messages, "find_wanted", lambda: "0.0.42.*")
    assert explain_failure(RuntimeError("INTERNAL: Mosaic failed")) is None
    assert isinstance(explain_failure(RuntimeError(OLD)), ConfigError)


def test_a_wrong_libtpu_is_named_before_anything_is_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(messages, "find_wanted", lambda: "0.0.42.*")
    for found, told in [("0.0.42.1", ""), ("0.0.51", "Here is libtpu 0.0.51, and jax ")]:
        monkeypatch.setattr(messages, "find_libtpu", lambda found=found: found)
        assert messages.explain_mismatch().startswith(told)
        assert bool(messages.explain_mismatch()) == bool(told)

    def find(_: object) -> None:
        raise ConfigError("the compiler was asked")

    monkeypatch.setattr(job, "find_devices", find)
    config = load_config(tiny.CONFIG, tiny.OVERRIDES)
    lines: list[str] = []
    for topology in (job.Topology("v5e:2x2", "v5e", (2, 2)), job.Topology("cpu:8", "cpu", (8,))):
        with pytest.raises(ConfigError, match="was asked"):
            job.precompile(job.PrecompileRequest(config, topology), lines.append)
    assert lines == [messages.explain_mismatch()]


def test_the_installed_jax_tells_its_libtpu() -> None:
    assert messages.find_wanted().split(".")[0].isdecimal()


def test_a_failing_lowering_for_a_tpu_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "find_libtpu", lambda: "0.0.17")

    def lower() -> tuple[None, None]:
        raise RuntimeError(OLD)

    case = dataclasses.replace(fail(RuntimeError()), lower=lower)
    mesh = make_mesh(devices=jax.devices()[:1])
    with pytest.raises(RuntimeError, match="Pallas TPU"):  # no TPU, so no libtpu to blame
        job.measure_case(case, mesh, CHIPS["v5e"])
    monkeypatch.setattr(job, "is_tpu", lambda _: True)
    with pytest.raises(ConfigError, match=r"Here is libtpu 0\.0\.17.*pip install"):
        job.measure_case(case, mesh, CHIPS["v5e"])


def test_precompile_reads_no_weights_and_no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shapes of LPIPS take the place of its weights, which the paper's tokenizer needs."""
    asked = []

    def precompile(request: job.PrecompileRequest, _: object) -> dict[str, object]:
        asked.append(build.make_tokenizer_task(request.config, read_weights=False))
        return {}

    monkeypatch.setattr(job, "precompile", precompile)
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    main.main(["--config", "configs/ucf101/tokenizer.py", "--topology", "v5e:4x4"])
    frozen = jax.tree.leaves(asked[0].frozen["lpips"])
    assert frozen
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in frozen)
