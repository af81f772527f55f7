# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Test setup: eight virtual CPU devices, a compilation cache, run-time checks of annotations."""

import os
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
flags = os.environ.get("XLA_FLAGS", "")
if "host_platform_device_count" not in flags:
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=8".strip()
# Compiling dominates tiny tests: share compiled programs between workers and runs.
CACHE = Path(__file__).resolve().parent.parent / ".pytest_cache" / "jax"
CACHE.mkdir(parents=True, exist_ok=True, mode=0o700)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

from jaxtyping import install_import_hook  # noqa: E402

if "nbp" not in sys.modules:
    install_import_hook("nbp", "beartype.beartype")
