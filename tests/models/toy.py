# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Tiny generators of both recipes with random weights, and a float64 numpy reference of them."""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nbp.layout import Box, LatentGrid, Opening, Partition, Positions, SequencePlan, Vocabulary
from nbp.models.generator import GeneratorNetwork, modern_recipe, paper_recipe
from nbp.models.heads import HeadSpec
from nbp.models.tokenizer import TokenizerNetwork
from nbp.nn.attention.reference import AttentionBackend, xla_attention
from nbp.nn.transformer import TransformerSpec

LABELS = 5
WIDTH = 16
Name = Literal["paper", "modern"]


def make_network(
    grid: LatentGrid,
    block: Box,
    opening: Opening,
    *,
    recipe: Name = "modern",
    prompt: int = 0,
    codes: int = 11,
    attention: AttentionBackend = xla_attention,
    padding: int | None = None,
    draft: bool = False,
    positions: Positions = "learned",
    head: HeadSpec | None = None,
    partition: Partition = "box",
    **options: Any,
) -> GeneratorNetwork:
    """Two layers of two heads unless `options` (of the TransformerSpec) say otherwise."""
    sizes: dict[str, Any] = {"layers": 2, "heads": 2, "width": WIDTH} | options
    spec = TransformerSpec(**sizes)
    plan = SequencePlan(grid, block, opening, prompt, partition)
    vocabulary = Vocabulary(codes, LABELS if prompt else 0, plan.special_count)
    parts = {
        "paper": paper_recipe(attention, context=64),
        "modern": modern_recipe(attention, layers=spec.layers, positions=positions),
    }
    options = {"padding": padding, "draft": draft, "head": head}
    return GeneratorNetwork(spec, plan, vocabulary, parts[recipe], **options)


def abstract_params(network: GeneratorNetwork | TokenizerNetwork) -> Any:
    """Shapes of the parameters; nothing is allocated."""
    return nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: network.build(jax.random.key(0)))))


def draw_params(network: GeneratorNetwork | TokenizerNetwork, *, seed: int = 0) -> Any:
    """Random parameters of a network."""
    return random_params(abstract_params(network), seed=seed)


def random_params(params: Any, *, seed: int = 0) -> Any:
    """Every leaf random and of a size that matters: no zero biases, no near-uniform attention."""
    rng = np.random.default_rng(seed)

    def replace(path: Any, leaf: jax.Array) -> jax.Array:
        noise = rng.normal(size=leaf.shape)
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name.endswith("kernel"):
            # [i o], stacked [l i o], stacked query, key, value [l i 3 o], convolution [t h w i o]
            inputs = {4: leaf.shape[1:2], 5: leaf.shape[:-1]}.get(leaf.ndim, leaf.shape[-2:-1])
            noise *= 1.5 / math.sqrt(math.prod(inputs))
        elif name.endswith("scale"):
            noise = 1 + 0.1 * noise
        elif name.endswith("bias"):
            noise *= 0.1
        return jnp.asarray(noise, leaf.dtype)

    return jax.tree_util.tree_map_with_path(replace, params)


def layer_norm(x: np.ndarray, p: Any) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def linear(x: np.ndarray, p: Any) -> np.ndarray:
    return x @ p["kernel"] + p["bias"]


def attend(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    seen: np.ndarray,
    apart: np.ndarray | None = None,
) -> np.ndarray:
    """One head: q, k, v [n d]; seen [n n] is True where a query attends a key.

    apart [n n 3]: place of a query minus that of a key, for rotary positions.
    """
    out = np.zeros_like(q)
    speeds = rotary_speeds(q.shape[-1]).T
    turned = np.exp(1j * ((np.zeros((1, 1, 3)) if apart is None else apart) @ speeds))
    for n, keys in enumerate(seen):
        if apart is None:
            scores = k[keys] @ q[n]
        else:
            one, other = (x[..., : x.shape[-1] // 2] + 1j * x[..., x.shape[-1] // 2 :]
                          for x in (q[n], k[keys]))  # fmt: skip
            scores = (one * other.conj() * turned[n, keys]).sum(-1).real
        weights = np.exp(scores / math.sqrt(q.shape[-1]))
        out[n] = weights @ v[keys] / weights.sum()
    return out


def rotary_speeds(width: int) -> np.ndarray:
    """Radians a step of each pair of channels along each axis, [e 3]."""
    speeds = np.zeros((width // 2, 3))
    for axis in range(3):
        pairs = range(axis, width // 2, 3)
        for level, pair in enumerate(pairs):
            speeds[pair, axis] = 100 ** (-level / len(pairs))
    return speeds


def rotary_places(plan: SequencePlan) -> tuple[np.ndarray, np.ndarray]:
    """What each query predicts, and what it reads (else the same), (t, h, w) [n 3] each."""
    places = [np.unravel_index(i, plan.grid.shape) for i in plan.order]
    wanted = [(-1, (plan.grid.h - 1) / 2, (plan.grid.w - 1) / 2)] * plan.prompt_length
    wanted += [places[i] for i in plan.target_index[plan.prompt_length :]]
    read = [*[None] * (plan.prompt_length + plan.special_count), *places]
    found = [read[row] or place for row, place in zip(plan.input_index, wanted, strict=True)]
    return np.array(wanted, float), np.array(found, float)


def reference_transformer(
    params: Any,
    x: np.ndarray,
    k_end: np.ndarray,
    heads: int,
    *,
    hidden: np.ndarray | None = None,
    apart: tuple[np.ndarray, np.ndarray] | None = None,
    outputs: list[np.ndarray] | None = None,
) -> np.ndarray:
    """The layers of `params` one after the other, then the final norm; x [b n d], float64.

    k_end [n], or [n n], True where a query attends a key. `hidden` [b n] is True for keys that no
    query attends. apart: for rotary positions, of heads 0, 2, ... and of heads 1, 3, ...; see
    `attend`. outputs: takes the output of each layer.
    """
    seen = k_end[None]
    if k_end.ndim == 1:
        seen = np.arange(x.shape[1])[None, None, :] < k_end[None, :, None]
    seen = np.tile(seen, (len(x), 1, 1)) if hidden is None else seen & ~hidden[:, None, :]
    params = jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.float64), params)
    erf = np.vectorize(math.erf, otypes=[float])
    x = x.astype(np.float64)
    for i in range(params["layers"]["norm1"]["scale"].shape[0]):
        layer = jax.tree.map(lambda leaf, i=i: leaf[i], params["layers"])
        qkv = np.einsum("bnd,dce->cbne", layer_norm(x, layer["norm1"]), layer["qkv"]["kernel"])
        qkv = qkv + layer["qkv"]["bias"][:, None, None]
        mixed = np.zeros_like(x)
        for b in range(len(x)):
            for head, columns in enumerate(np.split(np.arange(x.shape[-1]), heads)):
                q, k, v = (a[b][:, columns] for a in qkv)
                turn = None if apart is None else apart[head % 2]
                mixed[b][:, columns] = attend(q, k, v, seen[b], turn)
        x = x + linear(mixed, layer["proj"])
        inner = linear(layer_norm(x, layer["norm2"]), layer["mlp"]["up"])
        inner = 0.5 * inner * (1 + erf(inner / math.sqrt(2)))
        x = x + linear(inner, layer["mlp"]["down"])
        if outputs is not None:
            outputs.append(x)
    return layer_norm(x, params["norm"])


def reference_logits(
    network: GeneratorNetwork,
    params: Any,
    ids: np.ndarray,
    prompt: np.ndarray | None = None,
    *,
    null: bool = False,
    drafts: np.ndarray | None = None,
    outputs: list[np.ndarray] | None = None,
) -> np.ndarray:
    """Logits [b n v] of the target positions for vocabulary ids [b size] in generation order.

    `null` puts the null condition in place of the prompt. drafts: codes [b size], the number of
    codes for a hidden one; None hides all. outputs: takes the output of each layer.
    """
    params = jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.float64), params)
    plan, special = network.plan, np.arange(network.plan.special_count)
    parts = [np.tile(special, (len(ids), 1)), ids]
    if prompt is not None:
        parts.insert(0, prompt + network.vocabulary.special)
    x = params["tokens"][np.concatenate(parts, axis=1)[:, plan.input_index]]
    if null:
        x[:, : plan.prompt_length] = params["null_prompt"]
    if "drafts" in params:
        shown = np.full(ids.shape, network.vocabulary.codes)
        size, opening = plan.block_size, plan.opening
        alone = opening.blocks * size if opening.kind == "hybrid" else 0
        if drafts is not None and size > 1:
            shown[:, alone:] = drafts[:, alone:]
        x[:, plan.prompt_length :] += params["drafts"][shown[:, plan.first :]]
    positions = params["positions"]
    apart = None
    if "table" in positions:
        x += positions["table"][: plan.length]
    elif "frame" in positions:
        wanted, read = rotary_places(plan)
        apart = (wanted[:, None] - read[None], wanted[:, None] - wanted[None])
        for q in range(plan.length):
            if q < plan.prompt_length:
                x[:, q] += positions["prompt"][q]
                continue
            for i, (at, size) in enumerate(zip(wanted[q, 1:], plan.grid.shape[1:], strict=True)):
                for k in range(8):
                    wave = math.cos(math.pi * (k + 1) * (at + 0.5) / size)
                    x[:, q] += wave * positions["frame"][8 * i + k]
    else:
        for q in range(plan.length):
            if q < plan.prompt_length:
                x[:, q] += positions["prompt"][q]
                continue
            place = np.unravel_index(plan.order[plan.target_index[q]], plan.grid.shape)
            for axis, i in zip(("time", "height", "width"), place, strict=True):
                x[:, q] += positions[axis][i]
    hidden = None
    if network.padding is not None and prompt is not None and not null:
        hidden = np.zeros(x.shape[:2], bool)
        hidden[:, : plan.prompt_length] = prompt == network.padding
    x = reference_transformer(
        params["transformer"],
        x,
        plan.k_end,
        network.spec.heads,
        hidden=hidden,
        apart=apart,
        outputs=outputs,
    )
    return x[:, plan.prompt_length :] @ params["head"]["kernel"]
