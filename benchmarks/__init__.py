# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Measurements; each prints JSON lines and imports with only jax, flax, optax and numpy."""
