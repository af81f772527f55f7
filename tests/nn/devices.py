# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""GPUs that are not here, as compilers see them."""

from contextlib import AbstractContextManager

import jax

HOPPER, BLACKWELL = "NVIDIA H100", "NVIDIA B200"
CAPABILITIES = {HOPPER: "9.0", BLACKWELL: "10.0"}
CORES = 132


def describe_gpu(kind: str = HOPPER) -> AbstractContextManager[None]:
    """While it lasts, Pallas lowers kernels for this GPU."""
    device = jax.sharding.AbstractDevice(kind, CORES, "gpu")
    mesh = jax.sharding.AbstractMesh((1,), ("x",), abstract_device=device)
    return jax.sharding.use_abstract_mesh(mesh)
