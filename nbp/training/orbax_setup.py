# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What orbax is told once per process: to keep quiet, and how to save numpy arrays.

Orbax copies all numpy arrays first, because a training loop may overwrite them while they are
written, and then compresses all at once: three times their size in memory. Converted weights of 3B
parameters, the only large numpy arrays that we save, do not change and do not fit three times.
"""

import dataclasses
import functools
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

PIECE = 64 << 20  # bytes compressed at a time


class HostArrayHandler(ocp.type_handlers.NumpyHandler):
    """Saves numpy arrays one after another, in pieces, without a copy.

    They must not change until the save is waited for.
    """

    def __init__(self) -> None:
        super().__init__(deepcopy_host_arrays=False)

    async def _background_serialize(
        self, values: Sequence[Any], infos: Sequence[Any], args: Sequence[Any] | None = None
    ) -> None:
        args = args or [ocp.SaveArgs()] * len(values)
        for value, info, arg in zip(values, infos, args, strict=True):
            pieces = dataclasses.replace(arg, chunk_byte_size=PIECE)
            await super()._background_serialize([value], [info], [pieces])


@functools.cache
def set_up_orbax() -> None:
    """Drops orbax's log lines and makes it use `HostArrayHandler`; the first call does it."""
    logging.getLogger("absl").addFilter(_is_not_from_orbax)
    ocp.type_handlers.register_type_handler(np.ndarray, HostArrayHandler(), override=True)


def _is_not_from_orbax(record: logging.LogRecord) -> bool:
    """What matters in orbax's log reaches the user through the checkpointer's `report`."""
    return "orbax" not in record.pathname
