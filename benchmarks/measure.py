# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Timing and bookkeeping shared by the benchmarks."""

import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from nbp.sampling.sampler import Sampler, Samples


def time_calls(call: Callable[[], Any], *, repeats: int) -> dict[str, float]:
    """Seconds of `repeats` calls after one that is not counted: median, least, largest."""
    jax.block_until_ready(call())
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - began)
    return {
        "seconds_median": round(statistics.median(seconds), 5),
        "seconds_min": round(min(seconds), 5),
        "seconds_max": round(max(seconds), 5),
    }


def draw_for_labels(
    sampler: Sampler, labels: Sequence[str], *, count: int, seed: int
) -> tuple[Samples, list[str]]:
    """`count` clips with all labels in turn, and the label of each."""
    ids = [i % len(labels) for i in range(count)]
    return sampler.sample(count, seed=seed, labels=ids), [labels[i] for i in ids]


def describe_machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    return {
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "backend": jax.default_backend(),
        "cpu": find_cpu(),
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


def find_cpu() -> str:
    """The processor's name as Linux gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def measure_peak(dtype: Any) -> float:
    """FLOP/s of the fastest of some large matrix multiplications."""
    best = 0.0
    for n in (1024, 2048) if jax.default_backend() == "cpu" else (4096, 8192, 16384):
        a = jnp.ones((n, n), dtype)
        multiply = jax.jit(jnp.matmul)
        seconds = time_calls(lambda multiply=multiply, a=a: multiply(a, a), repeats=10)
        best = max(best, 2 * n**3 / seconds["seconds_min"])
    return round(best)


def measure_bandwidth() -> float:
    """Bytes/s of a copy of a large array, read and written."""
    size = 2**28 if jax.default_backend() == "cpu" else 2**31
    x = jnp.zeros(size // 4, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    return round(2 * size / time_calls(lambda: copy(x), repeats=10)["seconds_min"])


def peak_device_mib() -> float | None:
    """Largest memory in use on the first device so far, where it counts it."""
    statistics = jax.devices()[0].memory_stats() or {}
    peak = statistics.get("peak_bytes_in_use")
    return None if peak is None else round(peak / 2**20, 1)


def forget_peak_memory() -> None:
    """Lets `peak_memory_mib` count from now on, where Linux allows it."""
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5", encoding="utf8")


def peak_memory_mib() -> float:
    """Largest resident memory of this process so far."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf8").splitlines() if status.is_file() else []
    for line in lines:
        if line.startswith("VmHWM"):
            return round(int(line.split()[1]) / 2**10, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def print_row(benchmark: str, row: Mapping[str, Any]) -> None:
    """One JSON line."""
    print(json.dumps({"benchmark": benchmark, **row, **describe_machine()}), flush=True)
