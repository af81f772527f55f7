# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Generators of golden cases: network and parameters from a case's config."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nbp.interop.mapping import convert_tensors, export_tensors
from nbp.interop.official import make_generator_rules
from nbp.layout import LatentGrid, Opening, SequencePlan, Vocabulary
from nbp.models.generator import GeneratorNetwork, paper_recipe
from nbp.nn.attention.reference import AttentionBackend, dense_attention
from nbp.nn.transformer import TransformerSpec
from nbp.shapes import Array, PyTree
from tests.official_parity.comparison import Reader
from tests.official_parity.weights import make_weight


def make_network(config: Reader, tokens: int, prompt: np.ndarray | None) -> GeneratorNetwork:
    """The network of a case: sequences of `tokens` video tokens in rows of one block."""
    block, prompts = config["block"], config["cond_token_num"]
    classes, variant = config["cond_vocab"] or 0, config["variant"]
    special = config["vocab_size"] - config["first_stage_vocab"] - classes
    kinds = {"plain": {0}, "bov": {1}, "label": {0, 1}, "hybrid": {block}, "label_hybrid": {block}}
    if special not in kinds.get(variant, ()):
        raise ValueError(f"variant {variant!r} with {special} special ids is unknown")
    kind = "hybrid" if "hybrid" in variant else "bov" if special else "prefix"
    plan = SequencePlan(
        LatentGrid(tokens // block, 1, block), (1, 1, block), Opening(kind), prompts
    )
    # Padding of texts: hidden without hybrid, seen with it (REFERENCE 1.3).
    pads = config["pad_id"] if prompts > 1 and "pad_id" in config else None
    attention: AttentionBackend = dense_attention
    if variant == "hybrid" and block == 1 and pads is not None and prompt is not None:
        attention = _hide_pads_ahead(prompt == pads)
    return GeneratorNetwork(
        TransformerSpec(config["n_layer"], config["n_head"], config["n_embd"]),
        plan,
        Vocabulary(config["first_stage_vocab"], classes, special),
        paper_recipe(attention, context=config["context"]),
        padding=pads if kind == "bov" else None,
    )


def make_params(network: GeneratorNetwork) -> PyTree:
    """Parameters rebuilt from official names, through the rules that convert published files."""
    template = jax.eval_shape(network.init, jax.random.key(0))
    rules, _ = official_rules(network)
    shapes = {name: zero.shape for name, zero in export_tensors(template, rules).items()}
    tensors = {name: make_weight("gpt", name, shape) for name, shape in shapes.items()}
    return convert_tensors(tensors, rules, template=template, origin="rebuilt generator weights")


def official_rules(network: GeneratorNetwork) -> Any:
    return make_generator_rules(network.spec.layers, prompt=network.plan.prompt_length > 0)


def read_prompt(config: Reader, read: Reader) -> np.ndarray | None:
    """Raw prompt ids, a row per clip; labels come as one number per clip."""
    if not config["cond_token_num"]:
        return None
    prompt = read["cond"]
    return prompt[..., None] if config["variant"].startswith("label") else prompt


def check_sizes(config: Reader, network: GeneratorNetwork, codes: np.ndarray) -> None:
    """Redundant fields of a case must agree with each other."""
    expected = {
        "cond_stage_vocab_size": network.vocabulary.prompt,
        "ctx": config["context"],
        "batch": codes.shape[0],
        "cut": network.plan.prompt_length,
        "dropout": 0.0,
    }
    found = {
        name: config[name] for name in (*expected, "seed", "z_len", "pad_id") if name in config
    }
    wrong = {
        name: found[name] for name in expected if found.get(name, expected[name]) != expected[name]
    }
    if wrong:
        raise ValueError(f"these fields contradict the arrays: {wrong}")


def _hide_pads_ahead(pads: np.ndarray) -> AttentionBackend:
    """Hybrid with blocks of one token, official: a prompt position sees no pad ahead of it."""

    def attend(q: Array, k: Array, v: Array, k_end: Array, key_mask: Array | None = None) -> Array:
        del key_mask
        length = pads.shape[1]
        if q.shape[1] <= length:  # a decoding pass: behind the prompt, nothing is hidden
            return dense_attention(q, k, v, k_end)
        rows, columns = np.arange(q.shape[1])[:, None], np.arange(k.shape[1])[None]
        padded = np.pad(pads, ((0, 0), (0, k.shape[1] - length)))
        hidden = padded[:, None] & (rows < length) & (columns > rows)
        # One query at a time keeps the plain signature: each row has a key mask of its own.
        parts = [
            dense_attention(q[:, i : i + 1], k, v, k_end[i : i + 1], jnp.asarray(~hidden[:, i]))
            for i in range(q.shape[1])
        ]
        return jnp.concatenate(parts, axis=1)

    return attend
