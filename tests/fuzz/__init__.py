# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Readers driven with mutated files: errors of `nbp.errors`, bounded time and memory, else a bug.

Each reader has a small test in the default set and a large one with `-m slow`.
"""
