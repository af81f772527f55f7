# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Leaves out the tests of tokamax's kernels where it cannot be installed: before Python 3.12."""

from nbp.nn.attention.mosaic import is_installed

collect_ignore = [] if is_installed() else ["test_mosaic_kernels.py"]
