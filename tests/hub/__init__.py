# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
