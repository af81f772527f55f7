# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""A toy task and stream, and a command that trains it and kills itself where it is told to.

`python -m tests.training.toy DIR [KILL]` with KILL one of `draw:N` (at batch N), `save:N` (just
after the asynchronous save of step N began), `seal:N` (while step N is being committed).
"""

import math
import os
import signal
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from nbp.parallel.mesh import make_mesh
from nbp.tracking.tracking import Tracking
from nbp.training.checkpoint import Checkpointer
from nbp.training.early_stopping import BestSpec
from nbp.training.guards import GuardSpec
from nbp.training.loop import LoopSpec, run
from nbp.training.metrics import MetricsWriter
from nbp.training.optimizer import (
    OptimizerSpec,
    ParamGroup,
    accumulate_gradients,
    apply_gradients,
    make_optimizer,
)
from nbp.training.state import TrainState, make_state
from nbp.training.task import Evaluator

WIDTH = 16
BATCH = 8
STEPS = 20


def make_spec(**changes: Any) -> OptimizerSpec:
    values = {
        "learning_rate": 1e-2,
        "steps": STEPS,
        "warmup": 3,
        "weight_decay": 0.1,
        "ema": 0.9,
        "groups": (ParamGroup(".*/kernel"), ParamGroup(".*/bias", decay=False)),
    }
    return OptimizerSpec(**(values | changes))


class ToyTask:
    """A two-layer network with dropout that learns a fixed linear map."""

    name = "toy"
    items_per_clip: Mapping[str, int] = {"tokens": 3}

    def __init__(self, **changes: Any) -> None:
        self.changes, self.spec = changes, make_spec(**changes)
        self.frozen = {"scale": jnp.float32(2.0)}
        self.traces = 0

    def with_statistics(self) -> "ToyTask":
        return ToyTask(**self.changes, statistics=True)

    def init(self, key: jax.Array) -> TrainState:
        first, second = jax.random.split(key)
        params = {
            "hidden": {
                "kernel": jax.random.normal(first, (4, WIDTH)) * 0.5,
                "bias": jnp.zeros(WIDTH),
            },
            "out": {"kernel": jax.random.normal(second, (WIDTH, 2)) * 0.5, "bias": jnp.zeros(2)},
        }
        return make_state(
            params,
            make_optimizer(self.spec, params),
            with_ema=self.spec.ema > 0,
            extra={"seen": jnp.zeros((), jnp.int32)},
        )

    def loss(
        self, params: Any, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        hidden = jnp.tanh(batch["x"] @ params["hidden"]["kernel"] + params["hidden"]["bias"])
        hidden = hidden * jax.random.bernoulli(key, 0.9, hidden.shape)
        out = hidden @ params["out"]["kernel"] + params["out"]["bias"]
        loss = jnp.mean((out - batch["y"]) ** 2)
        return loss, {"largest": jnp.max(jnp.abs(out))}

    def step(
        self, state: TrainState, frozen: Any, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        self.traces += 1
        batch = {"x": batch["x"], "y": batch["y"] * frozen["scale"]}
        loss, metrics, gradients = accumulate_gradients(
            self.loss, state.params, batch=batch, key=key, accumulate=self.spec.accumulate
        )
        state, updates = apply_gradients(
            state, gradients, optimizer=make_optimizer(self.spec, state.params), spec=self.spec
        )
        extra = {"seen": state.extra["seen"] + batch["x"].shape[0]}
        state = TrainState(state.step, state.params, state.ema, state.opt_state, extra)
        return state, {"loss": loss, **metrics, **updates}


class ToyStream:
    """Batch k is a pure function of k. `at_draw(k)` is called before it is made."""

    fingerprint = "toy-1"

    def __init__(
        self,
        start: int,
        *,
        at_draw: Callable[[int], None] = lambda batch: None,
        nan_at: Collection[int] = (),
    ) -> None:
        self.position = start
        self.closed = False
        self._at_draw, self._nan_at = at_draw, nan_at

    def __next__(self) -> dict[str, np.ndarray]:
        self._at_draw(self.position)
        rng = np.random.default_rng([7, self.position])
        x = rng.normal(size=(BATCH, 4)).astype(np.float32)
        y = np.stack([x.sum(axis=1), x[:, 0] - x[:, 1]], axis=1)
        if self.position in self._nan_at:
            x[0, 0] = np.nan
        self.position += 1
        index = np.arange(BATCH, dtype=np.int64) + (self.position - 1) * BATCH
        return {"x": x, "y": y, "index": index}

    def close(self) -> None:
        self.closed = True


def train(
    directory: Path,
    *,
    task: ToyTask | None = None,
    steps: int = STEPS,
    at_draw: Callable[[int], None] = lambda batch: None,
    nan_at: Collection[int] = (),
    evaluators: Sequence[Evaluator] = (),
    mesh: Mesh | None = None,
    checkpointer: Checkpointer | None = None,
    log_every: int = 1,
    checkpoint_every: int = 5,
    changed_data: Literal["refuse", "accept"] = "refuse",
    guards: GuardSpec | None = None,
    tracking: Tracking | None = None,
    deadline: float = math.inf,
    best: BestSpec | None = None,
    statistics_every: int = 0,
) -> TrainState:
    """Trains the toy in `directory` like a stage of `nbp.train`."""
    with (
        checkpointer or Checkpointer(directory / "checkpoints") as checkpointer,
        MetricsWriter(directory, name="toy", tracking=tracking) as writer,
    ):
        return run(
            task or ToyTask(),
            stream_factory=lambda start: ToyStream(start, at_draw=at_draw, nan_at=nan_at),
            checkpointer=checkpointer,
            spec=LoopSpec(
                total_steps=steps,
                global_batch=BATCH,
                log_every=log_every,
                checkpoint_every=checkpoint_every,
                changed_data=changed_data,
                guards=guards or GuardSpec(),
                deadline=deadline,
                best=best,
                statistics_every=statistics_every,
            ),
            mesh=mesh if mesh is not None else make_mesh(data=1),
            writer=writer,
            meta={"config": "toy"},
            seed=3,
            evaluators=evaluators,
        )


def to_bytes(state: TrainState) -> list[bytes]:
    """Every leaf of the state as bytes, for comparison bit by bit."""
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


class KillingCheckpointer(Checkpointer):
    """Kills its process during the save of one step."""

    kill_after_save = -1
    kill_in_seal = -1

    def save(self, step: int, state: TrainState, **rest: Any) -> bool:
        started = super().save(step, state, **rest)
        if step == self.kill_after_save:
            os.kill(os.getpid(), signal.SIGKILL)
        return started

    def _seal(self) -> None:
        if list(self.directory.glob(f"{self.kill_in_seal}.*")):
            os.kill(os.getpid(), signal.SIGKILL)
        super()._seal()


def main(directory: str, kill: str = "none:-1") -> None:
    kind, _, number = kill.partition(":")
    checkpointer = KillingCheckpointer(Path(directory) / "checkpoints")
    checkpointer.kill_after_save = int(number) if kind == "save" else -1
    checkpointer.kill_in_seal = int(number) if kind == "seal" else -1

    def at_draw(batch: int) -> None:
        if kind == "draw" and batch == int(number):
            os.kill(os.getpid(), signal.SIGKILL)

    state = train(Path(directory), at_draw=at_draw, checkpointer=checkpointer)
    (Path(directory) / "final.bin").write_bytes(b"".join(to_bytes(state)))


if __name__ == "__main__":
    main(*sys.argv[1:])
