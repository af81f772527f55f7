# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Clips/s of the loader from source files, prepared records and a token cache, side by side.

    python -m benchmarks.input_pipeline [--videos DIR] [--frames 17 --size 128] [--clips 64]

`one_core`: one thread that reads random clips, which is what a core gives. `loader`: the pipeline
that training uses, on all cores. `waiting`: how long a training step waits for its batch.
Without --videos it makes videos like UCF101's: 320x240, about 180 frames, MPEG-4 in avi and H.264
in mp4, textures that move, under film grain, so detailed that a stored frame takes about as many
bytes as one of a real clip (docs/data.md: 1.8 to 2.9 KB). All measurements use the same videos;
rounds alternate between the sources, and the median round counts.
"""

import argparse
import os
import shlex
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from benchmarks.measure import print_row
from nbp import prepare
from nbp.build_data import ClipData, find_dataset
from nbp.data.augmentation import make_clip_transforms
from nbp.data.pipeline import BatchStream, PipelineSpec
from nbp.data.records import RecordSource, make_record_transforms
from nbp.data.sources import FolderSpec, scan_folder
from nbp.data.token_cache import CacheWriter, TokenExample, open_cache
from nbp.layout import latents_of_frames

CODES = 64_000
STRIDE = (4, 8, 8)  # of the paper's tokenizer: 17x128x128 pixels are 5x16x16 tokens
ROUNDS = 5


def main(argv: list[str] | None = None) -> None:
    """Makes what is missing, measures, prints a line per measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=Path, help="folder of class folders; default: synthetic")
    parser.add_argument("--count", type=int, default=24, help="synthetic videos")
    parser.add_argument("--clips", type=int, default=48, help="decoded clips in a round")
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--fps", type=float, default=0.0, help="0: each video's own")
    parser.add_argument("--steps", type=int, default=20, help="training steps; 0: none")
    parser.add_argument("--seconds", type=float, default=0.1, help="of the device for a step")
    parser.add_argument("--prepare", default="", help='more for nbp.prepare: --prepare="--group 8"')
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="nbp-input-") as folder:
        work = Path(folder)
        videos = arguments.videos or make_videos(work / "videos", arguments.count)
        data = open_all(videos, work, arguments)
        # A token record is small: more of them, or the clock decides.
        clips = {name: arguments.clips * (40 if name == "tokens" else 1) for name in data}
        compare("one_core", data, clips, run=read_alone)
        compare("loader", data, clips, run=read_by_loader)
        for name in data if arguments.steps else ():
            measure_waiting(name, data[name], steps=arguments.steps, seconds=arguments.seconds)


def make_videos(folder: Path, count: int) -> Path:
    """Synthetic videos, half of them avi and half mp4, in two classes."""
    for i in range(count):
        rng = np.random.default_rng(i)
        frames = 160 + int(rng.integers(40))
        avi = i % 2 == 0
        path = folder / f"class{i % 4 // 2}" / f"{i}.{'avi' if avi else 'mp4'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        texture = make_texture(rng, 480, 640)
        y, x = np.mgrid[:240, :320]
        with av.open(str(path), "w") as out:
            stream: Any = out.add_stream("mpeg4" if avi else "libx264", rate=Fraction(25))
            stream.height, stream.width, stream.pix_fmt = 240, 320, "yuv420p"
            if avi:
                stream.bit_rate = 600_000  # as UCF101's
            phase, speed = rng.uniform(0, 6, 2), rng.uniform(0.003, 0.015, 2)
            for t in range(frames):
                top, left = (int(110 + 100 * np.sin(phase[k] + speed[k] * t)) for k in range(2))
                image = texture[top : top + 240, left : left + 320].astype(np.int16)
                disk = (x - 160 - 90 * np.sin(0.05 * t)) ** 2 + (y - 120) ** 2 < 40**2
                image[disk] = image[disk] // 2 + np.array([90, 40, 20], np.int16)
                image += rng.normal(0, 1, image.shape).astype(np.int16)
                shown = np.clip(image, 0, 255).astype(np.uint8)
                out.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
            out.mux(stream.encode())
    return folder


def make_texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A picture with detail at every scale: noise of amplitude 1 / frequency^1.5."""
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    fall = 1 / np.maximum(np.hypot(fy, fx), 1 / width) ** 1.5
    layers = []
    for _ in range(3):
        noise = rng.normal(size=fall.shape) + 1j * rng.normal(size=fall.shape)
        layer = np.fft.irfft2(noise * fall, (height, width))
        layers.append(128 + 45 * layer / layer.std())
    return np.clip(np.stack(layers, -1), 0, 255).astype(np.uint8)


def open_all(videos: Path, work: Path, arguments: argparse.Namespace) -> dict[str, ClipData]:
    """The three forms of the same videos."""
    frames, size, fps = arguments.frames, arguments.size, arguments.fps or None
    settings: Any = {"frames": frames, "size": size, "fps": fps, "training": True}
    scan = scan_folder(videos, FolderSpec(frames, fps, validation="same"))
    out = work / "prepared"
    prepare.main(
        ["folder", "--videos", str(videos), "--out", str(out), "--size", str(size),
         "--validation", "0", "--min_frames", str(frames), *shlex.split(arguments.prepare)]
    )  # fmt: skip
    dataset = next(folder for path in out.rglob("dataset_info.json") if (folder := path.parent))
    assert find_dataset(dataset) == dataset
    grid = (latents_of_frames(frames, STRIDE[0]), size // STRIDE[1], size // STRIDE[2])
    cache = make_cache(work / "tokens", grid, labels=scan.train.label_names)
    report_sizes(videos, dataset, cache)
    return {
        # Nothing is kept decoded: these few videos stand for more than memory holds.
        "source": ClipData(scan.train, make_clip_transforms(**settings, cache_bytes=0)),
        "records": ClipData(RecordSource(dataset, "train"), make_record_transforms(**settings)),
        "tokens": ClipData(open_cache(cache).source("train"), ()),
    }


def make_cache(root: Path, grid: tuple[int, int, int], *, labels: tuple[str, ...]) -> Path:
    """A cache of random codes: reading takes as long as with a tokenizer's."""
    plan = {"grid": grid, "codes": CODES, "labels": list(labels)}
    writer = CacheWriter(root, plan, examples={"train": 4096, "validation": 16}, shard_size=1024)
    writer.begin()
    rng = np.random.default_rng(0)
    for split in writer.examples:
        for number, examples in enumerate(writer.list_shards(split)):
            rows = (
                TokenExample(rng.integers(0, CODES, grid, np.int32), i % len(labels), f"{i}", 0)
                for i in examples
            )
            writer.write_shard(split, number, examples=rows, skipped=[])
    writer.finish()
    return root


def report_sizes(videos: Path, dataset: Path, cache: Path) -> None:
    def measure(folder: Path) -> float:
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20

    print_row(
        "input_pipeline",
        {
            "measured": "mib",
            "videos": sum(path.is_file() for path in videos.rglob("*")),
            "source": round(measure(videos), 2),
            "records": round(measure(dataset), 2),
            "tokens": round(measure(cache), 2),
        },
    )


def compare(
    name: str,
    data: dict[str, ClipData],
    clips: dict[str, int],
    *,
    run: Callable[[ClipData, int, int], float],
) -> None:
    """Measures all sources in alternation and prints their rates and ratios."""
    rates: dict[str, list[float]] = {source: [] for source in data}
    for attempt in range(ROUNDS + 1):
        for source, found in data.items():
            rate = clips[source] / run(found, clips[source], attempt)
            if attempt:  # the first round opens files and imports modules
                rates[source].append(rate)
    medians = {source: statistics.median(values) for source, values in rates.items()}
    row: dict[str, Any] = {"measured": name, "unit": "clips/s"}
    for source, values in rates.items():
        row[source] = round(medians[source], 1)
        row[f"{source}_range"] = [round(min(values), 1), round(max(values), 1)]
    row["records_over_source"] = round(medians["records"] / medians["source"], 2)
    row["tokens_over_source"] = round(medians["tokens"] / medians["source"], 1)
    print_row("input_pipeline", row)


def read_alone(data: ClipData, clips: int, attempt: int) -> float:
    """Seconds of one thread for `clips` random clips."""
    order = np.random.default_rng(attempt).permutation(np.arange(clips) % len(data.source))
    began = time.perf_counter()
    for index, row in enumerate(order):
        rng = np.random.default_rng((attempt, index))
        record = data.source[int(row)]
        for transform in data.transforms:
            record = transform(record, rng)
    return time.perf_counter() - began


def read_by_loader(data: ClipData, clips: int, attempt: int) -> float:
    """Seconds of the pipeline in one process, with as many threads as cores."""
    batch = 16
    threads = os.cpu_count() or 1
    spec = PipelineSpec(batch, attempt, threads=threads, prefetch=2 * threads)
    with BatchStream(data.source, data.transforms, spec) as stream:
        for _ in range(2 * threads):  # what was prefetched before the clock started
            next(stream)
        began = time.perf_counter()
        for _ in range(-(-clips // batch)):
            next(stream)
        seconds = time.perf_counter() - began
    wait_for_threads()
    return seconds * clips / (-(-clips // batch) * batch)


def wait_for_threads() -> None:
    """Waits until a closed stream's threads have finished the batches that they were making."""
    deadline = time.monotonic() + 60
    while any("prefetch" in thread.name for thread in threading.enumerate()):
        if time.monotonic() > deadline:
            raise TimeoutError("threads of a closed stream are still at work after a minute")
        time.sleep(0.01)


def measure_waiting(name: str, data: ClipData, *, steps: int, seconds: float) -> None:
    """How long each of `steps` updates waits for its batch, if the device takes `seconds` for one.

    The device is a sleep: an accelerator leaves the processor to the loader.
    """
    batch, waits = 16, []
    threads = os.cpu_count() or 1
    with BatchStream(data.source, data.transforms, PipelineSpec(batch, 0, threads=threads)) as draw:
        for step in range(steps + 4):  # the first ones find a filled queue
            began = time.perf_counter()
            next(draw)
            if step >= 4:
                waits.append(time.perf_counter() - began)
            time.sleep(seconds)
    print_row(
        "input_pipeline",
        {
            "measured": "waiting",
            "source": name,
            "batch": batch,
            "device_seconds": seconds,
            "wait_seconds_median": round(statistics.median(waits), 5),
            "wait_seconds_max": round(max(waits), 5),
        },
    )


if __name__ == "__main__":
    main()
