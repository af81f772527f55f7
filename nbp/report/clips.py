# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The clips of a report page: found, decoded, and packed into as many bytes as a page may have."""

import base64
import dataclasses
import io
import math
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nbp.config.schema import Config
from nbp.data.video.decode import probe_video, read_clip
from nbp.evaluation.result import EvaluationResult
from nbp.files import VideoError, read_json
from nbp.report.records import KINDS, Picture, PreviewStrip, ShownClip
from nbp.shapes import Clip, UInt8

MAX_SIDE = 16_383  # of a WebP picture


@dataclass(frozen=True)
class Sheet:
    """A WebP picture of `frames` frames, row by row, `columns` in a row, and its data URI."""

    uri: str
    frames: int
    columns: int
    height: int
    width: int


def make_sheet(clip: Clip, *, quality: int | None) -> Sheet:
    """Lays out an RGB clip [t h w 3].

    quality: 1 to 100; None keeps every pixel. Raises ValueError for an empty clip, or one that
    makes a picture larger than WebP can hold.
    """
    if 0 in clip.shape or clip.shape[-1] != 3:
        raise ValueError(f"a clip must be [t h w 3] without empty axes, not {clip.shape}")
    frames, height, width, _ = clip.shape
    columns = math.ceil(math.sqrt(frames * height / width))  # nearly square
    columns = min(frames, max(1, columns))
    rows = -(-frames // columns)
    if max(rows * height, columns * width) > MAX_SIDE:
        raise ValueError(f"{frames} frames of {width}x{height} px are too much for one picture")
    padded = np.zeros((rows * columns, height, width, 3), np.uint8)
    padded[:frames] = clip
    grid = padded.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    picture = Image.fromarray(grid.reshape(rows * height, columns * width, 3))
    buffer = io.BytesIO()
    if quality is None:
        picture.save(buffer, "WEBP", lossless=True, quality=50, method=4)
    else:
        picture.save(buffer, "WEBP", quality=quality, method=4)
    text = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Sheet(f"data:image/webp;base64,{text}", frames, columns, height, width)


BYTES = 6_000_000  # of all clips in a page, as text
# From the best that fits on: (quality, None keeps every pixel; every n-th pixel).
QUALITIES: tuple[tuple[int | None, int], ...] = ((None, 1), (92, 1), (80, 1), (75, 2), (60, 4))
PROBES = 6  # clips from which the size of all is foretold
SAMPLES = 24  # clips taken from samples.npz where no evaluation kept any


@dataclass(frozen=True)
class Shown:
    """Clips for the page; left_out says in words what is not among them."""

    clips: tuple[ShownClip, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        counts = {kind: sum(clip.kind == kind for clip in self.clips) for kind in KINDS}
        return ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)


@dataclass(frozen=True)
class FoundClip:
    """A clip that is not packed yet. row: group, kind and so on, as of `ShownClip`."""

    pixels: Clip
    row: Mapping[str, Any]
    fps: float


def collect_clips(workdir: Path, config: Config, reports: Sequence[EvaluationResult]) -> Shown:
    """The worst reconstructions, and the clips that evaluations kept, else training's samples."""
    folder = workdir / "report"
    listed, left_out = read_listed(folder, config.data.size)
    worst = [clip for report in reports for clip in split_worst(folder, report, config)]
    if not listed:
        listed, unread = read_samples(workdir, config)
        left_out += unread
    clips, dropped = pack([*worst, *listed])
    if dropped:
        left_out.append(f"{dropped} clips are left out: the page would be too large with them")
    return Shown(clips, tuple(left_out))


def collect_gallery(workdir: Path, config: Config) -> tuple[Shown, str]:
    """Generated clips for a model card, and in words how they were chosen: not for their looks.

    The first of `samples/`; without these, those that evaluations spread over the classes.
    """
    found, left_out = read_samples(workdir, config)
    origin = f"the first {len(found)} drawn, in order"
    if not found:
        listed, unread = read_listed(workdir / "report", config.data.size)
        left_out += unread
        drawn = [clip for clip in listed if clip.row["kind"] == "generated"]
        spread = [clip for clip in drawn if clip.row.get("why") == "spread"]
        found, origin = spread or drawn, "spread over the classes, none for its looks"
    clips, dropped = pack(found)
    if dropped:
        left_out.append(f"{dropped} clips are left out: the page would be too large with them")
    return Shown(clips, tuple(left_out)), origin


def read_listed(folder: Path, size: int) -> tuple[list[FoundClip], list[str]]:
    """The clips of `clips.json` (see `nbp.evaluation.gallery`), those of an extreme first.

    size: the side of the model's clips in pixels, to which enlarged ones are taken back.
    """
    rows, notes = read_listing(folder)
    found: list[FoundClip] = []
    bad: list[str] = []
    for row in rows:
        try:
            pixels, fps = read_video(folder, row.get("file"), size)
        except VideoError as error:
            bad.append(f"{row.get('file')}: {error.reason}")
            continue
        group = f"{row.get('protocol', '')} clip {row.get('id', '')}"
        found.append(FoundClip(pixels, {**row, "group": group}, fps))
    found.sort(key=lambda clip: clip.row.get("why") not in ("best", "worst"))
    missing = [f"{len(bad)} clips are left out, the first: {bad[0]}"] if bad else []
    return found, [*notes, *missing]


def read_listing(folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of `clips.json` below a report's folder, and a note where it cannot be read."""
    path = folder / "clips.json"
    if not path.is_file():
        return [], []
    try:
        rows = read_json(path, list)
    except (OSError, ValueError):
        return [], [f"{path.name} is left out: it cannot be read"]
    return [row for row in rows if isinstance(row, dict) and row.get("kind") in KINDS], []


def read_video(folder: Path, name: Any, size: int | None) -> tuple[Clip, float]:
    """The frames of a file below `folder` and their rate. size: see `shrink`; None: as they are.

    Raises VideoError, also for a name that leads out of the folder.
    """
    file = (folder / str(name or "")).resolve()
    if not file.is_relative_to(folder.resolve()):
        raise VideoError(str(file), "unreadable", "outside the report")
    info = probe_video(file)
    pixels = read_clip(file, frames=info.frames, info=info)
    return pixels if size is None else shrink(pixels, size), info.fps


def shrink(pixels: Clip, size: int) -> UInt8[np.ndarray, "t rows columns c"]:
    """Takes one pixel of each square of an enlarged clip; others come back as they are."""
    height, width = pixels.shape[1:3]
    scale = height // size
    if height != width or height % size or scale < 2:
        return pixels
    return pixels[:, scale // 2 :: scale, scale // 2 :: scale]


def split_worst(folder: Path, result: EvaluationResult, config: Config) -> Iterable[FoundClip]:
    """The original and the reconstruction in the pictures of the worst reconstructions."""
    size = config.data.size
    protocol = result.protocol["name"]
    for row in result.worst:
        file = folder / row["file"]
        try:
            info = probe_video(file)
            picture = read_clip(file, frames=info.frames, info=info)
        except VideoError:
            continue
        scale = picture.shape[1] // size  # three squares beside each other, two pixels between
        if scale < 1 or picture.shape[2] < scale * (3 * size + 4):
            continue
        middle = scale // 2
        small = picture[:, middle::scale, middle::scale][:, :size]
        group = f"{protocol} held-out clip {row['index']}"
        shared = {"label": row.get("label") or "", "group": group, "id": row["index"]}
        shared |= {"protocol": protocol, "why": "worst"}
        yield FoundClip(small[:, :, :size], {**shared, "kind": "real"}, info.fps)
        beside = small[:, :, size + 2 : 2 * size + 2]
        made = {**shared, "kind": "reconstructed", "psnr": row["psnr"]}
        yield FoundClip(beside, made, info.fps)


def read_samples(workdir: Path, config: Config) -> tuple[list[FoundClip], list[str]]:
    """The first clips of `samples/`, with the labels that their files are named after, and a note
    where they cannot be read.
    """
    path = workdir / "samples" / "samples.npz"
    if not path.is_file():
        return [], []
    try:
        with np.load(path) as arrays:
            videos = arrays["videos"][:SAMPLES]
        if videos.ndim != 5 or videos.dtype != np.uint8 or videos.shape[-1] != 3:
            raise ValueError("its videos are no clips")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return [], [f"samples/{path.name} is left out: it cannot be read"]
    names = {file.stem[:4]: file.stem[5:] for file in path.parent.glob("[0-9]*-*.mp4")}
    prompted = config.generator.prompt == "label"
    found = []
    for i, video in enumerate(videos):
        label = names.get(f"{i:04d}", "").replace("-", " ") if prompted else ""
        row = {"kind": "generated", "label": label, "group": f"sample {i}", "id": i}
        found.append(FoundClip(video, row, config.sampling.fps))
    return found, []


COLUMNS, CONDITIONS = 8, 6  # of a strip of previews
CELL = 64  # px of a clip in it


def read_previews(folder: Path, stage: str, config: Config) -> PreviewStrip | None:
    """The previews of a stage as a strip: steps spread evenly, the last one among them.

    folder: of the stage. None where there are none of two steps. Those of other sizes, of another
    configuration, and those that cannot be read are passed over.
    """
    files = {int(path.name[:8]): path for path in folder.glob("previews/????????-clips.gif")}
    found: dict[int, UInt8[np.ndarray, "rows columns t h w c"]] = {}
    for step in spread(sorted(files)):
        try:
            info = probe_video(files[step])
            frames = read_clip(files[step], frames=info.frames, info=info)
        except VideoError:
            continue
        if (cells := cut_tiles(frames, *config.data.sides)) is not None:
            found[step] = cells[:, :CONDITIONS]
    most = max((cells.shape[2] for cells in found.values()), default=0)
    for step, cells in found.items():  # a GIF has equal frames once
        found[step] = cells[:, :, np.minimum(np.arange(most), cells.shape[2] - 1)]
    shapes = {cells.shape for cells in found.values()}
    if len(found) < 2 or len(shapes) > 1:
        return None
    columns = [(f"step {step}", cells[-1]) for step, cells in found.items()]
    last = next(reversed(found.values()))
    if len(last) == 2:  # the clips themselves stand above
        columns.insert(0, ("held out", last[0]))
    skip = -(-max(config.data.sides) // CELL)
    pictures = [
        (name, make_sheet(np.concatenate(list(cells), 1)[:, ::skip, ::skip], quality=80))
        for name, cells in columns
    ]
    return PreviewStrip(
        stage,
        tuple((name, Picture(**dataclasses.asdict(sheet))) for name, sheet in pictures),
        config.sampling.fps,
    )


def spread(steps: Sequence[int]) -> list[int]:
    """At most COLUMNS of the steps, evenly over them, with the first and the last."""
    if len(steps) <= COLUMNS:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / (COLUMNS - 1))] for i in range(COLUMNS)]


def cut_tiles(
    frames: UInt8[np.ndarray, "t H W c"], height: int, width: int
) -> UInt8[np.ndarray, "rows columns t h w c"] | None:
    """The clips in a picture of `nbp.data.video.encode.tile_clips`; None for other sizes."""
    pad = 2
    rows, rest = divmod(frames.shape[1] + pad, height + pad)
    columns, more = divmod(frames.shape[2] + pad, width + pad)
    if rest or more or not rows or not columns:
        return None
    padded = np.pad(frames, ((0, 0), (0, pad), (0, pad), (0, 0)))
    grid = padded.reshape(len(frames), rows, height + pad, columns, width + pad, 3)
    return grid[:, :, :height, :, :width].transpose(1, 3, 0, 2, 4, 5)


def pack(found: Sequence[FoundClip], limit: int = BYTES) -> tuple[tuple[ShownClip, ...], int]:
    """Clips as pictures of at most `limit` bytes, and how many did not fit: whole groups."""
    probes = found[:: max(1, len(found) // PROBES)]
    quality, step = QUALITIES[-1]
    for quality, step in QUALITIES:
        mean = sum(len(_make(clip, quality, step).uri) for clip in probes) / max(1, len(probes))
        if mean * len(found) <= limit:
            break
    groups: dict[str, list[FoundClip]] = {}
    for clip in found:
        groups.setdefault(clip.row["group"], []).append(clip)
    shown: list[ShownClip] = []
    used = 0
    for members in groups.values():
        sheets = [_make(clip, quality, step) for clip in members]
        size = sum(len(sheet.uri) for sheet in sheets)
        if used + size > limit:
            break
        used += size
        shown += [_describe(clip, sheet) for clip, sheet in zip(members, sheets, strict=True)]
    return tuple(shown), len(found) - len(shown)


def _make(clip: FoundClip, quality: int | None, step: int) -> Sheet:
    return make_sheet(clip.pixels[:, ::step, ::step], quality=quality)


def _describe(clip: FoundClip, sheet: Sheet) -> ShownClip:
    row = clip.row
    facts = {
        name: row[name]
        for name in ("id", "why", "given_frames", "seconds", "file")
        if row.get(name) not in (None, "")
    }
    return ShownClip(
        name=str(row.get("file") or row["group"]),
        group=row["group"],
        kind=row["kind"],
        label=str(row.get("label") or ""),
        picture=Picture(**dataclasses.asdict(sheet)),
        fps=clip.fps,
        protocol=str(row.get("protocol") or ""),
        feature_distance=_read_number(row.get("feature_distance")),
        psnr=_read_number(row.get("psnr")),
        psnr_per_frame=tuple(map(float, row.get("psnr_per_frame") or ())),
        given_frames=int(row.get("given_frames") or 0) if row["kind"] == "generated" else 0,
        paired=row["kind"] != "generated" or bool(row.get("paired", True)),
        facts=facts,
        run=row.get("run"),
    )


def _read_number(value: Any) -> float | None:
    """A number that can be drawn and sorted by; None for null and for what is not finite."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
