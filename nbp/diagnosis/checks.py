# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What facts of a machine mean for NBP: fine, worth a warning, or a failure, and what mends it."""

import dataclasses
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from nbp.diagnosis import facts

State = Literal["ok", "warn", "fail"]
GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """One line of the doctor. details: the facts, as JSON takes them. remedy: "" where fine."""

    name: str
    state: State
    text: str
    remedy: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


# Below these a warning. The quickstart takes 1.8 GiB of memory and writes 0.1 GiB.
LEAST_PYTHON = (3, 11)
NEWEST_JAX_PYTHON = (3, 12)
LEAST_MEMORY = 3 * GIB
LEAST_FREE = 2 * GIB
LEAST_FREE_TEMPORARY = LEAST_FREE_CACHE = GIB // 2
LEAST_FILES = 1024
LEAST_SHARED = GIB // 4
LEAST_PSNR = {"gif": 20.0}  # 256 colours
SLOW = 30.0  # seconds for a tiny program


def check_python(found: facts.Interpreter) -> Finding:
    version = ".".join(map(str, found.version))
    text = f"{version}, {found.executable}"
    if found.version < LEAST_PYTHON:
        remedy = "python3.12 -m venv .venv && . .venv/bin/activate"
        return Finding("Python", "fail", f"{text}: NBP needs 3.11 or later", remedy)
    if not found.isolated:
        remedy = "python -m venv .venv && . .venv/bin/activate"
        return Finding("Python", "warn", f"{text}, no virtual environment", remedy)
    if found.version < NEWEST_JAX_PYTHON:
        text += " (3.12 and later get the newest JAX)"
    return Finding("Python", "ok", text)


SHOWN = ("jax", "jaxlib", "flax", "orbax-checkpoint", "grain", "tensorflow-datasets")


def check_packages(found: facts.Packages) -> Finding:
    """Versions against the lock: a package that is missing fails, another version is a warning."""
    installed, locked = found.installed, found.locked
    missing = [name for name in locked if name not in installed]
    other = [
        f"{name} {installed[name]}, not {version}"
        for name, version in locked.items()
        if installed.get(name, version) != version
    ]
    remedy = shlex.join(("pip", "install", "-r", _show(found)))
    details = {name: installed.get(name) for name in SHOWN}
    if missing:
        text = f"missing: {_list(missing)}" + (f"; other versions: {_list(other)}" if other else "")
        return Finding("packages", "fail", text, remedy, details)
    if other:
        text = f"other versions than those that were tested together: {_list(other)}"
        return Finding("packages", "warn", text, remedy, details)
    shown = ", ".join(f"{name} {installed[name]}" for name in SHOWN if name in locked)
    return Finding("packages", "ok", f"{shown}; all {len(locked)} as locked", "", details)


def _show(found: facts.Packages) -> str:
    return "requirements.txt" if found.checkout else str(found.lock)


def _list(names: list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def check_devices(found: facts.Devices, packages: facts.Packages) -> Finding:
    """What JAX computes on; a warning where the machine has something faster."""
    details = dataclasses.asdict(found)

    def tell(state: State, text: str, remedy: str = "") -> Finding:
        return Finding("devices", state, text, remedy, details)

    if not found.platform:
        remedy = shlex.join(("pip", "install", "-r", _show(packages)))
        if found.chosen:
            remedy = "unset JAX_PLATFORMS"
        elif "tpu" in found.present and ("in use" in found.error or "busy" in found.error):
            remedy = "end the process that uses the TPU"
        return tell("fail", f"JAX does not start: {found.error}", remedy)
    kinds = dict.fromkeys(found.kinds)
    counts = ", ".join(f"{found.kinds.count(kind)} x {kind}" for kind in kinds)
    text = f"JAX computes on {found.platform}: {counts}"
    text += f", {found.memory / GIB:.1f} GiB each" if found.memory else ""
    unused = [kind for kind in found.present if found.platform == "cpu"]
    if not unused:
        return tell("ok", text)
    kind = unused[-1]
    text = f"a {kind.upper()} is in the machine, but {text}"
    if found.chosen:
        return tell("warn", f"{text} (JAX_PLATFORMS={found.chosen})", "unset JAX_PLATFORMS")
    if kind == "gpu" and found.driver == "loaded":
        return tell("warn", f"{text}: no device file of it is here", "docker run --gpus all")
    if kind == "gpu" and found.driver == "none":
        return tell("warn", f"{text}: it has no driver", "install the driver of NVIDIA")
    extra, plugin = {"gpu": ("cuda", "jax-cuda13-plugin"), "tpu": ("tpu", "libtpu")}[kind]
    remedy = install_extra(extra, packages)
    if plugin not in packages.installed:
        return tell("warn", f"{text}: the extra {extra!r} is not installed", remedy)
    reason = found.error or f"{plugin} {packages.installed[plugin]} finds none"
    return tell("warn", f"{text}: {reason}", remedy)


def install_extra(extra: str, packages: facts.Packages) -> str:
    """The command that installs an extra of the project, with the plug-in of the locked JAX."""
    if packages.checkout:
        return f'pip install -r requirements.txt ".[{extra}]"'
    plugin = {"cuda": "jax[cuda13]", "tpu": "jax[tpu]"}[extra]
    return shlex.join(("pip", "install", f"{plugin}=={packages.locked['jax']}"))


def check_memory(found: facts.Host) -> Finding:
    details = dataclasses.asdict(found)
    if not found.total:
        return Finding("memory", "ok", f"{found.cores:g} cores", "", details)
    text = f"{found.available / GIB:.1f} of {found.total / GIB:.1f} GiB free, {found.cores:g} cores"
    if found.available < LEAST_MEMORY:
        text += f": the quickstart wants {LEAST_MEMORY / GIB:g} GiB"
        remedy = "end other programs, or --config.train.generator.batch=4 and smaller"
        return Finding("memory", "warn", text, remedy, details)
    return Finding("memory", "ok", text, "", details)


def check_place(found: facts.Place) -> Finding:
    """A folder of the user: files can be made in it, and its disk has room."""
    text = f"{found.folder}: {found.free / GIB:.1f} GiB free"
    details = {"folder": str(found.folder), "free": found.free}
    way = {"workdir": "--workdir DIR", "temporary": "export TMPDIR=DIR"}[found.name]
    remedy = f"{way}, on a disk with room that you may write to"
    if found.problem:
        return Finding(found.name, "fail", found.problem, remedy, details)
    least = {"workdir": LEAST_FREE, "temporary": LEAST_FREE_TEMPORARY}[found.name]
    if found.free < least:
        text += f", less than {least / GIB:g} GiB is little"
        return Finding(found.name, "warn", text, remedy, details)
    return Finding(found.name, "ok", text, "", details)


def check_codecs(found: Mapping[str, float | str], packages: facts.Packages) -> Finding:
    """Every way in which NBP stores clips gives them back, nearly as they were."""
    wrong = [
        f"{name}: {value}" if isinstance(value, str) else f"{name}: {value:.0f} dB"
        for name, value in found.items()
        if isinstance(value, str) or value < LEAST_PSNR.get(name, 28.0)
    ]
    if wrong:
        pins = (f"{n}=={packages.locked[n]}" for n in ("av", "pillow") if n in packages.locked)
        remedy = shlex.join(("pip", "install", "--force-reinstall", *pins))
        return Finding("codecs", "fail", "; ".join(wrong), remedy, dict(found))
    text = ", ".join(f"{name} {value:.0f} dB" for name, value in found.items())
    return Finding("codecs", "ok", f"written and read back: {text}", "", dict(found))


def check_cache(found: facts.CompilationCache) -> Finding:
    """Without a folder every start compiles anew: slower, and nothing is lost."""
    details = {"folder": str(found.folder or ""), "files": found.files, "size": found.size}

    def tell(state: State, text: str, remedy: str = "") -> Finding:
        return Finding("compiled", state, text, remedy, details)

    if found.off:
        text = "compiled programs are not kept (JAX_ENABLE_COMPILATION_CACHE)"
        return tell("warn", text, "unset JAX_ENABLE_COMPILATION_CACHE")
    remedy = "export JAX_COMPILATION_CACHE_DIR=DIR, a folder of yours"
    if found.folder is None:
        return tell("warn", "no home: compiled programs are not kept", remedy)
    if found.place is not None and found.place.problem:
        return tell("warn", found.place.problem, remedy)
    text = f"{found.folder}: {found.files} files, {found.size / 2**20:.0f} MiB"
    if found.place is not None:
        text += f", {found.place.free / GIB:.1f} GiB free"
        if found.place.free < LEAST_FREE_CACHE:
            return tell("warn", f"{text}, little for compiled programs", remedy)
    return tell("ok", text)


def check_data(found: facts.DataFolder) -> Finding:
    """The folder of TFDS, which the commands need only where --data names it."""
    details = {"folder": str(found.folder), "data_sets": list(found.names)}
    if found.problem:
        remedy = "export TFDS_DATA_DIR=DIR, a folder of yours"
        return Finding("data sets", "warn", found.problem, remedy, details)
    names = _list(list(found.names)) or "none prepared yet (docs/data.md)"
    return Finding("data sets", "ok", f"{found.folder}: {names}", "", details)


def check_extras(found: facts.Packages) -> Finding:
    """Plug-ins of accelerators: JAX uses only that of its own version."""
    names = ("jax-cuda13-plugin", "jax-cuda12-plugin", "tokamax", "libtpu", "torch")
    present = {name: found.installed[name] for name in names if name in found.installed}
    jaxlib = found.installed.get("jaxlib", "")
    for name in ("jax-cuda13-plugin", "jax-cuda12-plugin"):
        if name in present and present[name].split(".")[:3] != jaxlib.split(".")[:3]:
            text = f"{name} {present[name]} is for another jaxlib than {jaxlib}"
            return Finding("extras", "warn", text, install_extra("cuda", found), present)
    text = ", ".join(f"{name} {version}" for name, version in present.items())
    return Finding("extras", "ok", text or "none (cuda, tpu: for accelerators)", "", present)


def check_compilation(found: facts.Compilation) -> Finding:
    text = f"a tiny program is compiled and run in {found.seconds:.2f} s"
    details = dataclasses.asdict(found)
    if not found.right:
        remedy = "unset XLA_FLAGS; then pip install --force-reinstall jaxlib"
        return Finding("compiler", "fail", f"{text}, with a wrong result", remedy, details)
    if found.seconds > SLOW:
        remedy = "end other programs, or use a machine with more cores"
        return Finding("compiler", "warn", text, remedy, details)
    return Finding("compiler", "ok", text, "", details)


def check_limits(found: facts.Limits) -> Finding:
    """What loader processes need (`data.workers`): open files, and memory that they share."""
    shown = str(found.files) if found.files < 2**31 else "any number of"
    text = f"{shown} open files"
    text += "" if found.shared is None else f", {found.shared / GIB:.1f} GiB of shared memory"
    details = dataclasses.asdict(found)
    if found.files < LEAST_FILES:
        most = min(found.most_files, 65536)
        remedy = f"ulimit -n {most}"
        return Finding(
            "limits", "warn", f"{text}, few for data sets of many files", remedy, details
        )
    if found.shared is not None and found.shared < LEAST_SHARED:
        remedy = "docker run --shm-size=2g, or --config.data.workers=0"
        return Finding("limits", "warn", f"{text}, little for loader processes", remedy, details)
    return Finding("limits", "ok", text, "", details)


def judge(name: str, check: Callable[..., Finding], *look: Callable[[], Any]) -> Finding:
    """The finding of a check, and a failure where a fact cannot even be asked for."""
    try:
        return check(*(ask() for ask in look))
    except Exception as error:
        return Finding(name, "fail", facts.shorten(error), "pip install -r requirements.txt")
