# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Freed memory stays with the process once asked for, seen from outside by its resident size."""

import subprocess
import sys

import pytest

CODE = """
import numpy as np
from nbp.runtime import keep_freed_memory

def resident_mib():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 // 2**20

def grow():
    before = resident_mib()
    np.ones(2**27, np.uint8)  # freed at once
    return resident_mib() - before

print(grow(), keep_freed_memory(), grow())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a switch of glibc")
def test_freed_memory_is_kept() -> None:
    printed = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    before, kept, after = printed.stdout.split()
    assert kept == "True", printed.stderr
    assert int(before) < 64
    assert int(after) >= 127
