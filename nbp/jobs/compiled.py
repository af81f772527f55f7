# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Compiled programs are kept between runs: a second `nbp.sample` starts at once."""

import hashlib
import os
import platform
from pathlib import Path
from typing import Any

import jax


def keep_compiled() -> None:
    """Turns on JAX's persistent compilation cache, in the user's cache folder.

    A folder that was chosen before (JAX_COMPILATION_CACHE_DIR) is kept, and none is used where JAX
    was told not to (JAX_ENABLE_COMPILATION_CACHE=0) or the folder cannot be made.
    """
    config: Any = jax.config  # its fields are made at run time
    if config.jax_compilation_cache_dir or not config.jax_enable_compilation_cache:
        return
    folder = find_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))


def find_folder() -> Path:
    """One for each kind of host: programs for a CPU run only where its instructions are known."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf8").splitlines() if info.is_file() else []
    names = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    host = "\n".join([platform.machine(), *sorted(names)])
    return root / "nbp" / "compiled" / hashlib.sha256(host.encode()).hexdigest()[:16]
