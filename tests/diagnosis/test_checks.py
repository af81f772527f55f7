# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of the doctor, each given facts of machines that are not here."""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import pytest
from packaging.requirements import Requirement

from nbp.diagnosis import checks, facts
from nbp.diagnosis.checks import GIB, Finding

LOCKED = {"jax": "0.12.0.1", "jaxlib": "0.12.0.1", "flax": "0.12.12", "av": "19.0.2"}
WHOLE = facts.Packages(dict(LOCKED), LOCKED, Path("/nbp/requirements.txt"), checkout=True)
CPU = facts.Devices("cpu", ("cpu",), 0, "", "", (), driver="none")


def change(packages: facts.Packages = WHOLE, **versions: str) -> facts.Packages:
    """Other versions, "" for none; jax_cuda13_plugin stands for jax-cuda13-plugin."""
    new = {name.replace("_", "-"): version for name, version in versions.items()}
    installed = {name: v for name, v in {**packages.installed, **new}.items() if v}
    return dataclasses.replace(packages, installed=installed)


@pytest.mark.parametrize(
    "version,isolated,state",
    [
        ((3, 10, 9), True, "fail"),
        ((3, 11, 0), True, "ok"),
        ((3, 14, 1), True, "ok"),
        ((3, 12, 1), False, "warn"),
    ],
)
def test_python(version: tuple[int, ...], isolated: bool, state: str) -> None:
    found = checks.check_python(facts.Interpreter(version, "/usr/bin/python", isolated))
    assert found.state == state
    assert ("venv" in found.remedy) == (state != "ok")
    assert ".".join(map(str, version)) in found.text


def test_packages_are_held_against_the_lock() -> None:
    assert checks.check_packages(WHOLE).state == "ok"
    other = checks.check_packages(change(flax="0.12.8"))
    assert (other.state, "flax 0.12.8, not 0.12.12" in other.text) == ("warn", True)
    missing = checks.check_packages(change(av="", jaxlib=""))
    assert (missing.state, missing.text) == ("fail", "missing: jaxlib, av")
    assert missing.remedy == "pip install -r requirements.txt"
    far = dataclasses.replace(change(av=""), lock=Path("/site packages/l.txt"), checkout=False)
    assert checks.check_packages(far).remedy == "pip install -r '/site packages/l.txt'"


@pytest.mark.parametrize("python", [(3, 11), (3, 12), (3, 14)])
@pytest.mark.parametrize("platform", ["linux", "win32"])
def test_the_lock_is_read_as_pip_reads_it(python: tuple[int, int], platform: str) -> None:
    text = facts.LOCK.read_text(encoding="utf8")
    full = ".".join(map(str, python)) + ".0"
    environment = {"python_full_version": full, "sys_platform": platform}
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    wanted = [Requirement(line) for line in lines]
    expected = {
        facts.normalize_name(w.name): str(w.specifier).removeprefix("==")
        for w in wanted
        if w.marker is None or w.marker.evaluate(environment)
    }
    assert facts.read_lock(text, python, platform) == expected
    assert len(expected) > 50


def test_an_unknown_marker_is_refused() -> None:
    with pytest.raises(ValueError, match="os_name"):
        facts.read_lock("a==1 ; os_name == 'nt'", (3, 12), "linux")


def test_this_installation_is_found() -> None:
    found = facts.find_packages()
    assert {"jax", "grain", "orbax-checkpoint"} <= set(found.installed)
    assert found.lock.name == "requirements.txt"
    assert found.checkout
    assert facts.find_interpreter().version == tuple(sys.version_info[:3])


@pytest.mark.parametrize(
    "changed,packages,state,text,remedy",
    [
        ({}, WHOLE, "ok", "JAX computes on cpu: 1 x cpu", ""),
        (
            {"platform": "gpu", "kinds": ("H200",) * 2, "memory": 100 * GIB, "present": ("gpu",)},
            WHOLE,
            "ok",
            "2 x H200, 100.0 GiB each",
            "",
        ),
        (
            {"present": ("gpu",), "driver": "usable"},
            WHOLE,
            "warn",
            "a GPU is in the machine, but JAX computes on cpu",
            'pip install -r requirements.txt ".[cuda]"',
        ),
        (
            {"present": ("gpu",), "driver": "usable"},
            dataclasses.replace(WHOLE, checkout=False),
            "warn",
            "the extra 'cuda' is not installed",
            "pip install 'jax[cuda13]==0.12.0.1'",
        ),
        ({"present": ("gpu",)}, WHOLE, "warn", "has no driver", "install the driver of NVIDIA"),
        (
            {
                "present": ("gpu",),
                "driver": "usable",
                "error": "RuntimeError: CUDA_ERROR_NO_DEVICE",
            },
            change(jax_cuda13_plugin="0.12.0.1"),
            "warn",
            "CUDA_ERROR_NO_DEVICE",
            'pip install -r requirements.txt ".[cuda]"',
        ),
        (
            {"present": ("gpu",), "chosen": "cpu", "driver": "usable"},
            WHOLE,
            "warn",
            "(JAX_PLATFORMS=cpu)",
            "unset JAX_PLATFORMS",
        ),
        (
            {"present": ("gpu",), "driver": "loaded"},
            WHOLE,
            "warn",
            "no device file",
            "docker run --gpus all",
        ),
        ({"present": ("tpu",)}, WHOLE, "warn", "a TPU", 'pip install -r requirements.txt ".[tpu]"'),
        (
            {"platform": "", "kinds": (), "error": "RuntimeError: the TPU is already in use"}
            | {"present": ("tpu",)},
            WHOLE,
            "fail",
            "JAX does not start: RuntimeError",
            "end the process that uses the TPU",
        ),
        (
            {"platform": "", "kinds": (), "error": "no backend 'abc'", "chosen": "abc"},
            WHOLE,
            "fail",
            "no backend 'abc'",
            "unset JAX_PLATFORMS",
        ),
    ],
)
def test_devices(
    changed: dict[str, object], packages: facts.Packages, state: str, text: str, remedy: str
) -> None:
    devices = dataclasses.replace(CPU, **changed)  # pyright: ignore[reportArgumentType]
    found = checks.check_devices(devices, packages)
    assert (found.state, text in found.text, found.remedy) == (state, True, remedy), found


def put(root: Path, **texts: str) -> None:
    for name, text in texts.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_accelerators_are_found_by_their_devices(tmp_path: Path) -> None:
    assert facts.find_accelerators(tmp_path) == ((), "none")
    pci = "sys__bus__pci__devices__"
    # A sound card of the same maker, and a network card of Google.
    put(tmp_path, **{f"{pci}a__vendor": "0x10de", f"{pci}a__class": "0x040300"})
    put(tmp_path, **{f"{pci}b__vendor": "0x1ae0", f"{pci}b__device": "0x0042"})
    assert facts.find_accelerators(tmp_path) == ((), "none")
    put(tmp_path, **{f"{pci}c__vendor": "0x10de\n", f"{pci}c__class": "0x030200\n"})
    assert facts.find_accelerators(tmp_path) == (("gpu",), "none")
    put(tmp_path, proc__driver__nvidia__version="NVRM")
    assert facts.find_accelerators(tmp_path) == (("gpu",), "loaded")
    put(tmp_path, dev__nvidia0="")
    assert facts.find_accelerators(tmp_path) == (("gpu",), "usable")
    put(tmp_path, **{f"{pci}d__vendor": "0x1ae0", f"{pci}d__device": "0x006f"})
    assert facts.find_accelerators(tmp_path)[0] == ("gpu", "tpu")


def test_memory_and_cores_of_a_container(tmp_path: Path) -> None:
    put(tmp_path, proc__meminfo="MemTotal: 33554432 kB\nMemAvailable: 16777216 kB\n")
    bare = facts.find_host(tmp_path)
    assert (bare.total, bare.available) == (32 * GIB, 16 * GIB)
    assert checks.check_memory(bare).state == "ok"
    group = "sys__fs__cgroup__"
    limits = {"memory.max": f"{4 * GIB}\n", "memory.current": f"{2 * GIB}\n"}
    put(tmp_path, **{group + name: text for name, text in limits.items()})
    put(tmp_path, **{f"{group}cpu.max": "50000 100000\n"})
    small = facts.find_host(tmp_path)
    assert small == facts.Host(4 * GIB, 2 * GIB, 0.5)
    found = checks.check_memory(small)
    assert (found.state, found.text[:32]) == ("warn", "2.0 of 4.0 GiB free, 0.5 cores: ")
    put(tmp_path, **{f"{group}memory.max": "max\n", f"{group}cpu.max": "max 100000\n"})
    assert facts.find_host(tmp_path) == bare


@pytest.mark.parametrize("name", ["workdir", "temporary"])
def test_folders(name: str, tmp_path: Path) -> None:
    here = facts.find_place(name, tmp_path / "runs" / "a")
    assert (here.problem, checks.check_place(here).state) == ("", "ok")
    assert not list(tmp_path.iterdir())
    assert checks.check_place(dataclasses.replace(here, free=2**20)).state == "warn"
    (tmp_path / "file").write_text("")
    found = checks.check_place(facts.find_place(name, tmp_path / "file" / "runs"))
    assert (found.state, "is a file" in found.text) == ("fail", True)
    assert found.remedy.startswith({"workdir": "--workdir", "temporary": "export TMPDIR="}[name])


def test_codecs_of_this_machine() -> None:
    found = facts.find_codecs()
    assert set(found) == {"mp4 (H.264)", "gif", "records (H.264)", "records (JPEG)"}
    assert checks.check_codecs(found, WHOLE).state == "ok", found


def test_a_codec_that_is_missing_or_wrong() -> None:
    found = checks.check_codecs({"gif": 21.0, "mp4": "RuntimeError: no encoder"}, WHOLE)
    assert (found.state, found.text) == ("fail", "mp4: RuntimeError: no encoder")
    assert found.remedy == "pip install --force-reinstall av==19.0.2"
    assert checks.check_codecs({"mp4": 9.0}, WHOLE).text == "mp4: 9 dB"


def test_the_compilation_cache(tmp_path: Path) -> None:
    place = facts.Place("compiled", tmp_path, 9 * GIB, "")
    cache = facts.CompilationCache(tmp_path, 3, 5 * 2**20, place, off=False)
    assert checks.check_cache(cache).text == f"{tmp_path}: 3 files, 5 MiB, 9.0 GiB free"
    for changed in (
        {"off": True},
        {"folder": None, "place": None},
        {"place": dataclasses.replace(place, free=2**20)},
        {"place": dataclasses.replace(place, problem="cannot write")},
    ):
        found = checks.check_cache(dataclasses.replace(cache, **changed))
        assert found.state == "warn"
        assert found.remedy.startswith(("unset", "export JAX_COMPILATION_CACHE_DIR"))


def test_the_cache_that_jax_was_told_of() -> None:
    found = facts.find_cache()  # conftest chose it
    assert found.folder is not None
    assert found.folder.name == "jax"
    assert not found.off


def test_a_file_of_the_cache_that_goes_away_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "program").symlink_to("removed")
    kept = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    try:
        assert checks.check_cache(facts.find_cache()).state == "ok"
    finally:
        jax.config.update("jax_compilation_cache_dir", kept)


def test_data_sets(tmp_path: Path) -> None:
    put(tmp_path, ucf101__split1__1_0__dataset_info="", other__file="")
    (tmp_path / "ucf101/split1/1_0/dataset_info").rename(
        tmp_path / "ucf101/split1/1_0/dataset_info.json"
    )
    found = facts.find_data(str(tmp_path))
    assert found == facts.DataFolder(tmp_path, True, ("ucf101",), "")
    assert checks.check_data(found).text == f"{tmp_path}: ucf101"
    assert checks.check_data(facts.find_data("/proc/none")).state == "warn"
    assert checks.check_data(facts.DataFolder(tmp_path, False, (), "")).state == "ok"


def test_extras() -> None:
    assert checks.check_extras(WHOLE).state == "ok"
    assert (
        "jax-cuda13-plugin 0.12.0.1"
        in checks.check_extras(change(jax_cuda13_plugin="0.12.0.1")).text
    )
    found = checks.check_extras(change(jax_cuda13_plugin="0.10.2"))
    assert (found.state, found.remedy) == ("warn", 'pip install -r requirements.txt ".[cuda]"')


def test_the_compiler() -> None:
    assert checks.check_compilation(facts.Compilation(0.3, True)).state == "ok"
    assert checks.check_compilation(facts.Compilation(90.0, True)).state == "warn"
    assert checks.check_compilation(facts.Compilation(0.3, False)).state == "fail"


def test_limits() -> None:
    assert checks.check_limits(facts.Limits(20000, 20000, GIB)).state == "ok"
    assert checks.check_limits(facts.Limits(sys.maxsize, sys.maxsize, None)).state == "ok"
    assert checks.check_limits(facts.Limits(256, 4096, GIB)).remedy == "ulimit -n 4096"
    assert "--shm-size" in checks.check_limits(facts.Limits(20000, 20000, 2**26)).remedy
    assert facts.find_limits().files > 0


def test_a_fact_that_cannot_be_asked_for_is_a_failure() -> None:
    def look() -> None:
        raise ModuleNotFoundError("No module named 'jax'\nand more")

    found = checks.judge("compiler", checks.check_compilation, look)
    assert (found.state, found.name) == ("fail", "compiler")
    assert found.text == "ModuleNotFoundError: No module named 'jax'"
    assert "pip install -r requirements.txt" in found.remedy


def test_findings_are_json() -> None:
    found: list[Finding] = [
        checks.check_devices(CPU, WHOLE),
        checks.check_limits(facts.find_limits()),
        checks.check_memory(facts.find_host()),
    ]
    assert json.loads(json.dumps([dataclasses.asdict(f) for f in found]))[0]["name"] == "devices"
