# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What the published repositories do, written anew, beside what this package does.

`python -m tests.protocol_conformance` prints a table of protocols and steps. The side of the
originals (`originals`) imports nothing of nbp; what it says about other libraries is checked
against files that those wrote (`references`).
"""
