# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What coarser weights and caches cost in quality: bits per token of held-out clips.

    python -m benchmarks.decode_types WORKDIR [--clips 256]

The codes of held-out clips are fed pass by pass through the cache, as sampling does, and scored
with the probabilities that the passes give them: a line for each type of weights and of the cache.
`bits_more` is over those of the compute type. Memory is that of what lies there in all passes.
"""

import argparse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure import print_row
from nbp import build_data, build_sampling
from nbp.build_sampling import make_sampling
from nbp.models.generator import GeneratorNetwork
from nbp.models.inference import InferenceModel, bind_inference_model, pack_params
from nbp.ranges import CacheType, WeightType
from nbp.shapes import Array, PyTree
from nbp.workdir import read_config, read_labels

TYPES: list[tuple[WeightType, CacheType]] = [
    ("compute", "compute"),
    ("compute", "bfloat16"),
    ("compute", "int8"),
    ("int8", "compute"),
    ("int8", "int8"),
]


def main(argv: list[str] | None = None) -> None:
    """Prints a line per pair of types."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    arguments = parser.parse_args(argv)
    config, labels = read_config(arguments.workdir), read_labels(arguments.workdir)
    sampling = make_sampling(config)
    sampler, origin = build_sampling.load_sampler(
        config, arguments.workdir, labels=labels, sampling=sampling
    )
    network, params = sampler.generator, sampler.generator_params
    encode = jax.jit(sampler.tokenizer.encode)
    held_out = build_data.make_data(config)[1]
    rows = []
    for batch in build_data.iterate_clips(
        config, held_out, limit=arguments.clips, batch=arguments.batch
    ):
        codes = batch.get("codes")
        grid = encode(sampler.tokenizer_params, batch["video"]) if codes is None else codes
        rows.append((network.to_sequence(np.asarray(grid, np.int32)), np.asarray(batch["label"])))

    plain = 0.0
    for weights, stored in TYPES:
        copy = jax.tree.map(lambda leaf: leaf + 0, params)
        laid = pack_params(network, copy, weights=weights)

        @jax.jit
        def score(laid: Any, codes: Array, label: Array, stored: Any = stored) -> Array:
            prompt = network.prompt({"label": label})
            return score_codes(bind_inference_model(network, laid, stored=stored), codes, prompt)

        bits = np.concatenate([np.asarray(score(laid, codes, label)) for codes, label in rows])
        mean = float(bits.mean())
        plain = plain or mean
        cache = jax.eval_shape(lambda laid, s=stored: make_cache(network, laid, s), laid)
        print_row(
            "decode_types",
            {
                "workdir": arguments.workdir.name,
                "weights": weights,
                "cache": stored,
                "compute": str(jnp.dtype(network.spec.dtype)),
                "clips": len(bits),
                "bits_per_token": round(mean, 5),
                "bits_more": round(mean - plain, 5),
                "layers_kib": count_bytes((laid.layers, laid.head)) // 1024,
                "cache_kib_per_clip": count_bytes(cache) // 1024,
                "generator_step": origin["generator_step"],
            },
        )


def make_cache(network: GeneratorNetwork, laid: Any, stored: Any) -> PyTree:
    return bind_inference_model(network, laid, stored=stored).make_cache(1, network.plan.length)


def count_bytes(tree: PyTree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def score_codes(decoder: InferenceModel, codes: Array, prompt: Array | None) -> Array:
    """Bits per token of each clip, [b], pass by pass."""
    model, plan = decoder.model, decoder.model.plan
    schedule = plan.schedule(0)
    table = model.input_table(codes + model.vocabulary.code_offset, prompt)
    targets, hidden = model.targets(codes), model.key_mask(prompt, None)

    def run(cache: Any, start: Any, fed: int, drawn: int, limits: Array) -> tuple[Any, Array]:
        x, cache = decoder.forward_cached(
            model.embed(table, start, fed), cache, start=start, k_end=limits, key_mask=hidden
        )
        logs = jax.nn.log_softmax(decoder.predict(x[:, fed - drawn :]))
        place = start + fed - drawn - plan.prompt_length
        wanted = jax.lax.dynamic_slice_in_dim(targets, place, drawn, axis=1)
        return cache, jnp.take_along_axis(logs, wanted[..., None], axis=2).sum((1, 2))

    fed = schedule.prefill
    cache = decoder.make_cache(len(codes), plan.length)
    cache, total = run(cache, 0, fed, schedule.first_width, jnp.asarray(plan.k_end[:fed]))
    for phase in schedule.phases:

        def step(carry: Any, i: Array, phase: Any = phase) -> tuple[Any, None]:
            start, width = phase.start + i * phase.width, phase.width
            cache, more = run(carry[0], start, width, width, jnp.full(width, start + width))
            return (cache, carry[1] + more), None

        (cache, total), _ = jax.lax.scan(step, (cache, total), jnp.arange(phase.count))
    return -total / jnp.log(2.0) / plan.target_count


if __name__ == "__main__":
    main()
