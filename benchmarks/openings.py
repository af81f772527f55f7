# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What trained workdirs give side by side: quality, passes and frames per second, in one run.

    python -m benchmarks.openings runs/one_block runs/quickstart runs/token [--clips 256]

For workdirs trained on moving shapes with the same tokenizer. Generation is timed after
compilation, decoding to pixels included.
"""

import argparse
from pathlib import Path

import jax

from benchmarks.measure import draw_for_labels, print_row, time_calls
from nbp import build, build_sampling
from nbp.build_sampling import make_sampling
from nbp.metrics.label_agreement import label_agreement
from nbp.workdir import read_config, read_labels


def main(argv: list[str] | None = None) -> None:
    """Prints a line per workdir."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workdirs", nargs="+", type=Path)
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args(argv)
    for workdir in arguments.workdirs:
        config, labels = read_config(workdir), read_labels(workdir)
        sampling = make_sampling(config)
        sampler, origin = build_sampling.load_sampler(
            config, workdir, labels=labels, sampling=sampling
        )
        samples, names = draw_for_labels(sampler, labels, count=arguments.clips, seed=0)
        scores = label_agreement(build.make_tracker(config), samples.videos, names)
        batch = sampling.batch
        ids = [i % len(labels) for i in range(batch)]
        times = time_calls(
            lambda sampler=sampler, ids=ids: jax.numpy.asarray(
                sampler.sample(len(ids), seed=1, labels=ids).tokens
            ),
            repeats=arguments.repeats,
        )
        print_row(
            "openings",
            {
                "workdir": workdir.name,
                "block": list(config.block),
                "opening": f"{config.opening.kind} {config.opening.blocks} blocks",
                "passes": round(float(samples.passes.mean()), 2),
                **{k: round(v, 3) for k, v in scores.items() if k.endswith("agreement")},
                "batch": batch,
                **times,
                "frames_per_s": round(batch * config.data.frames / times["seconds_median"], 1),
                "generator_step": origin["generator_step"],
            },
        )


if __name__ == "__main__":
    main()
