# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Test setup: eight virtual CPU devices, quick compilation, run-time checks of annotations."""

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
    # Fusions are lowered without MLIR, in half of the time. Later versions end at the flag.
    quick.append("--xla_cpu_use_fusion_emitters=false")
for flag in quick:
    if flag.partition("=")[0] not in flags:
        flags = f"{flags} {flag}".strip()
os.environ["XLA_FLAGS"] = flags
CACHE = Path(__file__).resolve().parent.parent / ".pytest_cache" / "jax"
CACHE.mkdir(parents=True, exist_ok=True, mode=0o700)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

from jaxtyping import install_import_hook  # noqa: E402

if "nbp" not in sys.modules:
    install_import_hook("nbp", "beartype.beartype")
