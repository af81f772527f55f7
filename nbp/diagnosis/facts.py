# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Facts of this machine and installation, each asked for alone; `checks` judges them.

JAX and the codecs are imported where they are asked, so that the rest is known where they are
broken. Nothing is written but temporary files, and the network is not used.
"""

import contextlib
import functools
import os
import re
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from nbp.files import check_writable_folder

# A link to the lock of the project, a copy where NBP is installed.
LOCK = Path(__file__).parent / "requirements.txt"
CHECKOUT = Path(__file__).resolve().parent.parent.parent  # of the sources, if they are here


@dataclass(frozen=True)
class Interpreter:
    """version: e.g. (3, 12, 1). isolated: a virtual environment, or one of conda."""

    version: tuple[int, ...]
    executable: str
    isolated: bool


def find_interpreter() -> Interpreter:
    """The Python that runs this."""
    isolated = sys.prefix != sys.base_prefix or "CONDA_PREFIX" in os.environ
    return Interpreter(tuple(sys.version_info[:3]), sys.executable, isolated)


# Packages ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Packages:
    """installed: versions by names, lower case with dashes. locked: of this Python and system.

    lock: the file that pins them. checkout: whether it is that of the project's sources.
    """

    installed: dict[str, str]
    locked: dict[str, str]
    lock: Path
    checkout: bool


def find_packages(lock: Path = LOCK) -> Packages:
    """What is installed, and what the lock asks for here; nothing is imported."""
    installed = {}
    for found in metadata.distributions():
        with contextlib.suppress(Exception):  # one that is half removed
            installed.setdefault(normalize_name(found.metadata["Name"]), found.version)
    text = lock.read_text(encoding="utf8")
    checkout = (CHECKOUT / "pyproject.toml").is_file()
    place = lock.resolve() if checkout else lock
    locked = read_lock(text, tuple(sys.version_info[:2]), sys.platform)
    return Packages(installed, locked, place, checkout)


def normalize_name(name: str) -> str:
    """The name as locks write it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_lock(text: str, python: tuple[int, ...], platform: str) -> dict[str, str]:
    """Versions by names of a lock's lines, without those whose marker is false.

    The markers are those that our lock has; ValueError for another one.
    """
    found = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            pin, _, marker = line.partition(" ; ")
            if _holds(marker.strip(), python, platform):
                name, _, version = pin.partition("==")
                found[normalize_name(name)] = version.strip()
    return found


def _holds(marker: str, python: tuple[int, ...], platform: str) -> bool:
    if not marker:
        return True
    match = re.fullmatch(r"(python_full_version|sys_platform) (<|>=|==|!=) '([\w.]+)'", marker)
    if match is None:
        raise ValueError(f"the marker {marker!r} of the lock is not known")
    name, sign, text = match.groups()
    if name == "sys_platform":
        return (platform == text) == (sign == "==")
    version = tuple(int(part) for part in text.split("."))
    return (python < version) == (sign == "<")


# Devices -----------------------------------------------------------------------------------------


Driver = Literal["none", "loaded", "usable"]


@dataclass(frozen=True)
class Devices:
    """What JAX computes on, and what the machine has.

    platform: cpu, gpu, tpu, "" where JAX did not start. kinds: one for each device. memory: bytes
    that a program can use on one, 0 if unknown. error: of JAX. chosen: JAX_PLATFORMS.
    present: accelerators in the machine, "gpu", "tpu". driver: NVIDIA's, "none", "loaded" where
    this process sees no device file of it (a container), or "usable".
    """

    platform: str
    kinds: tuple[str, ...]
    memory: int
    error: str
    chosen: str
    present: tuple[str, ...]
    driver: Driver


# Of PCI: makers, and TPUs among Google's devices (`jax._src.hardware_utils`).
NVIDIA, GOOGLE = "0x10de", "0x1ae0"
TPUS = {"0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076"}


def find_devices() -> Devices:
    """Starts JAX, if it can be, and looks at the machine without it."""
    present, driver = find_accelerators()
    chosen = os.environ.get("JAX_PLATFORMS", "")
    # A training beside us keeps its memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        import jax

        devices = jax.devices()
        platform, error = devices[0].platform, ""
        if platform == "cpu" and "gpu" in present and not chosen:
            with contextlib.suppress(Exception):
                error = _ask_backend(jax, "cuda")
        stats = devices[0].memory_stats() or {}
    except Exception as fault:
        return Devices("", (), 0, shorten(fault), chosen, present, driver)
    kinds = tuple(device.device_kind for device in devices)
    memory = int(stats.get("bytes_limit", 0))
    return Devices(platform, kinds, memory, error, chosen, present, driver)


def _ask_backend(jax: Any, name: str) -> str:
    try:
        jax.devices(name)
    except RuntimeError as error:
        return shorten(error)
    return ""


def find_accelerators(root: Path = Path("/")) -> tuple[tuple[str, ...], Driver]:
    """Kinds of accelerators in the machine, from PCI and device files, and NVIDIA's driver.

    A container sees all of PCI, but device files only of what it was given.
    """
    present = set()
    nodes = [*(root / "dev").glob("nvidia[0-9]*"), *(root / "usr/lib/wsl/lib").glob("libcuda.so*")]
    loaded = (root / "proc/driver/nvidia/version").is_file()
    driver: Driver = "usable" if nodes else "loaded" if loaded else "none"
    if nodes:
        present.add("gpu")
    for device in (root / "sys/bus/pci/devices").glob("*"):
        maker, name, kind = (_read(device / file) for file in ("vendor", "device", "class"))
        if maker == NVIDIA and kind.startswith("0x03"):  # display and 3D controllers
            present.add("gpu")
        if maker == GOOGLE and name in TPUS:
            present.add("tpu")
    return tuple(sorted(present)), driver


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def shorten(error: BaseException) -> str:
    """The first line of an error, with its type, at most 300 characters."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}".removesuffix(": ")[:300]


# The host ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Host:
    """total, available: bytes of memory, a container's limit included. cores: that we may use."""

    total: int
    available: int
    cores: float


def find_host(root: Path = Path("/")) -> Host:
    """From /proc and control groups (version 2); 0 for what is not told."""
    text = _read(root / "proc/meminfo")
    found = {name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB", text, re.M)}
    total, available = found.get("MemTotal", 0), found.get("MemAvailable", 0)
    limit, used = (_read(root / f"sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if limit.isdecimal() and (not total or int(limit) < total):
        total = int(limit)
        available = min(available, max(0, total - int(used or 0)))
    affinity = getattr(os, "sched_getaffinity", None)
    cores = float(len(affinity(0)) if affinity else os.cpu_count() or 1)
    quota, _, period = _read(root / "sys/fs/cgroup/cpu.max").partition(" ")
    if quota.isdecimal() and period.isdecimal():
        cores = min(cores, int(quota) / int(period))
    return Host(total, available, cores)


@dataclass(frozen=True)
class Place:
    """A folder that is written to, or its nearest one that exists. problem: why it cannot be."""

    name: str
    folder: Path
    free: int
    problem: str


def find_place(name: str, folder: Path) -> Place:
    """Looks at a folder, which need not exist, and its disk; makes a file there and removes it."""
    place = Path(os.path.abspath(folder))
    while not os.path.isdir(place) and place != place.parent:
        place = place.parent
    try:
        check_writable_folder(folder, "")
        problem = ""
    except ValueError as error:
        problem = str(error).strip()
    return Place(name, folder, shutil.disk_usage(place).free, problem)


@dataclass(frozen=True)
class Limits:
    """files: that a process may open, soft and hard. shared: bytes of /dev/shm, None without it."""

    files: int
    most_files: int
    shared: int | None


def find_limits(shared: Path = Path("/dev/shm")) -> Limits:
    """Of this process."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = (sys.maxsize if n == resource.RLIM_INFINITY else n for n in limits)
    size = shutil.disk_usage(shared).free if shared.is_dir() else None
    return Limits(soft, hard, size)


# Video -------------------------------------------------------------------------------------------


def find_codecs() -> dict[str, float | str]:
    """PSNR in dB of a tiny clip through each way of storing one that NBP uses, or the error."""
    import numpy as np

    rows, columns = np.mgrid[:32, :32]
    stills = [np.stack([rows * 6, columns * 6 + t, rows * 3 + columns * 3], -1) for t in range(4)]
    clip = np.stack(stills).astype(np.uint8)

    def measure(store: Callable[[Any], Any]) -> float | str:
        try:
            found = store(clip)
            if found.shape != clip.shape:
                return f"frames of {found.shape}, not {clip.shape}"
            error = np.mean((found.astype(np.float64) - clip) ** 2)
        except Exception as fault:
            return shorten(fault)
        return float(10 * np.log10(255**2 / max(error, 1e-3)))

    ways = {
        "mp4 (H.264)": functools.partial(_through_file, "clip.mp4"),
        "gif": functools.partial(_through_file, "clip.gif"),
        "records (H.264)": functools.partial(_through_record, "h264"),
        "records (JPEG)": functools.partial(_through_record, "jpeg"),
    }
    return {name: measure(way) for name, way in ways.items()}


def _through_file(name: str, clip: Any) -> Any:
    from nbp.data.video.decode import read_clip
    from nbp.data.video.encode import write_gif, write_video

    write = write_gif if name.endswith(".gif") else write_video
    with tempfile.TemporaryDirectory(prefix="nbp-doctor-") as folder:
        write(f"{folder}/{name}", clip, fps=10.0)
        return read_clip(f"{folder}/{name}", frames=len(clip))


def _through_record(codec: Any, clip: Any) -> Any:
    import numpy as np

    from nbp.data.video.clip_codec import ClipEncoder, Coding, decode_clip

    encoder = ClipEncoder(Coding(codec), 10.0)
    for frame in clip:
        encoder.add(frame)
    return decode_clip(encoder.finish(), np.arange(len(clip)), name="clip")


# JAX's compiler ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class CompilationCache:
    """folder: None where there is none. size: bytes of its files. off: JAX was told so.

    place: its disk; None for a store that is none.
    """

    folder: Path | None
    files: int
    size: int
    place: Place | None
    off: bool


def find_cache() -> CompilationCache:
    """That of the user, or of the commands (`nbp.runtime`)."""
    import jax

    from nbp import runtime

    config: Any = jax.config
    chosen = config.jax_compilation_cache_dir
    folder = Path(chosen) if chosen else runtime.find_folder()
    off = not config.jax_enable_compilation_cache
    if off or folder is None or "://" in str(chosen):  # of object stores
        return CompilationCache(folder, 0, 0, None, off)
    sizes = []
    with contextlib.suppress(OSError):  # a training removes files, or all of it is not for us
        for entry in os.scandir(folder):
            sizes.append(entry.stat().st_size)
    return CompilationCache(folder, len(sizes), sum(sizes), find_place("compiled", folder), off)


@dataclass(frozen=True)
class Compilation:
    """seconds: until the first result of a tiny program. right: whether it is the right one."""

    seconds: float
    right: bool


def time_compilation() -> Compilation:
    """Compiles and runs a program, without the cache, which stays as it is."""
    import jax
    import jax.numpy as jnp

    config: Any = jax.config
    kept = config.jax_enable_compilation_cache
    config.update("jax_enable_compilation_cache", False)
    try:
        begun = time.monotonic()
        found = jax.jit(lambda x: jnp.sum(x @ x.T))(jnp.ones((8, 8)))
        return Compilation(time.monotonic() - begun, float(found) == 512.0)
    finally:
        config.update("jax_enable_compilation_cache", kept)


# Data --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DataFolder:
    """TFDS's. chosen: by TFDS_DATA_DIR. names: of the data sets in it. problem: in writing it."""

    folder: Path
    chosen: bool
    names: tuple[str, ...]
    problem: str


def find_data(chosen: str | None = None) -> DataFolder:
    """The folder and what is in it. chosen: in place of the environment's TFDS_DATA_DIR."""
    chosen = os.environ.get("TFDS_DATA_DIR", "") if chosen is None else chosen
    folder = Path(chosen or "~/tensorflow_datasets").expanduser()
    infos = (*folder.glob("*/*/dataset_info.json"), *folder.glob("*/*/*/dataset_info.json"))
    names = {info.relative_to(folder).parts[0] for info in infos}
    return DataFolder(
        folder, bool(chosen), tuple(sorted(names)), find_place("", folder).problem if chosen else ""
    )
