# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Golden cases of the generator: full passes, greedy cached sampling, guidance, training steps."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nbp.models.generator import Generator, GeneratorNetwork
from nbp.models.inference import forward_cached, pack_layers
from nbp.nn.attention.kv_cache import Cache, make_cache
from nbp.sampling.generate import generate_ids
from nbp.sampling.settings import SamplingConfig
from nbp.shapes import Array, PyTree
from nbp.tasks.generator import score
from tests.nn.layers import unstack
from tests.official_parity.comparison import Comparison, compare
from tests.official_parity.gpt_network import check_sizes, make_network, make_params, read_prompt
from tests.official_parity.metrics import Arrays, Case, open_case


def check_forward(case: Case, arrays: Arrays) -> list[Comparison]:
    """Ids, mask, targets, residual stream, logits and loss of one pass over whole sequences."""
    with open_case(case, arrays, "gpt") as (config, tolerances, read):
        codes = read["z_indices"]
        prompt = read_prompt(config, read)
        network = make_network(config, codes.shape[1], prompt)
        plan, offset = network.plan, network.vocabulary.code_offset
        check_sizes(config, network, codes)
        if codes.shape != (config["batch"], config["z_len"]):
            raise ValueError(f"{case['name']}: z_indices {codes.shape} are not as configured")
        model = _bind(network)
        passed = _run_pass(model, codes + offset, prompt, null=None)
        loss, _ = score(model, codes, prompt)
        scored = model(codes, prompt) - passed["logits"][:, plan.prompt_length :]
        return [
            compare("tokens_in", passed["tokens_in"], read["tokens_in"], "exact"),
            compare("attn_mask", _mask(network, prompt, codes), read["attn_mask"], "exact"),
            compare(
                "targets", model.targets(codes) + model.output_ids.start, read["targets"], "exact"
            ),
            compare("hidden", passed["hidden"], read["hidden"], tolerances["hidden"]),
            compare("logits", passed["logits"], read["logits"], tolerances["logits"]),
            compare("logits of training", scored, np.zeros(scored.shape), 1e-5),
            compare("loss", loss, read["loss"], tolerances["loss"]),
            compare("offset", codes[:, plan.first :] + offset, read["targets"], "exact"),
        ]


def check_unconditional(case: Case, arrays: Arrays) -> list[Comparison]:
    """The same with the null condition in place of the prompt."""
    with open_case(case, arrays, "gpt") as (config, tolerances, read):
        codes = read["z_indices"]
        prompt = np.zeros((codes.shape[0], config["cond_token_num"]), np.int32)
        network = make_network(config, codes.shape[1], prompt)
        check_sizes(config, network, codes)
        ids = codes + network.vocabulary.code_offset
        passed = _run_pass(_bind(network), ids, prompt, null=np.ones(len(ids), bool))
        behind = passed["tokens_in"][:, network.plan.prompt_length :]
        return [
            compare("tokens_in", behind, read["tokens_in"], "exact"),
            compare("attn_mask", _mask(network, None, codes), read["attn_mask"], "exact"),
            compare("hidden", passed["hidden"], read["hidden"], tolerances["logits"]),
            compare("logits", passed["logits"], read["logits"], tolerances["logits"]),
        ]


def check_greedy(case: Case, arrays: Arrays) -> list[Comparison]:
    """Tokens drawn with the cache, and the logits of every cached pass."""
    with open_case(case, arrays, "gpt") as (config, tolerances, read):
        if config["sample_logits"] or config["top_k"] or config["top_p"]:
            raise ValueError(f"{case['name']}: only greedy sampling without filters is known")
        given, drawn = config["prefix_len"], read["tokens_out"]
        prompt = read_prompt(config, read)
        network = make_network(config, given + drawn.shape[1], prompt)
        check_sizes(config, network, drawn)
        offset = network.vocabulary.code_offset
        start = read["prompt"]
        known = np.zeros((len(drawn), network.plan.grid.size), np.int32)
        known[:, :given] = start[:, :given] - offset if given else 0
        sampling = SamplingConfig(temperature=0.0)
        model = _bind(network)
        ids = _generate(network, prompt, known=known, given=given, sampling=sampling)
        fed = _run_pass(model, ids, prompt, null=None)["tokens_in"]
        begin = fed[:, : network.plan.schedule(given).prefill]
        logits = _cached_logits(model, ids, prompt, null=None, given=given)
        return [
            compare("steps", network.plan.passes(given), config["steps"], "exact"),
            compare("prompt", begin, start, "exact"),
            compare("tokens_out", ids[:, given:], drawn, _exact(tolerances["tokens_out"])),
            compare(
                "step_logits",
                logits / config["temperature"],
                read["step_logits"],
                tolerances["step_logits"],
            ),
        ]


def check_guided(case: Case, arrays: Arrays) -> list[Comparison]:
    """Guided greedy sampling: tokens, and the logits of both branches in every cached pass."""
    with open_case(case, arrays, "gpt") as (config, tolerances, read):
        drawn = read["tokens_out"]
        prompt = read_prompt(config, read)
        assert prompt is not None
        network = make_network(config, drawn.shape[1], prompt)
        check_sizes(config, network, drawn)
        sampling = SamplingConfig(
            temperature=0.0,
            guidance=config["cfg_ratio"],
            guidance_schedule="ramp" if config["scale_cfg"] else "constant",
        )
        known = np.zeros(drawn.shape, np.int32)
        ids = _generate(network, prompt, known=known, given=0, sampling=sampling)
        model = _bind(network)
        branch = functools.partial(_cached_logits, model, ids, prompt, given=0)
        nulls = np.ones(len(drawn), bool)
        return [
            compare("steps", network.plan.passes(), config["steps"], "exact"),
            compare("tokens_out", ids, drawn, _exact(tolerances["tokens_out"])),
            compare(
                "cond_logits", branch(null=None), read["cond_logits"], tolerances["cond_logits"]
            ),
            compare(
                "uncond_logits",
                branch(null=nulls),
                read["uncond_logits"],
                tolerances["uncond_logits"],
            ),
        ]


# Running -----------------------------------------------------------------------------------------


def _bind(network: GeneratorNetwork) -> Generator:
    return network.bind(jax.tree.map(jnp.asarray, make_params(network)))


def _run_pass(
    model: Generator, ids: np.ndarray, prompt: np.ndarray | None, *, null: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Ids, residual stream [layers + 1, b, n, d] and logits of all positions."""
    plan = model.plan
    limits = jnp.asarray(plan.k_end)
    table = model.input_table(jnp.asarray(ids), prompt)
    seen = model.key_mask(prompt, null)

    @jax.jit
    def run(table: Array) -> tuple[Array, Array]:
        x = model.embed(table, 0, plan.length, null=null)
        hidden = [x]
        for layer in unstack(model.transformer):
            mix: Callable[..., Array] = functools.partial(
                model.transformer.attention, k_end=limits, key_mask=seen
            )
            hidden.append(layer(hidden[-1], mix))
        return jnp.stack(hidden), model.predict(model.transformer(x, limits, key_mask=seen))

    hidden, logits = map(np.asarray, run(table))
    inputs = np.asarray(table[:, plan.input_index])
    return {"tokens_in": inputs, "hidden": hidden, "logits": logits}


def _mask(network: GeneratorNetwork, prompt: np.ndarray | None, codes: np.ndarray) -> np.ndarray:
    """The mask [b n m] as the attention backend applies it, read off its response to values."""
    plan = network.plan
    model = _bind(network)
    seen = model.key_mask(prompt, None)
    flat = jnp.zeros((len(codes), plan.length, 1, plan.length))
    marks = jnp.broadcast_to(jnp.eye(plan.length)[None, :, None], flat.shape)
    limits = jnp.asarray(plan.k_end)
    return np.asarray(model.transformer.attention(flat, flat, marks, limits, seen))[:, :, 0] > 0


def _generate(
    network: GeneratorNetwork,
    prompt: np.ndarray | None,
    *,
    known: np.ndarray,
    given: int,
    sampling: SamplingConfig,
) -> np.ndarray:
    @jax.jit
    def run(params: PyTree) -> Array:
        return generate_ids(
            network.bind(params),
            jax.random.key(0),
            jnp.arange(len(known)),
            prompt=None if prompt is None else jnp.asarray(prompt),
            known=jnp.asarray(known),
            given=given,
            sampling=sampling,
        )

    return np.asarray(run(make_params(network)))


def _cached_logits(
    model: Generator,
    ids: np.ndarray,
    prompt: np.ndarray | None,
    *,
    null: np.ndarray | None,
    given: int,
) -> np.ndarray:
    """Logits of the tokens behind the given ones when all are fed pass by pass with the cache."""
    plan = model.plan
    schedule = plan.schedule(given)
    table = model.input_table(jnp.asarray(ids), prompt)
    seen = model.key_mask(prompt, null)
    layers = pack_layers(model.transformer)
    cache = make_cache(model.transformer.spec, len(ids), plan.length)
    passes = [(0, schedule.prefill, schedule.first_width)]
    for phase in schedule.phases:
        starts = range(phase.start, phase.start + phase.count * phase.width, phase.width)
        passes += [(start, phase.width, phase.width) for start in starts]

    @functools.partial(jax.jit, static_argnames=("width", "drawn"))
    def run(cache: Cache, start: Array, limits: Array, *, width: int, drawn: int) -> Any:
        x = model.embed(table, start, width, null=null)
        x, cache = forward_cached(
            model.transformer, x, cache, layers, start=start, k_end=limits, key_mask=seen
        )
        return model.predict(x[:, width - drawn :]), cache

    logits = []
    for start, width, drawn in passes:
        limits = plan.k_end[:width] if start == 0 else np.full(width, start + width)
        found, cache = run(cache, start, jnp.asarray(limits), width=width, drawn=drawn)
        logits.append(np.asarray(found))
    return np.concatenate(logits, axis=1)


def _exact(tolerance: str) -> str:
    """Golden files write "exact" with a remark behind it."""
    if not tolerance.startswith("exact"):
        raise ValueError(f"unknown tolerance {tolerance!r} of tokens")
    return "exact"


KINDS: dict[str, Callable[[Case, Arrays], list[Comparison]]] = {
    "gpt_forward": check_forward,
    "gpt_forward_uncond": check_unconditional,
    "gpt_greedy_sample": check_greedy,
    "gpt_greedy_sample_cfg": check_guided,
}
