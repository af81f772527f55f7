# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What the chips can do, from their makers' tables; all that an estimate of step time rests on."""

import dataclasses
import os
import re
from dataclasses import dataclass
from typing import Any

from nbp.errors import ConfigError


@dataclass(frozen=True)
class Chip:
    """One accelerator.

    Attributes:
        name: as in a topology, e.g. "v5e".
        memory: bytes that a program can use, at most.
        flops: peak floating-point operations a second in bfloat16, dense; 0 if unknown.
        bandwidth: bytes a second between memory and chip; 0 if unknown.
        network: bytes a second that the chip sends to others of its slice while it receives as
            many, all links together (half of what makers call bidirectional); 0 if unknown.
        source: where the numbers are from.
    """

    name: str
    memory: int
    flops: float
    bandwidth: float
    network: float
    source: str


GB, TERA = 1e9, 1e12
_GOOGLE = "https://docs.cloud.google.com/tpu/docs/"

# Memory of a TPU: what its compiler accepts is a little less than the maker's round number.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v5e", int(15.75 * 2**30), 197 * TERA, 819 * GB, 200 * GB, f"{_GOOGLE}v5e"),
        Chip("v5p", 95 * 2**30, 459 * TERA, 2765 * GB, 600 * GB, f"{_GOOGLE}v5p"),
        Chip("v6e", int(31.25 * 2**30), 918 * TERA, 1600 * GB, 400 * GB, f"{_GOOGLE}v6e"),
        Chip(
            "A100 80GB", int(80 * GB), 312 * TERA, 2039 * GB, 300 * GB, "NVIDIA A100 datasheet, SXM"
        ),
        Chip("H100", int(80 * GB), 989 * TERA, 3350 * GB, 450 * GB, "NVIDIA H100 datasheet, SXM"),
        Chip("H200", int(141 * GB), 989 * TERA, 4800 * GB, 450 * GB, "NVIDIA H200 datasheet, SXM"),
    )
}


@dataclass(frozen=True)
class Topology:
    """Chips of one kind and their arrangement, e.g. `v5e:16x16`, `cpu:8` or `gpu`."""

    text: str
    kind: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of devices; 0 for those that are here."""
        count = 1
        for side in self.shape:
            count *= side
        return count if self.shape else 0


def parse_topology(text: str) -> Topology:
    """Reads `v5e:16x16`, `v5p:2x4x4`, `v6e:8x8`, `cpu:8` or `gpu`.

    Raises:
        ConfigError: it is none of these.
    """
    known = re.fullmatch(r"(v5e|v5p|v6e|cpu):([0-9]{1,6}(?:x[0-9]{1,6})*)|(gpu)", text)
    if known is None:
        raise ConfigError(
            f"--topology {text!r}: use v5e:16x16, v5p:2x4x4 (chips, not cores), v6e:8x8, cpu:8 "
            "or gpu"
        )
    kind, sides = known[1] or known[3], known[2]
    shape = tuple(int(side) for side in sides.split("x")) if sides else ()
    axes = {"v5e": 2, "v6e": 2, "v5p": 3, "cpu": 1, "gpu": 0}[kind]
    if len(shape) != axes or 0 in shape:
        raise ConfigError(f"--topology {text!r}: {kind} has {axes} axes, each 1 or more")
    return Topology(text, kind, shape)


def find_chip(topology: Topology, device: Any) -> Chip:
    """The chip of a topology; `device` is one of its devices.

    A GPU that is not in the table and a CPU have memory, but no speed that is known here.
    """
    if topology.kind in CHIPS:
        return CHIPS[topology.kind]
    if topology.kind == "cpu":
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Chip("cpu", total // topology.size, 0.0, 0.0, 0.0, "memory of this machine, shared")
    limit = (device.memory_stats() or {}).get("bytes_limit", 0)
    chip = find_known(device)
    if chip is None:
        return Chip(device.device_kind, limit, 0.0, 0.0, 0.0, "the driver")
    return dataclasses.replace(chip, memory=limit)


# How JAX names what the table calls otherwise.
KINDS = {"TPU v5 lite": "v5e", "TPU v5e": "v5e", "TPU v5": "v5p", "TPU v6 lite": "v6e"}


def find_known(device: Any) -> Chip | None:
    """The entry of the table for a device that is here."""
    kind = device.device_kind
    if kind in KINDS:
        return CHIPS[KINDS[kind]]
    return next((chip for name, chip in CHIPS.items() if name.split()[0] in kind), None)


def measure_mfu(rate: float, device: Any) -> dict[str, float]:
    """Columns of the metrics for `rate`, operations a second that the model needs on a device.

    The operations are those of `GeneratorNetwork.flops_per_clip`; nothing where they are unknown.
    """
    if not rate:
        return {}
    chip = find_known(device)
    return {"model_tflops_per_s": rate / 1e12, **({"mfu": rate / chip.flops} if chip else {})}
