# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Notes what a process of a job sees of the others: `-m nbp.train --config C --workdir DIR`."""

import json
import sys
from pathlib import Path

from nbp.parallel import distributed


def main() -> None:
    distributed.initialize()

    import jax
    import numpy as np
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    from nbp.errors import ConfigError
    from nbp.parallel.mesh import make_mesh, place_batch, place_state, shard_batch

    process, processes = distributed.find_place()
    mesh = make_mesh()
    rows = distributed.find_rows(shard_batch(mesh), 16)
    batch = place_batch({"x": np.asarray(rows, np.float32)}, mesh)["x"]

    split = shard_batch(mesh).spec

    def add(x: jax.Array) -> jax.Array:
        return jax.lax.psum(x.sum(), split[0])

    total = jax.jit(jax.shard_map(add, mesh=mesh, in_specs=split, out_specs=P()))
    gather = jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, P()))
    state = place_state({"w": np.arange(3.0, dtype=np.float32)}, mesh)
    again = place_state(jax.tree.map(np.asarray, state), mesh)
    distributed.wait_for_all("twice")
    distributed.wait_for_all("twice")
    distributed.check_agreement({"configuration": "the same"})
    try:
        distributed.check_agreement({"configuration": "the same", "data set": f"of {process}"})
        disagreement = ""
    except ConfigError as error:
        disagreement = str(error)
    seen = {
        "processes": processes,
        "devices": jax.device_count(),
        "local": jax.local_device_count(),
        "rows": rows,
        "order": np.asarray(gather(batch)).tolist(),
        "psum": float(total(batch)),
        "placed": np.asarray(again["w"]).tolist(),
        "decided": distributed.decide(process == 0),
        "disagreement": disagreement,
    }
    workdir = Path(sys.argv[sys.argv.index("--workdir") + 1])
    (workdir / f"{process}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
