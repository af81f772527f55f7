# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""How the process treats memory that it has freed."""

import ctypes
import sys

import jax

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # numbers of mallopt(3)


def keep_freed_memory() -> bool:
    """Keeps freed memory in the process where JAX computes on the host; returns whether it does.

    XLA's CPU backend asks for all temporaries of a program anew at each call. The C library maps
    large ones from the kernel and gives them back at once, so that every update pays for clearing
    hundreds of megabytes of fresh pages: 10 to 20% of its time. Only glibc has these switches.
    """
    if jax.default_backend() != "cpu" or not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, 2**31 - 1))
