# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""NBP: next-block-prediction video generation in JAX."""

__version__ = "0.1.0"
