# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The toy of tests/training as a job of several processes, one of which has a fault at each start.

`-m nbp.train --config FAULTS --workdir DIR`, FAULTS a list such as `1:7:term,0:9:kill,1:9:data`:
at the first start process 1 gets SIGTERM before batch 7, and so on.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from nbp.errors import DataError, run_main
from nbp.parallel import distributed

EVERY = 5


def main(argv: list[str] | None = None) -> None:
    del argv
    config, workdir = (sys.argv[sys.argv.index(name) + 1] for name in ("--config", "--workdir"))
    directory = Path(workdir)
    distributed.initialize()
    from nbp.parallel.mesh import make_mesh, shard_batch
    from nbp.training.checkpoint import Checkpointer
    from nbp.training.loop import LoopSpec, run
    from nbp.training.metrics import MetricsWriter
    from tests.training import toy

    process, _ = distributed.find_place()
    note = directory / f"starts.{process}"
    starts = int(note.read_text()) if note.exists() else 0
    note.write_text(str(starts + 1))
    who, batch, what = [*config.split(","), "-1:-1:none"][starts].split(":")

    def at_draw(number: int) -> None:
        if what == "term" and number > int(batch):
            time.sleep(0.5)  # JAX looks for the signal once a second, and the toy is faster
        if number != int(batch) or process != int(who):
            return
        saved = directory / "checkpoints" / str(number - number % EVERY)
        while what != "term" and not saved.is_dir():
            time.sleep(0.01)  # saving goes on meanwhile, and the toy is faster
        if what == "data":
            raise DataError("this process cannot read its clips")
        os.kill(os.getpid(), {"term": signal.SIGTERM, "kill": signal.SIGKILL}[what])

    mesh = make_mesh()
    rows = distributed.find_rows(shard_batch(mesh), toy.BATCH)

    class Share(toy.ToyStream):
        def __next__(self) -> dict[str, Any]:
            return {name: values[rows] for name, values in super().__next__().items()}

    with (
        Checkpointer(directory / "checkpoints") as checkpointer,
        MetricsWriter(directory, name="toy", silent=process > 0) as writer,
    ):
        run(
            toy.ToyTask(),
            stream_factory=lambda start: Share(start, at_draw=at_draw),
            checkpointer=checkpointer,
            spec=LoopSpec(toy.STEPS, toy.BATCH, log_every=1, checkpoint_every=EVERY),
            mesh=mesh,
            writer=writer,
            meta={"config": "toy"},
            seed=3,
        )


if __name__ == "__main__":
    run_main(main)
