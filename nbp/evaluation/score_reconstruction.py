# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""One pass of a tokenizer over real clips: every score of its reconstructions, in constant memory.

While one batch is scored on the host, the next is encoded and decoded on the devices.
"""

import dataclasses
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np

from nbp import build
from nbp.config.schema import Config
from nbp.data.video.encode import tile_clips, write_video
from nbp.errors import DataError
from nbp.evaluation.real_clips import RealClips
from nbp.evaluation.real_pixels import score_pixels
from nbp.evaluation.result import TokenBits, WorstClip
from nbp.metrics.fvd import FeatureExtractor
from nbp.metrics.lpips import LpipsScorer
from nbp.metrics.reconstruction import (
    BadClip,
    CodeCounter,
    PairedMoments,
    ReconstructionScores,
    WorstClips,
)
from nbp.models.network import fill_batch
from nbp.models.tokenizer import TokenizerNetwork, round_pixels
from nbp.parallel.mesh import make_mesh, place_batch, place_state
from nbp.progress import Progress
from nbp.protocols.pixels import to_bytes
from nbp.report.plots import write_frame_curve
from nbp.sample_files import GRID_SIDE, write_grid
from nbp.sampling.sampler import Sampler
from nbp.shapes import Clips, Float, PyTree

SHOWN = 8  # clips in a side-by-side GIF
WORST = 8  # clips written because they were reproduced worst

Rows = Mapping[str, np.ndarray]


class Devices:
    """All devices of this host: batches are split over them, parameters are copied to each."""

    def __init__(self) -> None:
        self._mesh = make_mesh(devices=jax.local_devices())

    def context(self) -> Any:
        """Computations inside are these devices' alone, whatever mesh training has."""
        return jax.set_mesh(self._mesh)

    def round_up(self, batch: int) -> int:
        """The least batch that they can share."""
        return -(-batch // self._mesh.size) * self._mesh.size

    def place(self, rows: Any) -> jax.Array:
        if isinstance(rows, jax.Array):
            return rows  # made there
        return place_batch({"rows": rows}, self._mesh)["rows"]

    def copy(self, params: PyTree) -> PyTree:
        return place_state(params, self._mesh)


class Codec:
    """Clips through the tokenizer and back. Always one shape, compiled once."""

    def __init__(
        self, network: TokenizerNetwork, params: PyTree, devices: Devices, *, batch: int
    ) -> None:
        self.codes = network.spec.make_quantizer().codes
        self.batch = devices.round_up(batch)
        self._params, self._place = devices.copy(params), devices.place

        def reconstruct(params: PyTree, video: jax.Array) -> tuple[jax.Array, ...]:
            tokens = network.encode(params, video)
            pixels = network.bind(params).decode(tokens)
            return tokens, pixels, round_pixels(pixels)

        self._reconstruct = jax.jit(reconstruct)

    def start(self, video: np.ndarray) -> tuple[jax.Array, ...]:
        """Codes, pixels in [0, 1] and bytes of at most `batch` clips, being computed.

        video: bytes, or floats in [0, 1]. Found are `batch` rows; those after the clips mean
        nothing.
        """
        return self._reconstruct(self._params, self._place(fill_batch(video, self.batch)))


@dataclass(frozen=True)
class Measures:
    """What is measured beside PSNR, SSIM, GMS and the use of the codes.

    frames: the first frames, on which PSNR, SSIM and GMS are computed; None all.
    real: features of the clips, in their order, where they are known already.
    also: called with "codes" and "label" of each batch. shown: clips that are kept for a picture.
    """

    frames: int | None = None
    extractor: FeatureExtractor | None = None
    real: Float[np.ndarray, "n d"] | None = None
    lpips: LpipsScorer | None = None
    also: Callable[[Rows], None] | None = None
    shown: int = SHOWN


@dataclass(frozen=True)
class Reconstructed:
    """Scores of a pass; `rfvd` is None without features. shown: [n t h w 3] clips, then outputs.

    codes: how often each code occurred.
    """

    scores: dict[str, float]
    rfvd: float | None
    psnr_per_frame: list[float]
    worst: list[BadClip]
    shown: tuple[Clips, Clips]
    codes: np.ndarray


def score_reconstruction(
    clips: RealClips, codec: Codec, measures: Measures, report: Callable[[str], None]
) -> Reconstructed:
    """Reconstructs every clip once and scores it. Raises DataError where clips cannot be read."""
    fidelity = ReconstructionScores(measures.frames)
    counter = CodeCounter(codec.codes)
    worst = WorstClips(WORST)
    extractor = measures.extractor
    moments = None
    if extractor is not None:
        moments = PairedMoments(extractor.dimensions, ddof=extractor.rule.ddof)
    distances: list[float] = []
    shown: list[tuple[Clips, Clips]] = []

    def finish(rows: Rows, tokens: jax.Array, pixels: jax.Array, decoded: jax.Array) -> None:
        video, count = to_bytes(rows["video"]), len(rows["video"])
        outputs = np.asarray(decoded)[:count]
        if extractor is not None and moments is not None:
            known = measures.real
            if known is None:
                real = extractor(score_pixels(rows["video"], clips.rule))
            else:
                real = known[rows["index"]].astype(np.float64)
            moments.add(real, extractor(pixels[:count]))
        if measures.lpips is not None:
            distances.extend(measures.lpips(video, outputs).tolist())
        codes = np.asarray(tokens)[:count]
        if measures.also is not None:
            measures.also({"codes": codes, "label": rows["label"]})
        psnr = fidelity.add(video, outputs, pool=pool)
        worst.add(rows["index"].tolist(), psnr.tolist(), video, outputs)
        counter.add(codes)
        if not shown:
            few = measures.shown
            shown.append((video[:few].copy(), outputs[:few].copy()))
        progress.step(count)

    with (
        ThreadPoolExecutor(os.cpu_count() or 1) as pool,
        Progress(len(clips.rows), "clips", report) as progress,
    ):
        pending: tuple[Any, ...] = ()
        for rows in clips.batches(codec.batch):
            started = codec.start(rows["video"])
            if pending:
                finish(*pending)
            pending = (rows, *started)
        if not pending:
            raise DataError("there are no clips to score; check the data configuration")
        finish(*pending)
    scores = {**fidelity.result(), **counter.result()}
    if distances:
        scores["lpips"] = float(np.mean(distances))
    rfvd = None if moments is None else moments.distance
    curve = fidelity.psnr_per_frame
    return Reconstructed(scores, rfvd, curve, worst.result(), shown[0], counter.counts)


def write_reconstruction(
    found: Reconstructed, clips: RealClips, out: Path, *, name: str, fps: float, stride: int
) -> list[WorstClip]:
    """Writes pictures into the folder `out`; returns what the worst clips are, from the worst on.

    reconstructions.gif: clips beside their reconstructions. frames-NAME.png: PSNR over the frames.
    worst/NAME/: of each clip the original, the reconstruction, and four times their difference.
    """
    pairs = np.stack(found.shown, axis=1)
    pairs = pairs.reshape(-1, *pairs.shape[2:])
    write_grid(out / "reconstructions.gif", pairs, fps=fps, columns=4)
    write_frame_curve(
        out / f"frames-{name}.png",
        found.psnr_per_frame,
        title=f"{clips.config.name}, {name}: {len(clips.rows)} clips",
        stride=stride,
    )
    folder = out / "worst" / name
    shutil.rmtree(folder, ignore_errors=True)
    return [
        _write_worst(bad, folder, clips, place=place, fps=fps)
        for place, bad in enumerate(found.worst)
    ]


def _write_worst(
    bad: BadClip, folder: Path, clips: RealClips, *, place: int, fps: float
) -> WorstClip:
    file = folder / f"{place:02d}-clip-{bad.index}-psnr-{bad.psnr:.2f}.mp4"
    picture = tile_clips(bad.triple, columns=3)
    scale = max(1, GRID_SIDE // bad.clip.shape[1])
    write_video(file, picture.repeat(scale, axis=1).repeat(scale, axis=2), fps=fps)
    shown = {"index": bad.index, "psnr": round(bad.psnr, 4), **clips.describe(bad.index)}
    return cast(WorstClip, {**shown, "file": str(Path(*file.parts[-3:]))})


def list_deviations(
    count: int, complete: int, replaced: Sequence[str], *, features: str
) -> list[str]:
    """How an evaluation differs from its protocol, in words; `features` names other ones."""
    found = []
    if count < complete:
        found.append(f"{count} of {complete} clips")
    if features:
        found.append(f"features of {features}")
    if replaced:
        found.append(
            f"{len(replaced)} unreadable videos were replaced by others, the first: {replaced[0]}"
        )
    return found


class Likelihood:
    """Means over clips of a generator's measures on their codes."""

    def __init__(self, config: Config, sampler: Sampler, labels: tuple[str, ...]) -> None:
        # The tokenizer is not asked: the codes are there already.
        task = dataclasses.replace(
            build.make_generator_task(config, labels, {}), network=sampler.generator, frozen={}
        )
        self._evaluate = jax.jit(task.evaluate)
        self._params = sampler.generator_params
        self._plan = sampler.generator.plan
        self._sums: dict[str, np.ndarray] = {}
        self._count = 0

    def __call__(self, batch: Mapping[str, np.ndarray]) -> None:
        """Takes "codes" and "label" of a batch."""
        metrics, _ = self._evaluate(self._params, {}, batch)
        count = len(batch["codes"])
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + np.asarray(value, np.float64) * count
        self._count += count

    def result(self) -> dict[str, float]:
        """Means over clips and tokens."""
        means = {name: total / self._count for name, total in self._sums.items()}
        return {name: float(value) for name, value in means.items() if name != "bits_grid"}

    def token_bits(self) -> TokenBits:
        """Means over clips at each place of the grid."""
        bits = self._sums["bits_grid"] / self._count
        kept = bits.astype(object)
        kept[~np.isfinite(bits)] = None  # JSON has no other number that is none
        kept = kept.tolist()
        return {"plan": dataclasses.asdict(self._plan), "bits": kept}
