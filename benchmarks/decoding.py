# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Fewer passes against the plan's own on a trained workdir: quality, passes, frames per second.

    python -m benchmarks.decoding runs/quickstart [--clips 256] [--decodings plain jacobi:4 ...]

For a workdir trained on moving shapes. A line per decoding, with the same labels:
the share of clips that show their label, passes per clip (mean and largest; a batch takes its
largest), code statistics to compare with plain sampling, and the time of generation alone after
compilation. `plain:1` is plain sampling with another seed, which shows what chance does to the
statistics. `jacobi:4` has a window of 4 passes, `fixed:4` too but holds random numbers, `anew:4`
draws all drafts behind a rejected one anew, `relaxed:4:0.1:1` moves at most a share of 0.1 within
radius 1. `refine:8` draws each block in at most 8 passes (models with the draft channel),
`refine:8:entropy:0.5`, `refine:8:confidence:1` and `refine:8:order` by the rule of that name. Of a
run with several blocks `token` draws in token blocks, and `self:row` so, too, with drafts in rows
(self-speculation).
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.measure import draw_for_labels, print_row, time_calls
from nbp import build, build_sampling
from nbp.build_sampling import find_levels, make_sampling
from nbp.config.schema import Config
from nbp.layout import frames_of_latents
from nbp.metrics.label_agreement import label_agreement
from nbp.sampling.fixed_noise import FixedNoiseJacobi
from nbp.sampling.sampler import Sampler
from nbp.sampling.self_speculative import SelfSpeculative
from nbp.sampling.speculative import Autoregressive, Decoding, RelaxedJacobi, SpeculativeJacobi
from nbp.workdir import read_config, read_labels

DECODINGS = (
    *("plain", "plain:1", "jacobi:4", "jacobi:8", "anew:4"),
    *("relaxed:4:0.1:1", "relaxed:4:0.3:1"),
)


def main(argv: list[str] | None = None) -> None:
    """Prints a line per decoding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32, help="of the timed generation")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--decodings", nargs="+", default=DECODINGS)
    arguments = parser.parse_args(argv)
    trained, labels = read_config(arguments.workdir), read_labels(arguments.workdir)
    sampling = make_sampling(trained)
    reference = None
    for name in arguments.decodings:
        by_tokens = name.split(":")[0] in ("token", "self")
        config = trained.with_block("token") if by_tokens else trained
        sampler, origin = build_sampling.load_sampler(
            config,
            arguments.workdir,
            labels=labels,
            sampling=replace(sampling, **find_changes(name)),
            decoding=make_decoding(name, config),
        )
        seed = int(name.removeprefix("plain:")) if name.startswith("plain:") else 0
        samples, names = draw_for_labels(sampler, labels, count=arguments.clips, seed=seed)
        scores = label_agreement(build.make_tracker(config), samples.videos, names)
        shares = count_codes(samples.tokens, config.tokenizer.make_quantizer().codes)
        reference = shares if reference is None else reference
        print_row(
            "decoding",
            {
                "workdir": arguments.workdir.name,
                "decoding": name,
                "block": list(config.block),
                "opening": f"{config.opening.kind} {config.opening.blocks} blocks",
                "plan_passes": config.plan.passes(),
                "passes_mean": round(float(samples.passes.mean()), 2),
                "passes_max": int(samples.passes.max()),
                "clips": arguments.clips,
                **{k: round(v, 3) for k, v in scores.items() if k.endswith("agreement")},
                "code_entropy_bits": round(measure_entropy(shares), 3),
                "codes_vs_first_row": round(float(np.abs(shares - reference).sum() / 2), 4),
                **measure_speed(sampler, labels, arguments),
                "generator_step": origin["generator_step"],
            },
        )


def make_decoding(name: str, config: Config) -> Decoding:
    """The decoding of a command line's name, as `relaxed:WINDOW:DELTA:RADIUS`."""
    kind, *numbers = name.split(":")
    match kind, numbers:
        case "self", [block]:
            return SelfSpeculative(config.plan_of(block))
        case "plain", [] | [_]:
            return Autoregressive()
        case ("refine", [_] | [_, _] | [_, _, _]) | ("token", []):
            return Autoregressive()
        case "jacobi", [window] if config.generator.head == "vocabulary":
            return SpeculativeJacobi(int(window))
        case "jacobi" | "fixed", [window]:
            return FixedNoiseJacobi(int(window))
        case "anew", [window]:
            return SpeculativeJacobi(int(window), coupled=False)
        case "relaxed", [window, delta, radius]:
            return RelaxedJacobi(find_levels(config), int(window), int(radius), float(delta))
        case _:
            raise SystemExit(
                f"{name}: use plain, jacobi:N, fixed:N, anew:N, relaxed:N:DELTA:RADIUS, refine:N, "
                "token or self:BLOCK"
            )


def find_changes(name: str) -> dict[str, Any]:
    """The settings of `refine:PASSES[:RULE[:NUMBER]]`; nothing for other names."""
    kind, *values = name.split(":")
    if kind != "refine":
        return {}
    changes: dict[str, Any] = {"refinements": int(values[0])}
    if values[1:]:
        changes["commit"] = values[1]
    if values[2:]:
        numbers = {"entropy": "entropy_bound", "confidence": "confidence_noise"}
        changes[numbers[values[1]]] = float(values[2])
    return changes


def count_codes(tokens: np.ndarray, codes: int) -> np.ndarray:
    """Share of each code among the tokens."""
    return np.bincount(tokens.reshape(-1), minlength=codes) / tokens.size


def measure_entropy(shares: np.ndarray) -> float:
    """Bits of the mean distribution over codes."""
    used = shares[shares > 0]
    return float(-(used * np.log2(used)).sum())


def measure_speed(
    sampler: Sampler, labels: Sequence[str], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Seconds and frames per second of one batch, without the decoding to pixels."""
    batch, network = arguments.batch, sampler.generator
    ids = np.arange(batch)
    chosen = (ids % len(labels)).astype(np.int32)
    known = np.zeros((batch, network.plan.grid.size), np.int32)
    draw = sampler.draw_program(0)
    drawn = draw(sampler.generator_params, jax.random.key(1), ids, chosen, known)
    times = time_calls(
        lambda: draw(sampler.generator_params, jax.random.key(1), ids, chosen, known).codes,
        repeats=arguments.repeats,
    )
    stride = sampler.tokenizer.spec.stride[0]
    frames = batch * frames_of_latents(network.plan.grid.t, stride)
    return {
        "batch": batch,
        "batch_passes": int(drawn.passes.max()),
        **times,
        "frames_per_s": round(frames / times["seconds_median"], 1),
    }


if __name__ == "__main__":
    main()
