# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Composition of the data: a configuration becomes the two splits and streams over them.

Each choice that `config.data` names is made here, once, by choosing an object.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, assert_never

import numpy as np

from nbp.config import expand_paths, from_dict, to_json
from nbp.config.grids import (
    find_batches,
    find_mean_clips,
    find_shares,
    list_clips,
)
from nbp.config.parsing import set_overrides
from nbp.config.schema import Config, StageConfig
from nbp.data.augmentation import Sides, Transform, choose_spatial, make_clip_transforms
from nbp.data.buckets import BucketSchedule, BucketStream, join_bucket_fingerprints
from nbp.data.images import (
    IMAGE_SUFFIXES,
    MixedStream,
    TakeFrame,
    join_fingerprints,
    make_image_transforms,
    read_image,
    scan_images,
)
from nbp.data.masks import keep_cells, keep_ends, parse_box
from nbp.data.mixing import MixedSource, TransformBySet
from nbp.data.moving_shapes import MovingShapes, MovingShapesSpec
from nbp.data.pipeline import BatchStream, PipelineSpec, make_fingerprint
from nbp.data.records import VERSION, RecordSource, make_record_transforms
from nbp.data.sources import BadVideos, FolderScan, FolderSpec, scan_folder
from nbp.data.token_cache import PROVENANCE, TokenCache, open_cache
from nbp.data.video.decode import read_clip
from nbp.errors import ConfigError, DataError
from nbp.files import read_json
from nbp.layout import frames_of_latents
from nbp.sampling.request import SampleRequest

# First index of the held-out moving shapes: far beyond any training clip.
HELD_OUT = 1 << 40
# Keeps the order and the crops of images apart from those of the clips they may be frames of.
IMAGE_SEED = 0x494D47
# The same for the clips of each further grid: a number of its own is added.
GRID_SEED = 0x475244

NO_DRAFTS = (
    "this model has no draft channel: train with --config.generator.draft=True, from its own "
    "weights with --config.train.generator.start_from=WORKDIR"
)


@dataclass(frozen=True)
class ClipData:
    """A random-access source of one split, and what makes examples of its records.

    images: the single images of batches that hold both. grids: the same for each of `data.grids`.
    labels: names of all classes, where those of the source are the first of more.
    """

    source: Any
    transforms: tuple[Transform, ...]
    bad_videos: BadVideos | None = None
    images: "ClipData | None" = None
    grids: "tuple[ClipData, ...]" = ()
    labels: tuple[str, ...] = ()

    @property
    def label_names(self) -> tuple[str, ...]:
        return self.labels or self.source.label_names


def open_each_cache(config: Config) -> list[TokenCache]:
    """The token cache of each grid of each data set; errors as in `open_tokens`."""
    return [open_tokens(each) for one in config.each_set for each in one.each_grid]


def make_data(config: Config, *, bad_videos: Path | None = None) -> tuple[ClipData, ClipData]:
    """The training and the held-out examples. Unusable videos are listed in `bad_videos` (CSV).

    With `data.mix` the training clips are of all sets, the held-out ones of the first; both know
    the classes of all. Raises DataError for data that are missing, empty, or without a usable
    video, ConfigError for a token cache that was made for other clips.
    """
    first, *further = config.each_set
    opened = open_set(first, bad_videos)
    train, held_out = opened.split(training=True), opened.split(training=False)
    if not further:
        return train, held_out
    parts = [train]
    parts += [open_set(each, bad_videos).split(training=True) for each in further]
    train = mix_data(config, parts)
    shared = {"bad_videos": train.bad_videos, "labels": train.label_names}
    grids = tuple(replace(each, **shared) for each in held_out.grids)
    return train, replace(held_out, grids=grids, **shared)


def mix_data(config: Config, parts: Sequence[ClipData]) -> ClipData:
    """The training clips of several data sets as one, with one list of what is unusable."""
    weights = (1.0, *(one.weight for one in config.data.mix))
    lists = [part.bad_videos for part in parts if part.bad_videos is not None]
    bad = lists[0] if lists else None
    if bad is not None:
        bad.add(*(error for other in lists[1:] for error in other))

    def mix(parts: Sequence[ClipData]) -> ClipData:
        source = MixedSource(tuple(part.source for part in parts), weights)
        return ClipData(source, (TransformBySet(tuple(p.transforms for p in parts)),), bad)

    grids = zip(*(part.grids for part in parts), strict=True)
    return replace(mix(parts), grids=tuple(map(mix, grids)))


def describe_mix(config: Config, data: ClipData) -> str:
    """What clips are drawn from, for the log."""
    weights, sources = data.source.weights, data.source.sources
    rows = zip(weights, sources, config.each_set, strict=True)
    parts = [
        f"{weight / sum(weights):.1%} of {each.data.root or 'moving shapes'} ({len(source):,})"
        for weight, source, each in rows
    ]
    return f"clips: {', '.join(parts)}"


@dataclass(frozen=True)
class OpenedSet:
    """A data set whose folder has been looked through, and where unusable videos are listed."""

    config: Config
    scan: FolderScan | None
    bad: BadVideos | None

    def split(self, *, training: bool) -> ClipData:
        """The training or the held-out clips, of each grid."""
        main, *grids = (self._find_clips(each, training) for each in self.config.each_grid)
        return replace(main, grids=tuple(grids))

    def _find_clips(self, config: Config, training: bool) -> ClipData:
        """Those of the main grid of a configuration."""
        data = config.data
        match data.kind:
            case "moving_shapes":
                spec = make_shapes_spec(config)
                start, size = 0, data.moving_shapes.train_clips
                if not training:
                    spec = replace(spec, world=spec.world.steady)
                    start, size = HELD_OUT, data.validation_clips
                return ClipData(MovingShapes(spec, seed=config.seed, start=start, size=size), ())
            case "folder":
                assert self.scan is not None
                source = self.scan.train if training else self.scan.validation
                if source.spec.frames != data.frames:
                    source = source.of_length(data.frames)
            case "records":
                source = open_records(config, training=training)
            case "tokens":
                cache = open_tokens(config)
                split = "train" if training else choose_held_out(config, cache.splits)
                return ClipData(cache.source(split), (), self.bad)
            case _ as never:
                assert_never(never)
        return ClipData(source, make_transforms(config, training=training), self.bad)


def open_set(config: Config, bad_videos: Path | None) -> OpenedSet:
    """Finds the videos of a folder, whose files are long enough for some grid."""
    data = config.data
    if data.kind != "folder":
        bad = None if data.kind == "moving_shapes" else BadVideos(bad_videos)
        return OpenedSet(config, None, bad)
    share = data.validation
    folder = FolderSpec(
        min(clip[0] for clip in (data.clip, *data.grids)),
        data.fps or None,
        validation="split" if share else "same",
        validation_fraction=share or 0.1,
        check=data.check,
    )
    scan = scan_folder(data.root, folder, bad_videos=bad_videos)
    return OpenedSet(config, scan, scan.bad)


def add_images(config: Config, clips: ClipData, *, bad_videos: Path | None = None) -> ClipData:
    """The training clips together with the images of `config.images`, if it asks for any.

    Without a folder the images are random frames of the clips' source, read one by one where that
    is cheaper. Unusable files are listed as those of the clips. Raises DataError for a folder that
    is missing or has no usable image.
    """
    data = config.data
    if not config.images.batch:
        return clips
    if config.images.root:
        bad = BadVideos(bad_videos) if clips.bad_videos is None else clips.bad_videos
        folder = scan_images(config.images.root, bad=bad, check=data.check)
        chain = make_image_transforms(size=find_size(config), fit=data.spatial, flip=data.flip)
        return replace(clips, bad_videos=bad, images=ClipData(folder, chain, bad))
    chains = tuple(
        (TakeFrame(),)
        if each.data.kind == "moving_shapes"
        else make_transforms(each, training=True, frames=1)
        for each in config.each_set
    )
    chain = (TransformBySet(chains),) if data.mix else chains[0]
    return replace(clips, images=ClipData(clips.source, chain, clips.bad_videos))


def refuse_cache(config: Config) -> None:
    """ConfigError for what no token cache holds: several data sets, labels that change."""
    if config.data.mix:
        raise ConfigError(
            "data.mix: a token cache is of one data set: name each in a command of its own, "
            "--data DIR --out DIR, and mix the caches"
        )
    if config.labels_change:
        raise ConfigError(
            "data.moving_shapes.world: labels change in these clips, and a token cache keeps one "
            "for each: train on the clips, without a cache"
        )


def make_shapes_spec(config: Config) -> MovingShapesSpec:
    try:
        return config.shapes_spec
    except ValueError as error:
        raise ConfigError(f"data.moving_shapes: {error}") from error


def make_transforms(
    config: Config, *, training: bool, frames: int | None = None
) -> tuple[Transform, ...]:
    """Reading of a window, spatial policy and flip for real videos; `frames` of a clip or fewer."""
    data = config.data
    make = make_record_transforms if data.kind == "records" else make_clip_transforms
    return make(
        frames=frames or data.frames,
        size=find_size(config),
        fps=data.fps or None,
        training=training,
        fit=data.spatial,
        flip=data.flip,
    )


def find_size(config: Config) -> Sides:
    """What frames are cut to."""
    return config.data.sides if config.data.width else config.data.size


def make_spatial(config: Config) -> tuple[Transform, ...]:
    """The spatial policy alone, for clips that are already decoded."""
    resize, cut = choose_spatial(config.data.spatial, find_size(config), training=False)
    return (resize, *cut)


def fit_frames(config: Config, frames: np.ndarray) -> np.ndarray:
    """Frames of any size as those of a clip: uint8 [t h w 3]."""
    for transform in make_spatial(config):
        frames = transform({"video": frames}, np.random.default_rng(0))["video"]
    return frames


def read_part(config: Config, source: Any, frames: int, *, last: bool = False) -> np.ndarray:
    """The first or last frames of a video file or array, or an image so often: of a clip's size.

    Raises ConfigError for an array of another form, DataError for a file that cannot be read.
    """
    if not isinstance(source, Path | str):
        found = np.asarray(source)
        found = found[None] if found.ndim == 3 else found
        if found.dtype != np.uint8 or found.ndim != 4 or found.shape[-1] != 3:
            raise ConfigError(f"frames: {found.dtype} {list(found.shape)}; give uint8 [t h w 3]")
    elif Path(source).suffix.lower() in IMAGE_SUFFIXES:
        found = read_image(source)[None]
    else:
        start = 1.0 - 1e-9 if last else 0.0  # of all possible ones
        found = read_clip(source, frames=frames, fps=config.data.fps or None, start=start)
    if len(found) == 1:
        found = np.repeat(found, frames, axis=0)
    if len(found) < frames:
        raise ConfigError(f"frames: {len(found)} frames are given, {frames} are needed")
    return fit_frames(config, found[-frames:] if last else found[:frames])


def join_ends(config: Config, ends: tuple[Any, Any], frames: int) -> np.ndarray:
    """A clip from the last `frames` frames of one video to the first ones of another.

    Of that one as many as a latent frame has; its first frame stands in the gap, so that the codes
    of its end are those of something that stood there before.
    """
    behind = config.tokenizer.stride[0]
    before = read_part(config, ends[0], frames, last=True)
    after = read_part(config, ends[1], behind)
    gap = np.repeat(after[:1], config.data.frames - frames - behind, axis=0)
    return np.concatenate([before, gap, after])


def read_mask(config: Config, mask: Any) -> np.ndarray:
    """What of a clip is drawn anew: bool [t h w].

    mask: `box:X0,Y0,X1,Y1`, `outside:...` (see `parse_box`), the white pixels of an image or video
    file, or bool [h w] or [t h w]. Raises ConfigError for a box or array that does not fit.
    """
    frames, whole = config.data.frames, config.data.clip
    if isinstance(mask, str):
        try:
            box = parse_box(mask, sides=config.data.sides)
        except ValueError as error:
            raise ConfigError(f"--mask {error}") from error
        if box is not None:
            return np.broadcast_to(box, whole)
    if not isinstance(mask, Path | str):
        found = np.asarray(mask)
        if found.dtype != bool or found.shape not in (whole[1:], whole):
            raise ConfigError(
                f"mask: {found.dtype} {list(found.shape)}; give bool {list(whole[1:])} or "
                f"{list(whole)}"
            )
        return np.broadcast_to(found, whole)
    return read_part(config, mask, frames).mean(-1) > 127


def make_training_stream(
    config: Config,
    stage: StageConfig,
    *,
    data: ClipData,
    start_batch: int,
    rows: Callable[[int], Sequence[int]] | None = None,
) -> BatchStream | BucketStream | MixedStream:
    """Batches of `data` from `start_batch` on, of its grids, and with images where it has them.

    `rows` tells which of N rows are made here; None: all.
    """
    spec, image_spec = make_pipeline_specs(config, stage)

    def stream(data: ClipData, spec: PipelineSpec, start: int = start_batch) -> BatchStream:
        return BatchStream(
            data.source,
            data.transforms,
            spec,
            start_batch=start,
            rows=None if rows is None else rows(spec.batch),
            bad_videos=data.bad_videos,
        )

    if data.grids:
        schedule = BucketSchedule(find_shares(config), config.seed)
        specs = make_grid_specs(config, stage)
        starts = schedule.count(start_batch).tolist()
        parts = zip((data, *data.grids), specs, starts, strict=True)
        clips = BucketStream([stream(*part) for part in parts], schedule, start_batch=start_batch)
    else:
        clips = stream(data, spec)
    if data.images is None:
        return clips
    return MixedStream(clips, stream(data.images, image_spec))


def make_pipeline_specs(config: Config, stage: StageConfig) -> tuple[PipelineSpec, PipelineSpec]:
    """How the clips of a stage are batched, and its images if there are any."""
    spec = PipelineSpec(
        batch=stage.batch,
        seed=config.seed,
        workers=config.data.workers,
        stall_seconds=config.data.stall_seconds,
        bad=config.data.bad_records,
        balance=config.data.balance,
    )
    images = config.images.batch
    if not images:
        return spec, spec
    workers = min(spec.workers, -(-spec.workers * images // spec.batch))
    own = {"batch": images, "seed": spec.seed ^ IMAGE_SEED, "balance": False}
    return spec, replace(spec, workers=workers, **own)


def make_grid_specs(config: Config, stage: StageConfig) -> list[PipelineSpec]:
    """How the clips of each grid are batched; workers are divided as their frames are."""
    spec, _ = make_pipeline_specs(config, stage)
    work = [
        clips * math.prod(clip)
        for clips, clip in zip(find_mean_clips(config, stage), list_clips(config), strict=True)
    ]
    return [
        replace(
            spec,
            batch=batch,
            seed=spec.seed if number == 0 else spec.seed ^ (GRID_SEED + number),
            workers=math.ceil(spec.workers * share / sum(work)),
        )
        for number, (batch, share) in enumerate(zip(find_batches(config, stage), work, strict=True))
    ]


def find_fingerprint(config: Config, stage: StageConfig, data: ClipData) -> str:
    """The fingerprint of `make_training_stream`, without a stream and its workers."""
    spec, image_spec = make_pipeline_specs(config, stage)
    clips = make_fingerprint(data.source, data.transforms, spec)
    if data.grids:
        parts = [
            (make_fingerprint(each.source, each.transforms, spec), spec.batch)
            for each, spec in zip((data, *data.grids), make_grid_specs(config, stage), strict=True)
        ]
        clips = join_bucket_fingerprints(parts, find_shares(config))
    if data.images is None:
        return clips
    images = make_fingerprint(data.images.source, data.images.transforms, image_spec)
    return join_fingerprints(clips, images, Fraction(image_spec.batch, spec.batch))


def iterate_clips(
    config: Config, data: ClipData, *, limit: int, batch: int
) -> Iterator[dict[str, np.ndarray]]:
    """The first `limit` examples of a split in order, in batches; the last one may be shorter."""
    limit = min(limit, len(data.source))
    spec = PipelineSpec(
        batch=min(batch, limit),
        seed=config.seed,
        shuffle=False,
        examples=limit,
        bad=config.data.bad_records,
    )
    with BatchStream(data.source, data.transforms, spec, bad_videos=data.bad_videos) as stream:
        for rows in stream:
            keep = rows["index"] < limit
            yield {name: values[keep] for name, values in rows.items()}


def find_dataset(root: Path) -> Path | None:
    """The folder of a dataset in the TFDS format; None without one.

    It is `root`, a version in it, or what nbp.prepare wrote into its only folder that has such a
    thing, as in `data/ucf101` for `data/ucf101/split1/1.0.0`. ConfigError where several have one.
    """
    for folder in (root, *sorted(root.glob("*.*.*"), reverse=True)):
        if (folder / "dataset_info.json").is_file():
            return folder
    below = sorted(path.parent for path in root.glob(f"[!.]*/{VERSION}/dataset_info.json"))
    if len(below) > 1:
        names = ", ".join(map(str, below))
        raise ConfigError(f"{root} holds several datasets: name one of {names}")
    return below[0] if below else None


def open_records(config: Config, *, training: bool) -> RecordSource:
    """The training or the held-out split of a prepared dataset."""
    root = Path(config.data.root)
    folder = find_dataset(root) or root
    split = "train" if training else choose_held_out(config, list_splits(config))
    return RecordSource(folder, split)


def list_splits(config: Config) -> list[str]:
    """The names of the splits of a prepared dataset."""
    folder = find_dataset(Path(config.data.root))
    if folder is None:
        return []
    path = folder / "dataset_info.json"
    try:
        return [str(split["name"]) for split in read_json(path)["splits"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: damaged ({error!r}). Prepare the videos anew") from None


def open_tokens(config: Config) -> TokenCache:
    """The token cache of a configuration; ConfigError where it holds codes of other clips."""
    cache = open_cache(config.data.root)
    made, wanted = cache.provenance["preprocessing"], describe_clips(config)
    grid = config.grid.shape, config.tokenizer.make_quantizer().codes
    then = {**made, "grid": cache.grid, "codes": cache.provenance["codes"]}
    now = {**wanted, "grid": grid[0], "codes": grid[1]}
    changed = [
        f"{key} {then.get(key)!r}, here {now[key]!r}" for key in now if then.get(key) != now[key]
    ]
    if changed:
        raise ConfigError(
            f"{cache.directory} holds tokens of other clips ({hash_settings(then)}) than this "
            f"configuration's ({hash_settings(now)}): {'; '.join(changed)}. Change the "
            "configuration, or make a cache of its own with nbp.encode."
        )
    return cache


def describe_clips(config: Config) -> dict[str, Any]:
    """What decides a clip's pixels, given its video: the preprocessing in a cache's provenance."""
    keys = ("frames", "size", "fps", "spatial", "flip", *("width",) * (config.data.width > 0))
    return {key: getattr(config.data, key) for key in keys}


def hash_settings(values: Mapping[str, Any]) -> str:
    """A short name for settings, equal where they are."""
    text = json.dumps(values, sort_keys=True)
    return "clips-" + hashlib.sha256(text.encode()).hexdigest()[:12]


def choose_held_out(config: Config, splits: Sequence[str]) -> str:
    """The held-out split of those that there are: the configured one, else validation or test."""
    wanted = config.data.validation_split
    for name in (wanted,) if wanted else ("validation", "test"):
        if name in splits:
            return name
    raise ConfigError(
        f"{config.data.root} has no split {wanted or 'validation or test'}, but "
        f"{', '.join(splits)}: name the held-out one, --config.data.validation_split=NAME"
    )


def change_data(
    config: Config,
    place: Path | None,
    overrides: Mapping[str, str],
    *,
    report: Callable[[str], None] = print,
) -> Config:
    """`config` with its clips taken from `place` and keys of `data` overridden.

    place: a folder of videos, or a dataset that `nbp.prepare` wrote (see `find_dataset`); None
      leaves the configured. report: is told which, where the dataset lies deeper.
    """
    values = json.loads(to_json(config))
    if place is not None:
        found = find_dataset(place)
        kind = "folder" if found is None else "records"
        if found is not None and found.parent.parent == place:  # not named: say which
            place = found
            report(f"--data: the dataset in {found}")
        values["data"] |= {"kind": kind, "root": str(place), "validation_split": "", "mix": []}
    if problems := set_overrides(values, Config, overrides, section="data"):
        raise ConfigError("; ".join(problems))
    changed = expand_paths(from_dict(values))
    try:
        _ = [each.grid for each in changed.each_grid]
    except ValueError as error:
        raise ConfigError(f"data: {error}") from error
    if changed.data.kind == "tokens" or (
        place is not None and (find_dataset(place) or place).joinpath(PROVENANCE).is_file()
    ):
        raise ConfigError(
            f"{changed.data.root} is a token cache and clips are needed: name a folder of videos "
            "or a prepared dataset with --data DIR"
        )
    return changed


def choose_given_frames(config: Config, request: SampleRequest) -> int:
    """Latent frames to keep: asked for, else configured, else the fewest that the model needs."""
    plan = config.plan
    needed = -(-plan.first // plan.grid.frame)
    needed += -needed % plan.block[0]
    configured = max(config.evaluation.given_frames, needed)
    given = request.given_frames
    if request.between is not None or (given is None and request.mask is not None):
        given = needed
    elif given is None:
        given = configured if request.frames is None else max(configured, plan.block[0])
    try:
        plan.schedule(plan.tokens_of_frames(given))
    except ValueError as error:
        raise ConfigError(f"given frames: {error}") from error
    return given


def read_conditions(config: Config, request: SampleRequest) -> dict[str, np.ndarray]:
    """Clips or codes whose first frames are kept: of what is given, else held-out ones in turn."""
    data, stride = config.data, config.tokenizer.stride[0]
    if request.between is not None:
        first = request.given_frames or 1
        clips = join_ends(config, request.between, frames_of_latents(first, stride))
        return repeat_rows(request.count, clips=clips[None], kept=keep_ends(config.grid, first))
    if request.frames is None:
        if config.data.kind != "moving_shapes" and not config.data.root:
            raise ConfigError("this model continues a video: name one with --frames FILE")
        _, held_out = make_data(config.each_set[0])
        rows = iterate_clips(config, held_out, limit=request.count, batch=request.count)
        return take_examples(next(rows), request.count)
    fps = data.fps or None
    needed = frames_of_latents(choose_given_frames(config, request), stride)
    needed = needed if request.mask is None else data.frames
    if isinstance(request.frames, Path):
        clip = read_clip(request.frames, frames=needed, fps=fps, start=0.0)
        clips = fit_frames(config, clip)[None]
    else:
        clips = check_given(config, request, needed=needed)[:, :needed]
    # The tokenizer is causal: what stands behind the given frames cannot change their codes.
    padding = np.repeat(clips[:, -1:], data.frames - needed, axis=1)
    clips = np.concatenate([clips, padding], axis=1)
    if request.mask is None:
        return repeat_rows(request.count, clips=clips)
    kept = keep_cells(read_mask(config, request.mask), config.grid, stride=stride)
    if kept.all() or not kept.any():
        rest = "every cell is kept" if kept.all() else "no cell is kept"
        raise ConfigError(f"--mask: {rest}; a cell of {stride} frames is kept as a whole or not")
    return repeat_rows(request.count, clips=clips, kept=kept)


def repeat_rows(
    count: int, *, clips: np.ndarray, kept: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """`count` clips of one [1 t h w c] or as many, and their kept cells [T H W] where there are."""
    rows = {"clips": np.broadcast_to(clips, (count, *clips.shape[1:])).copy()}
    return rows if kept is None else {**rows, "kept": np.repeat(kept[None], count, 0)}


def check_given_anywhere(config: Config, request: SampleRequest) -> None:
    """ConfigError where tokens cannot be given as `mask` or `between` ask."""
    flag = "--mask" if request.mask is not None else "--between"
    if request.mask is None and request.between is None:
        return
    chained = config.generator.head == "joint" and request.mask is not None
    if not config.generator.draft and not chained:
        raise ConfigError(f"{flag}: {NO_DRAFTS}")
    frames = request.long.num_frames
    if frames is not None and frames > config.data.frames:
        raise ConfigError(
            f"{flag} draws one clip of {config.data.frames} frames: leave out --num_frames"
        )
    if request.decoder.decoding != "plain":
        raise ConfigError(f"{flag}: leave out --decoding {request.decoder.decoding}")
    if request.sampling.get("opener", config.sampling.opener):
        raise ConfigError(f"{flag}: an opener draws whole frames: leave out --opener")
    if request.mask is not None:
        if request.frames is None:
            raise ConfigError("--mask: name the video of which the rest is kept: --frames FILE")
        read_mask(config, request.mask)
    if request.between is None:
        return
    if request.frames is not None or request.mask is not None:
        raise ConfigError("--between names both videos: leave out --frames and --mask")
    plan = config.plan
    if plan.block[0] < plan.grid.t or plan.first_joint:
        raise ConfigError(
            "--between: a token does not know the blocks behind it, so the gap would not know its "
            f"end: this needs a model with generator.block=({plan.grid.t}, h, w) and opening=bov"
        )
    if (request.given_frames or 1) > plan.grid.t - 2:
        raise ConfigError(f"--between: {plan.grid.t} latent frames leave no gap between the given")


def check_given(config: Config, request: SampleRequest, *, needed: int) -> np.ndarray:
    """The given frames as uint8 [1 t h w c] for all conditions, or one of them for each."""
    given, (height, width) = np.asarray(request.frames), config.data.sides
    given = given[None] if given.ndim == 4 else given
    if given.dtype != np.uint8 or given.ndim != 5 or given.shape[2:] != (height, width, 3):
        raise ConfigError(
            f"frames: {describe_array(request.frames)}; give a file, or uint8 [t {height} "
            f"{width} 3] of 0 to 255, or such a video for each clip"
        )
    if given.shape[1] < needed:
        raise ConfigError(f"frames: {given.shape[1]} frames are given, {needed} are needed")
    if len(given) not in (1, request.count):
        raise ConfigError(f"frames: {len(given)} videos for {request.count} clips: give one each")
    return given


def describe_array(values: Any) -> str:
    """Type and shape, for a message."""
    found = np.asarray(values)
    return f"{found.dtype} {list(found.shape)}"


def take_examples(batch: Mapping[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """`count` clips or codes of a batch in turn, as the argument of `Sampler.sample`."""
    rows = batch["codes"].astype(np.int32) if "codes" in batch else batch["video"]
    rows = np.resize(rows, (count, *rows.shape[1:]))
    return {"codes" if "codes" in batch else "clips": rows}
