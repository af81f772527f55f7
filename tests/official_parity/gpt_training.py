# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Golden cases of generator training: a few updates of the paper recipe."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from nbp.build import GENERATOR_GROUPS
from nbp.interop.mapping import export_tensors
from nbp.models.generator import GeneratorNetwork
from nbp.shapes import Array, PyTree
from nbp.tasks.generator import score, update
from nbp.tasks.tokenizer import start_state
from nbp.training.optimizer import OptimizerSpec, assign_groups
from tests.official_parity.comparison import Comparison, compare
from tests.official_parity.gpt_network import (
    check_sizes,
    make_network,
    make_params,
    official_rules,
    read_prompt,
)
from tests.official_parity.metrics import Arrays, Case, open_case

ZERO_GRADIENT = "attn.key.bias"  # softmax does not see it: Adam makes rounding noise of it


def check_training(case: Case, arrays: Arrays) -> list[Comparison]:
    """Losses, gradients, learning rates and parameters over a few updates of the paper recipe."""
    with open_case(case, arrays, "gpt") as (config, tolerances, read):
        codes = read["z_indices"]
        prompt = read_prompt(config, read)
        first = None if prompt is None else prompt[0]
        network = make_network(config, codes.shape[2], first)
        check_sizes(config, network, codes[0])
        spec = OptimizerSpec(
            learning_rate=config["base_lr"],
            steps=config["max_steps"],
            warmup=config["warmup_steps"],
            schedule="paper",
            b1=config["betas"][0],
            b2=config["betas"][1],
            eps=config["eps"],
            weight_decay=config["weight_decay"],
            clip_norm=config["grad_clip"],
            groups=GENERATOR_GROUPS,
        )

        def loss_fn(params: PyTree, batch: Any, key: Array) -> tuple[Array, dict[str, Array]]:
            model = network.bind(params)
            return score(model, batch["codes"], batch.get("prompt"), key=key)

        @jax.jit
        def step(state: Any, batch: Any) -> Any:
            return update(spec, loss_fn, state, batch=batch, key=jax.random.key(0))

        batches = [{"codes": rows} for rows in codes]
        if prompt is not None:
            batches = [b | {"prompt": rows} for b, rows in zip(batches, prompt, strict=True)]
        params = make_params(network)
        value = jax.jit(lambda params, batch: loss_fn(params, batch, jax.random.key(0))[0])
        gradients = jax.device_get(jax.jit(jax.grad(value))(params, batches[0]))
        state, log = start_state(params, spec), []
        for batch in batches[: config["n_steps"]]:
            state, metrics = step(state, batch)
            log.append(metrics)
        names = [str(name) for name in read["param_names"]]
        exported = functools.partial(_export, network)
        slopes, ends = exported(gradients), exported(jax.device_get(state.params))
        decayed = _decay_of(network, spec)
        moved = [name for name in names if not name.endswith(ZERO_GRADIENT)]
        rows = [names.index(name) for name in moved]
        loose = tolerances["grad_norms"]
        finals = [value(state.params, batch) for batch in batches]
        sums = [float(np.sum(ends[name], dtype=np.float64)) for name in moved]
        width = read["grad0_head"].shape[1]
        heads = [slopes[name].reshape(-1)[:width] for name in names]
        return [
            compare("updates", len(log), config["n_steps"], "exact"),
            compare("losses", _column(log, "loss"), read["losses"], tolerances["losses"]),
            compare("grad_norms", _column(log, "grad_norm"), read["grad_norms"], loose),
            compare("lrs", _column(log, "learning_rate"), read["lrs"], 1e-8),
            compare("final_losses", finals, read["final_losses"], tolerances["final_losses"]),
            compare("names", sorted(decayed) == sorted(names), True, "exact"),
            compare("weight_decay", [decayed[n] for n in names], read["weight_decay"], 1e-9),
            compare("grad0_norm", [_norm(slopes[n]) for n in names], read["grad0_norm"], loose),
            compare("grad0_head", heads, read["grad0_head"], loose),
            compare(
                "param_norm_end",
                [_norm(ends[name]) for name in moved],
                read["param_norm_end"][rows],
                tolerances["param_norm_end"],
            ),
            compare(
                "param_sum_end",
                sums,
                read["param_sum_end"][rows],
                {"atol": 0.05, "rtol": tolerances["param_norm_end"]["rtol"]},
            ),
        ]


def _export(network: GeneratorNetwork, params: PyTree) -> dict[str, np.ndarray]:
    return export_tensors(params, official_rules(network)[0])


def _decay_of(network: GeneratorNetwork, spec: OptimizerSpec) -> dict[str, float]:
    """Weight decay of each official parameter; the null condition is a buffer there."""
    template = jax.eval_shape(network.init, jax.random.key(0))
    index = assign_groups(spec.groups, template)
    decays = jax.tree.map(
        lambda leaf, i: np.full(leaf.shape, spec.weight_decay * spec.groups[i].decay),
        template,
        index,
    )
    exported = _export(network, decays)
    exported.pop("uncond_embedding", None)
    return {name: float(values.flat[0]) for name, values in exported.items()}


def _column(log: list[dict[str, Array]], name: str) -> list[float]:
    return [float(row[name]) for row in log]


def _norm(x: np.ndarray) -> float:
    return float(np.sqrt(np.sum(np.square(x, dtype=np.float64))))


KINDS: dict[str, Callable[[Case, Arrays], list[Comparison]]] = {"gpt_train_steps": check_training}
