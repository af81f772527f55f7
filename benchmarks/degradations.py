# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What the scores do when clips get worse by a known amount: one line per degradation and level.

    python -m benchmarks.degradations [--clips 256 --i3d_clips 16 --frames 16 --size 32]

Moving shapes with the index ranges of two disjoint sets: the reference, and the set that is
degraded. All features are those of random networks, so the numbers compare with one another only.
I3D sees the first `--i3d_clips` clips of both sets (0 leaves it out): it takes seconds per clip on
a CPU.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.measure import print_row
from benchmarks.video_degradations import DEGRADATIONS
from nbp import build
from nbp.data.moving_shapes import MovingShapesSpec, render_clip
from nbp.metrics.frechet import Moments, frechet_distance
from nbp.metrics.fvd import FeatureExtractor
from nbp.metrics.kvd import kernel_distance
from nbp.metrics.stream import Spectra, make_random_frames, stream_scores
from nbp.models.i3d import I3dNetwork, I3dSpec
from nbp.protocols.published import FeatureRule
from nbp.shapes import Clips
from nbp.weights import draw_i3d

HELD_OUT = 1_000_000  # index of the degraded set's first clip

Score = Callable[[Clips], dict[str, float]]


def main(argv: list[str] | None = None) -> None:
    """Prints the lines; level 0 of every degradation is the same undamaged set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument("--i3d_clips", type=int, default=16)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--only", nargs="+", default=tuple(DEGRADATIONS), choices=DEGRADATIONS)
    arguments = parser.parse_args(argv)

    spec = MovingShapesSpec(frames=arguments.frames, size=arguments.size, radius=(0.19, 0.23))
    real = draw_clips(spec, start=0, count=arguments.clips)
    made = draw_clips(spec, start=HELD_OUT, count=arguments.clips)
    scores = [score_stream(real)]
    if arguments.i3d_clips:
        scores.append(score_i3d(real, arguments.i3d_clips))
    untouched: dict[str, Any] = {}
    for name in arguments.only:
        degrade, levels = DEGRADATIONS[name]
        for level in levels:
            began = time.perf_counter()
            found = untouched if level == 0 else {}
            if not found:
                for score in scores:
                    found |= score(degrade(made, level))
            row = {"degradation": name, "level": level, **found}
            row |= {"clips": arguments.clips, "frames": arguments.frames, "size": arguments.size}
            print_row("degradations", row | {"seconds": round(time.perf_counter() - began, 1)})


def draw_clips(spec: MovingShapesSpec, *, start: int, count: int) -> Clips:
    """Moving shapes [count t h w 3] from index `start` on."""
    return np.stack([render_clip(spec, start + i)[0] for i in range(count)])


def score_stream(real: Clips) -> Score:
    """STREAM against `real` with features of the small random network."""
    features = make_random_frames()
    reference = Spectra.of(features(real))

    def score(clips: Clips) -> dict[str, float]:
        found = stream_scores(reference, Spectra.of(features(clips)))
        return {
            "stream_t_random": round(found.temporal, 4),
            "stream_f_random": round(found.fidelity, 4),
            "stream_d_random": round(found.diversity, 4),
        }

    return score


def score_i3d(real: Clips, count: int) -> Score:
    """Distances to the first `count` of `real` with features of the random I3D."""
    network = I3dNetwork(I3dSpec(), build.make_conv())
    rule = FeatureRule("any", "videogpt")
    extractor = FeatureExtractor(network, draw_i3d(network), rule, batch=8)
    reference = extractor(real[:count])

    def score(clips: Clips) -> dict[str, float]:
        features = extractor(clips[:count])
        distance = frechet_distance(Moments.of(features), Moments.of(reference))
        kernel = kernel_distance(features, reference)
        return {
            "fvd_random_features": round(distance, 4),
            "kvd_random_features": round(kernel.value, 4),
            "i3d_clips": count,
        }

    return score


if __name__ == "__main__":
    main()
