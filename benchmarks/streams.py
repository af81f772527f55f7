# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Whether a stream slows down or grows: frames/s and memory early and late in one video.

    python -m nbp.train --config configs/quickstart.py:stream --workdir runs/stream
    python -m benchmarks.streams --workdir runs/stream [--videos 16] [--frames 257] [--repeats 3]

Each repeat draws the videos anew after one that compiles. Of each quarter of the frames behind the
first clip: frames/s of all videos together, and the largest resident memory of the process until
then.
"""

import argparse
import dataclasses
import resource
import time
from pathlib import Path

import numpy as np

from benchmarks.measure import print_row
from nbp.build_sampling import load_request_sampler, plan_request, read_drawing
from nbp.sampling.long_video import Rollout
from nbp.sampling.request import LongRequest, SampleRequest
from nbp.workdir import read_config, read_labels


def main(argv: list[str] | None = None) -> None:
    """Prints a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", required=True, type=Path)
    parser.add_argument("--videos", type=int, default=16)
    parser.add_argument("--frames", type=int, default=257)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args(argv)
    config, labels = read_config(arguments.workdir), read_labels(arguments.workdir)
    long = LongRequest(num_frames=arguments.frames)
    plan = plan_request(config, labels, SampleRequest(arguments.videos, long=long))
    assert plan.slide is not None
    sampler = load_request_sampler(config, arguments.workdir, labels, plan)
    rollout, drawing = Rollout(sampler, plan.slide), read_drawing(config, plan)
    list(rollout.sample(arguments.videos, config.data.frames + 8, **drawing))  # compiles

    rates, memory = [], []
    for _ in range(arguments.repeats):
        ends, clock, peaks = [], [], []
        for piece in rollout.sample(arguments.videos, arguments.frames, **drawing):
            ends.append(piece.frame + piece.videos.shape[1])
            clock.append(time.perf_counter())
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)
        quarters = np.array_split(np.arange(1, len(ends)), 4)
        spans = [(q[0] - 1, q[-1]) for q in quarters]
        rates.append([(ends[b] - ends[a]) / (clock[b] - clock[a]) for a, b in spans])
        memory.append([peaks[b] for _, b in spans])
    print_row(
        "streams",
        {
            "slide": plan.slide.kind,
            "videos": arguments.videos,
            "frames": arguments.frames,
            "frames_per_second": [
                round(arguments.videos * float(rate), 1) for rate in np.median(rates, axis=0)
            ],
            "resident_mib": [round(float(value), 1) for value in np.max(memory, axis=0)],
            "sampling": dataclasses.asdict(plan.sampling),
        },
    )


if __name__ == "__main__":
    main()
