# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""A trained workdir as an object: draws, encodes, decodes and scores as the commands do.

    import nbp

    run = nbp.load("runs/quickstart")
    clips = run.sample(labels=["red square right"], num=4, seed=0)  # uint8 [4 9 32 32 3]
    codes = run.encode(clips)  # int32 [4 3 8 8]
    clips = run.decode(codes)  # uint8 [4 9 32 32 3]
    scores = run.evaluate("moving-shapes", clips=64)["scores"]

Every mistake of a caller raises one of the errors of `nbp.errors` with the line that the command
would end with; a keyword is named there as the flag is.
"""

import argparse
import functools
import operator
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, SupportsIndex, TypedDict, Unpack

import jax
import numpy as np

from nbp import build
from nbp.build_data import describe_array
from nbp.build_sampling import (
    RequestPlan,
    draw_as_asked,
    find_frames,
    load_request_sampler,
    plan_request,
    read_drawing,
)
from nbp.config.grids import draw_clips
from nbp.config.schema import Config
from nbp.errors import CheckpointError, ConfigError
from nbp.evaluate import evaluate_workdir, make_requests, report_path
from nbp.evaluate import make_parser as make_evaluate_parser
from nbp.evaluation.result import write_report
from nbp.evaluation.score_reconstruction import Devices
from nbp.flags import Parser
from nbp.models.network import map_batches
from nbp.ranges import Checkpoint
from nbp.report.collect import write_page
from nbp.runtime import keep_compiled
from nbp.sample_files import check_room
from nbp.sampling.long_video import Rollout
from nbp.sampling.request import SampleRequest, add_flags, make_request
from nbp.sampling.sampler import Sampler
from nbp.workdir import has_begun, read_config, read_labels

Video = np.ndarray  #: uint8 [t h w c] or [n t h w c]
Codes = np.ndarray  #: int32 [T H W] or [n T H W]
Label = str | SupportsIndex  #: the name of a class, or its id


class PassOptions(TypedDict, total=False):
    """Those of them that say how passes are made."""

    decoding: Literal["plain", "jacobi", "relaxed", "self_speculative"]
    window: int | None
    radius: int | None
    delta: float | None
    weights: Literal["compute", "int8"] | None
    cache: Literal["compute", "bfloat16", "int8"] | None
    block: str | None
    opener: str | Path | None
    opener_frames: int | None
    size: int | Sequence[int] | None
    refinements: int | None
    commit: Literal["entropy", "confidence", "order"] | None
    entropy_bound: float | None
    confidence_noise: float | None


class SampleOptions(PassOptions, total=False):
    """Further keywords of `Run.sample`: the flags of `nbp.sample` by their names."""

    per_class: int | None
    samples_per_condition: int
    unconditional: bool
    given_frames: int | None
    temperature_end: float | None
    temperature_schedule: Literal["constant", "linear", "cosine"] | None
    guidance_schedule: Literal["constant", "ramp", "linear", "cosine"] | None
    guidance_start: float | None
    guidance_end: float | None
    keep_frames: int | None
    slide: Literal["reencode", "codes", "rolling"] | None
    sinks: int | None
    anchor: bool
    mask: str | Path | np.ndarray | None
    between: tuple[str | Path | Video, str | Path | Video] | None
    story: str | Path | Sequence[Any] | None
    checkpoint: Checkpoint | None


class EvaluateOptions(TypedDict, total=False):
    """Further keywords of `Run.evaluate`: the flags of `nbp.evaluate` by their names."""

    data: str | Path | None
    features: str | Path
    lpips: str | Path
    c3d: str | Path
    num_frames: int | None
    size: int | Sequence[int] | None
    statistics: str | Sequence[str]  # of `nbp.metrics.feature_statistics`
    checkpoint: Checkpoint | None
    cache: str | Path | None


def load(workdir: str | Path) -> "Run":
    """Opens a workdir that was trained, converted or exported.

    Parameters are read when they are first needed, and kept. Compiled programs are kept between
    processes, as those of the commands are (`nbp.runtime.keep_compiled`). Raises CheckpointError
    where `workdir` holds no tokenizer.
    """
    keep_compiled()
    return Run(Path(workdir))


class Run:
    """A workdir: see `load`.

    workdir: the folder. config: its configuration (`nbp.config.schema.Config`). labels: names of
    the classes, () before the generator has begun.
    """

    def __init__(self, workdir: Path) -> None:
        self.workdir = workdir
        self.config = read_config(workdir)
        if not has_begun(workdir, "tokenizer"):
            raise CheckpointError(
                f"{workdir} holds no trained tokenizer: run python -m nbp.train --workdir {workdir}"
            )
        known = has_begun(workdir, "generator") or (workdir / "labels.json").is_file()
        self.labels: tuple[str, ...] = read_labels(workdir) if known else ()
        self._samplers: dict[Any, Sampler] = {}

    def __repr__(self) -> str:
        clip, codes = " x ".join(map(str, self.shape)), " x ".join(map(str, self.grid))
        return f"<Run {self.workdir}: clips of {clip} as {codes} codes, {len(self.labels)} labels>"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(t, h, w, c) of a clip: frames, pixels, pixels, 3."""
        return (*self.config.data.clip, 3)

    @property
    def grid(self) -> tuple[int, int, int]:
        """(T, H, W) of a clip's codes."""
        return self.config.plan.grid.shape

    def sample(
        self,
        labels: Label | Sequence[Label] | None = None,
        num: int | None = None,
        *,
        seed: int = 0,
        frames: str | Path | Video | None = None,
        num_frames: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        guidance: float | None = None,
        **options: Unpack[SampleOptions],
    ) -> Video:
        """Draws videos: uint8 [n t h w c], 0 to 255.

        The same to the last bit as `videos` in the samples.npz of `nbp.sample` with the same
        flags, on the same machine. What is None is as the workdir's configuration has it.

        Args:
          labels: a class name or id, or several, which the clips have in turn. None: all in turn,
            or no condition where the model knows none.
          num: clips to draw, 1 or more. Default: 16, or as many as there are videos in `frames`.
          seed: of all randomness, 0 to 2^32 - 1.
          frames: what is continued: a video file, or uint8 [t h w c] of the run's height and width,
            or [n t h w c], one for each clip. Its first frames stay as the tokenizer shows them:
            one latent frame, or as many as `given_frames` says or the model needs. A model that
            needs frames continues held-out clips without them.
          num_frames: length of the videos, any number from 1. Default: that of a clip, `shape[0]`;
            beyond it a window slides or rolls, see `nbp.sampling.long_video`. Rotary positions also
            take another `size`, (height, width) or one side; untrained ones with a warning.
          temperature: 0.001 to 1000, divides the logits.
          top_k: most likely codes that are drawn from; 0: all.
          top_p: their share of probability, above 0 to 1; 1: all.
          guidance: scale of classifier-free guidance, 0 to 1000; 0: off.
          options: further flags of `nbp.sample`, see `SampleOptions`.

        Raises ConfigError where this cannot be, CheckpointError without a trained generator,
        DataError for a file that cannot be read, NonFiniteError where weights or logits are no
        numbers.
        """
        if not has_begun(self.workdir, "generator"):
            raise CheckpointError(
                f"{self.workdir} holds no trained generator: run python -m nbp.train --workdir "
                f"{self.workdir}"
            )
        given = _take_frames(frames)
        objects = {name: options.pop(name, None) for name in ("mask", "between", "story")}
        if isinstance(given, np.ndarray) and given.ndim == 5 and options.get("per_class") is None:
            num = len(given) if num is None else num
        flags = {
            "num": num,
            "seed": seed,
            "num_frames": num_frames,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "guidance": guidance,
            **options,
        }
        arguments = _read_flags(flags)
        arguments.frames, arguments.label = given, self._name_labels(labels)
        for name, value in objects.items():  # what no flag can say
            setattr(arguments, name, value)
        return self._draw(make_request(arguments))

    def encode(self, video: Video) -> Codes:
        """Codes of videos: int32 [n T H W], from 0 to below the number of codes.

        video: uint8 [t h w c] or [n t h w c], 0 to 255, of the run's height and width. t is that of
        a clip or any other 1 + k * stride, which gives T = 1 + k. Raises ConfigError for others.
        """
        rows, (_, height, width, channels) = np.asarray(video), self.shape
        stride = self.config.tokenizer.stride[0]
        rows = rows[None] if rows.ndim == 4 else rows
        fits = rows.ndim == 5 and rows.shape[2:] == (height, width, channels)
        if rows.dtype != np.uint8 or not fits or not rows.size or (rows.shape[1] - 1) % stride:
            raise ConfigError(
                f"encode: {describe_array(video)}; give uint8 [t {height} {width} {channels}] or "
                f"[n t {height} {width} {channels}] of 0 to 255, t = {self.shape[0]} or another "
                f"1 + k * {stride}"
            )
        return self._through(self._encode, rows).astype(np.int32)

    def decode(self, codes: Codes) -> Video:
        """Videos of codes: uint8 [n t h w c], 0 to 255, the inverse of `encode` but for its loss.

        codes: whole numbers [T H W] or [n T H W], from 0 to below the number of codes; H and W as
        in `grid`. T latent frames become t = 1 + (T - 1) * stride frames. Raises ConfigError for
        others.
        """
        rows, (_, height, width) = np.asarray(codes), self.grid
        count = self.config.tokenizer.make_quantizer().codes
        rows = rows[None] if rows.ndim == 3 else rows
        fits = rows.ndim == 4 and rows.shape[2:] == (height, width) and rows.size > 0
        if not (fits and np.issubdtype(rows.dtype, np.integer)):
            raise ConfigError(
                f"decode: {describe_array(codes)}; give whole numbers [T {height} {width}] or "
                f"[n T {height} {width}]"
            )
        if rows.min() < 0 or rows.max() >= count:
            raise ConfigError(
                f"decode: codes from {rows.min()} to {rows.max()}; this tokenizer has those from 0 "
                f"to {count - 1}"
            )
        return self._through(self._decode, rows.astype(np.int32))

    def evaluate(
        self,
        protocol: str,
        *,
        clips: int | None = None,
        seed: int | None = None,
        overrides: Mapping[str, Any] | None = None,
        write: bool = False,
        log: Callable[[str], None] | None = None,
        **options: Unpack[EvaluateOptions],
    ) -> dict[str, Any]:
        """Scores the run under a named protocol; returns the report of `nbp.evaluate`.

        It is a dict for JSON: "scores" maps names to numbers, whose units and meaning
        `nbp.metrics.score_table` has; "protocol", "complete" and "deviations" say what they are
        worth. docs/protocols.md has the rest.

        Args:
          protocol: its name.
          clips: clips to generate, or else to score. Default: the protocol's or configuration's.
          seed: of the generated clips. Default: the protocol's.
          overrides: keys of `data` for other clips, such as {"data.fps": 8}, and of `sampling`.
          write: whether report, pictures and features are written into the workdir's `report`, as
            by the command, and the page made anew. Otherwise the workdir stays as it is, and
            pictures and features are gone afterwards (unless `cache` names a folder for these).
          log: called with a line on what is being done. Default: silence.
          options: further flags of `nbp.evaluate`, see `EvaluateOptions`.

        Raises ConfigError where the protocol is unknown or does not fit, DataError where clips
        cannot be read, NonFiniteError where weights are no numbers.
        """
        for name in ("workdir", "protocol", "out", "shard", "compare"):
            if name in options:
                raise ConfigError(f"no option {name!r} in evaluate")
        flags: dict[str, Any] = {**options, "workdir": self.workdir, "clips": clips, "seed": seed}
        if not isinstance(statistics := flags.get("statistics", ""), str):
            flags["statistics"] = ",".join(statistics)
        arguments = make_evaluate_parser().parse_options(flags)
        arguments.protocol = [protocol]
        texts = {key: str(value) for key, value in (overrides or {}).items()}
        (request,) = make_requests(arguments, texts)
        with tempfile.TemporaryDirectory(prefix="nbp-evaluate-") as folder:
            if not write:
                request = replace(request, folder=Path(folder))
            result = evaluate_workdir(request, log or (lambda text: None))
        if write:
            write_report(report_path(self.workdir, protocol), result)
            write_page(self.workdir)
        return result.to_json()

    def _name_labels(self, labels: Any) -> str | tuple[str, ...] | None:
        """Names and ids as the flag has them; an id is one, whatever classes are called."""

        def name(label: Any) -> str:
            if isinstance(label, str):
                return label
            try:
                number = operator.index(label)
            except TypeError as error:
                raise ConfigError(f"labels: {label!r} is no class name and no id") from error
            if not 0 <= number < len(self.labels):
                last = len(self.labels) - 1
                raise ConfigError(f"labels: no class {number}; use a name or 0 to {last}")
            return self.labels[number]

        if labels is None or isinstance(labels, str):
            return labels
        if not isinstance(labels, Sequence | np.ndarray):
            return name(labels)
        named = tuple(map(name, labels))
        if not named:
            raise ConfigError("labels: name at least one class, or leave them out for all in turn")
        return named

    def _draw(self, request: SampleRequest) -> Video:
        """The videos that `nbp.sample` would write."""
        config = draw_as_asked(self.config, request)
        drawn = draw_clips(config, frames=find_frames(request), size=request.size)
        config = drawn.config
        for note in drawn.notes:
            warnings.warn(note, stacklevel=3)
        plan = plan_request(config, self.labels, request)
        count, (frames, height, width) = plan.count, drawn.clip
        check_room(self.workdir, count=count, clip=drawn.clip, streamed=False)
        drawing = read_drawing(config, plan)
        sampler = self._find_sampler(config, plan)
        if plan.slide is None:
            return sampler.sample(count, **drawing).videos[:, :frames, :height, :width]
        videos = np.empty((count, *drawn.clip, 3), np.uint8)
        rollout = Rollout(sampler, plan.slide, plan.story)
        for piece in rollout.sample(count, frames, **drawing):
            rows = slice(piece.first, piece.first + len(piece.videos))
            cut = piece.videos[:, :, :height, :width]
            videos[rows, piece.frame : piece.frame + piece.videos.shape[1]] = cut
        return videos

    def _find_sampler(self, config: Config, plan: RequestPlan) -> Sampler:
        """One for each way of drawing, with its compiled programs; they share their parameters."""
        sampling, decoding = plan.sampling, plan.decoding
        key = (sampling, decoding, config.plan, step := plan.request.checkpoint)
        if key not in self._samplers:
            wanted = (sampling.weights, sampling.opener, step)
            alike = [
                sampler
                for (*_, of), sampler in self._samplers.items()
                if (sampler.sampling.weights, sampler.sampling.opener, of) == wanted
            ]
            if alike:
                network = build.make_generator_network(config, self.labels)
                self._samplers[key] = replace(
                    alike[0], generator=network, sampling=sampling, decoding=decoding
                )
            else:
                self._samplers.clear()  # parameters are in memory in one form at a time
                self._samplers[key] = load_request_sampler(
                    config, self.workdir, self.labels, plan, loaded=self._tokenizer
                )
        return self._samplers[key]

    @functools.cached_property
    def _tokenizer(self) -> build.Trained:
        return build.load_tokenizer(self.config, self.workdir)

    @functools.cached_property
    def _placed(self) -> tuple[Devices, Any]:
        """The devices of this process, and the tokenizer's parameters on each."""
        devices = Devices()
        return devices, devices.copy(self._tokenizer.params)

    @functools.cached_property
    def _encode(self) -> Any:
        return jax.jit(build.make_tokenizer_network(self.config).encode)

    @functools.cached_property
    def _decode(self) -> Any:
        return jax.jit(build.make_tokenizer_network(self.config).decode)

    def _through(self, program: Any, rows: np.ndarray) -> np.ndarray:
        """A program of the tokenizer over rows, in batches of one size."""
        devices, params = self._placed
        batch = devices.round_up(min(self.config.sampling.batch, len(rows)))
        run = functools.partial(program, params)
        return np.concatenate(map_batches(run, rows, size=batch, place=devices.place, dtype=None))


def _take_frames(frames: Any) -> Path | np.ndarray | None:
    if frames is None or isinstance(frames, Path):
        return frames
    return Path(frames) if isinstance(frames, str) else np.asarray(frames)


def _read_flags(flags: Mapping[str, Any]) -> argparse.Namespace:
    """These flags of `nbp.sample`; what to draw of, and what for, comes otherwise."""
    for name in ("label", "frames", "features"):
        if name in flags:
            raise ConfigError(f"no option {name!r} in sample")
    parser = Parser("nbp.sample")
    add_flags(parser)
    return parser.parse_options(flags)
