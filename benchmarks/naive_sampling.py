# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Sampling as it is usually written first, to be measured beside `nbp.sampling`.

One operation after the other without a compiled program, keys and values concatenated to a cache
that grows with each pass, layers cut off their stack in each pass, and top-k and top-p by sorting
the vocabulary, for one token after the other in a Python loop. The official PyTorch sampler does
the same (REFERENCE 3). Weights, plan and filters are those of the program it is compared with.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nbp.models.generator import GeneratorNetwork
from nbp.shapes import Array, PyTree


def draw_naively(
    network: GeneratorNetwork,
    params: PyTree,
    known: Array,
    given: int,
    *,
    top_k: int,
    top_p: float,
    passes: int | None = None,
) -> np.ndarray:
    """Ids [b size] of clips without a prompt; the last are not drawn after `passes` passes."""
    plan, model = network.plan, network.bind(params)
    ids = np.array(known) + network.vocabulary.code_offset
    schedule = plan.schedule(given)
    runs = [(0, schedule.prefill, schedule.first_width)]
    for phase in schedule.phases:
        starts = range(phase.start, phase.start + phase.count * phase.width, phase.width)
        runs += [(start, phase.width, phase.width) for start in starts]
    cache: list[tuple[Array, Array]] = []
    key = jax.random.key(0)
    for index, (start, fed, drawn) in enumerate(runs[:passes]):
        x = model.embed(model.input_table(jnp.asarray(ids), None), start, fed)
        limits = np.asarray(plan.k_end[:fed]) if start == 0 else np.full(fed, start + fed)
        x, cache = run_layers(network, params, x, cache, limits)
        logits = model.predict(model.transformer.norm(x)[:, fed - drawn :])
        first = start + fed - drawn + plan.first
        for i in range(drawn):
            chosen = draw_token(
                jax.random.fold_in(key, index * drawn + i), logits[:, i], top_k=top_k, top_p=top_p
            )
            ids[:, first + i] = (
                np.asarray(chosen) + network.recipe.output_ids(network.vocabulary).start
            )
    return ids


def run_layers(
    network: GeneratorNetwork,
    params: PyTree,
    x: Array,
    cache: list[tuple[Array, Array]],
    limits: np.ndarray,
) -> tuple[Array, list[tuple[Array, Array]]]:
    """All layers; the cache is a new one."""
    spec, stack, new = network.spec, params["transformer"]["layers"], []
    batch, n, width = x.shape
    for i in range(spec.layers):
        layer: Any = jax.tree.map(lambda p, i=i: p[i], stack)
        mixed = jnp.einsum("bnd,dce->bnce", normalize(layer["norm1"], x), layer["qkv"]["kernel"])
        heads = (mixed + layer["qkv"]["bias"]).reshape(batch, n, 3, spec.heads, spec.head_width)
        q, k, v = (heads[:, :, part] for part in range(3))
        if cache:
            k, v = jnp.concatenate([cache[i][0], k], 1), jnp.concatenate([cache[i][1], v], 1)
        new.append((k, v))
        scores = jnp.einsum("bnkd,bmkd->bknm", q, k) / np.sqrt(spec.head_width)
        seen = np.arange(k.shape[1]) < limits[:, None]
        weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1)
        out = jnp.einsum("bknm,bmkd->bnkd", weights, v).reshape(batch, n, width)
        x = x + out @ layer["proj"]["kernel"] + layer["proj"]["bias"]
        inner = normalize(layer["norm2"], x) @ layer["mlp"]["up"]["kernel"]
        inner = jax.nn.gelu(inner + layer["mlp"]["up"]["bias"], approximate=False)
        x = x + inner @ layer["mlp"]["down"]["kernel"] + layer["mlp"]["down"]["bias"]
    return x, new


def normalize(norm: Any, x: Array) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    spread = jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-5)
    return centred / spread * norm["scale"] + norm["bias"]


def draw_token(key: Array, logits: Array, *, top_k: int, top_p: float) -> Array:
    """One token of each clip [b] from logits [b v], by a sort of the vocabulary."""
    order = jnp.argsort(-logits, axis=-1)
    ranked = jnp.take_along_axis(logits, order, axis=-1)
    ranked = jnp.where(jnp.arange(ranked.shape[-1]) < top_k, ranked, -jnp.inf)
    weights = jax.nn.softmax(ranked, axis=-1)
    before = jnp.cumsum(weights, axis=-1) - weights
    ranked = jnp.where(before <= top_p, ranked, -jnp.inf)
    place = jax.random.categorical(key, ranked, axis=-1)
    return jnp.take_along_axis(order, place[:, None], axis=-1)[:, 0]
