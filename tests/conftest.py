# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Test setup: eight virtual CPU devices, quick compilation, run-time checks of annotations."""

import gc
import os
import sys
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
flags = os.environ.get("XLA_FLAGS", "")
# Compiling dominates tiny tests: let it do half of its work, and share what it made between workers
# and runs.
quick = ["--xla_force_host_platform_device_count=8", "--xla_backend_optimization_level=0"]
if version("jaxlib").startswith("0.10."):
    # Fusions are lowered without MLIR, in half of the time, and a program is not cut for threads
    # that it need not share. Later versions end at a flag that they no longer know.
    quick.append("--xla_cpu_use_fusion_emitters=false")
    quick.append("--xla_cpu_parallel_codegen_split_count=1")
for flag in quick:
    if flag.partition("=")[0] not in flags:
        flags = f"{flags} {flag}".strip()
os.environ["XLA_FLAGS"] = flags
CACHE = Path(__file__).resolve().parent.parent / ".pytest_cache" / "jax"
CACHE.mkdir(parents=True, exist_ok=True, mode=0o700)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
# Commands that are called again in one process compile the same programs again, most of them in a
# tenth of a second, so small ones are kept as well.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.02")

from jaxtyping import install_import_hook  # noqa: E402

if "nbp" not in sys.modules:
    install_import_hook("nbp", "beartype.beartype")


def pytest_collection_finish() -> None:
    """Leaves what imports have made, and never becomes garbage, out of all collections."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
