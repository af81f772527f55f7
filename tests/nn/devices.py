# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""GPUs and TPUs that are not here, as compilers see them."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import jax

from nbp.nn.attention.mosaic import MosaicAttention

HOPPER, BLACKWELL = "NVIDIA H100", "NVIDIA B200"
CAPABILITIES = {HOPPER: "9.0", BLACKWELL: "10.0"}
CORES = 132
TPUS = ("TPU v5 lite", "TPU v5p", "TPU v6 lite")  # v5e, v5p, v6e


@dataclass(frozen=True)
class Gpu:
    """What kernels and `auto` ask a GPU."""

    device_kind: str = HOPPER
    compute_capability: str = CAPABILITIES[HOPPER]
    core_count: int = CORES
    platform: str = "gpu"


def make_mosaic() -> MosaicAttention:
    """Everything but tokamax's kernels, whose interpreter cannot run them: its plain operation."""
    from tokamax._src.ops.attention.base import DotProductAttention, DotProductAttentionVjp  # pyright: ignore[reportMissingImports]

    return MosaicAttention(DotProductAttention(vjp=DotProductAttentionVjp()))


def describe_gpu(kind: str = HOPPER) -> AbstractContextManager[None]:
    """While it lasts, Pallas lowers kernels for this GPU."""
    return _describe(jax.sharding.AbstractDevice(kind, CORES, "gpu"))


def describe_tpu(kind: str) -> AbstractContextManager[None]:
    """While it lasts, Pallas lowers kernels for this TPU."""
    return _describe(jax.sharding.AbstractDevice(kind, 1, "tpu"))


def _describe(device: jax.sharding.AbstractDevice) -> AbstractContextManager[None]:
    mesh = jax.sharding.AbstractMesh((1,), ("x",), abstract_device=device)
    return jax.sharding.use_abstract_mesh(mesh)
