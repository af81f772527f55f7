# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The process: compiled programs that are kept between runs, and memory that is freed."""

import ctypes
import hashlib
import os
import platform
import sys
from pathlib import Path
from typing import Any

import jax

from nbp.errors import NbpError
from nbp.files import check_writable_folder


def keep_compiled() -> None:
    """Turns on JAX's persistent compilation cache, in the user's cache folder.

    A folder that was chosen before (JAX_COMPILATION_CACHE_DIR) is kept, and none is used where JAX
    was told not to (JAX_ENABLE_COMPILATION_CACHE=0), where the user has no home (as in containers),
    or where no file can be made in it. Others could write into a folder that all share.
    """
    config: Any = jax.config  # its fields are made at run time
    if config.jax_compilation_cache_dir or not config.jax_enable_compilation_cache:
        return
    folder = find_folder()
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        check_writable_folder(folder)
    except (OSError, NbpError):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))


def find_folder() -> Path | None:
    """One for each kind of host: programs for a CPU run only where its instructions are known.

    In XDG_CACHE_HOME, else in the user's home; None where there is neither. Relative paths are
    none, as that specification has it.
    """
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(chosen) and os.environ.get("HOME") == "":
        return None  # Python would take the root of the file system for the home
    try:
        root = Path(chosen) if os.path.isabs(chosen) else Path.home() / ".cache"
    except RuntimeError:  # neither HOME nor an entry in the list of users
        return None
    if not root.is_absolute():
        return None
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf8").splitlines() if info.is_file() else []
    names = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    host = "\n".join([platform.machine(), *sorted(names)])
    return root / "nbp" / "compiled" / hashlib.sha256(host.encode()).hexdigest()[:16]


_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # numbers of mallopt(3)


def keep_freed_memory() -> bool:
    """Keeps freed memory in the process where JAX computes on the host; returns whether it does.

    XLA's CPU backend asks for all temporaries of a program anew at each call. The C library maps
    large ones from the kernel and gives them back at once, so that every update pays for clearing
    hundreds of megabytes of fresh pages: 10 to 20% of its time. Only glibc has these switches. An
    arena of a thread cannot hold large blocks and maps them all the same, so threads share the one
    of the process.
    """
    if jax.default_backend() != "cpu" or not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    switches = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_ARENA_MAX, 1))
    return all(mallopt(name, value) for name, value in switches)
