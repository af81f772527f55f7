# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Turns clips into a token cache with a workdir's tokenizer. Rerun it to go on.

python -m nbp.encode --workdir DIR --out DIR [--data DIR] [--crops N] [--shard I/N]
"""

from pathlib import Path

from nbp.errors import run_command
from nbp.flags import COUNT, SEED, Parser, Whole


def make_parser() -> Parser:
    parser = Parser(
        "nbp.encode",
        __doc__,
        examples=("--workdir runs/ucf --data data/ucf101 --out data/ucf_tokens --crops 8",),
        overrides="data",
    )
    add = parser.add_argument_group("clips").add_argument
    add("--workdir", required=True, type=Path, help="holds the tokenizer")
    add("--out", required=True, type=Path, help="folder of the cache")
    add("--data", type=Path, help="prepared dataset or folder of videos; default: the workdir's")
    add("--crops", type=COUNT, default=1, help="random clips of a training video")
    add("--seed", type=SEED, help="of the random clips; default: the config's")
    add = parser.add_argument_group("the work").add_argument
    add("--shard", metavar="I/N", help="this host and their number; default: the job's processes")
    add("--batch", type=COUNT, help="clips at a time; default: the config's")
    add("--shard_size", type=COUNT, default=1024, help="clips in a file, the unit of restarts")
    add("--threads", type=Whole(1, 1024), help="that decode; default: one per core")
    return parser


if __name__ == "__main__":
    run_command("nbp.encode", make_parser)  # help and mistakes end there, before the imports


import dataclasses
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from nbp import __version__, build, build_data
from nbp.config import parse_overrides
from nbp.config.grids import name_clips
from nbp.config.schema import Config
from nbp.data.token_cache import CacheWriter, TokenExample
from nbp.errors import ConfigError, DataError
from nbp.files import VideoError, check_writable_folder
from nbp.parallel import distributed
from nbp.parallel.mesh import make_mesh, place_batch, place_state
from nbp.places import ELSEWHERE, explain, refuse_inside
from nbp.progress import Progress, parse_shard
from nbp.shapes import Clip, PyTree
from nbp.workdir import read_config


def main(argv: list[str] | None = None) -> None:
    """The command. argv: its arguments; default: those of the process."""
    arguments, rest = make_parser().parse_known_args(argv)

    distributed.initialize()

    host, hosts = distributed.find_place()
    if arguments.shard:
        distributed.refuse_several("--shard")
        host, hosts = parse_shard(arguments.shard)
    request = EncodeRequest(
        workdir=arguments.workdir,
        out=arguments.out,
        data=arguments.data,
        overrides=parse_overrides(rest),
        crops=arguments.crops,
        seed=arguments.seed,
        host=host,
        hosts=hosts,
        batch=arguments.batch,
        shard_size=arguments.shard_size,
        threads=arguments.threads,
    )
    encode_workdir(request, report=lambda line: print(f"[encode] {line}", flush=True))
    distributed.wait_for_all("encoded")


# Keeps the crops' random numbers apart from those of training.
CROP_STREAM = 0x544F4B
# A shard of which more examples than this share cannot be read says that the storage is at fault.
BAD_SHARE, BAD_COUNT = 0.2, 8

Report = Callable[[str], None]


@dataclass(frozen=True)
class EncodeRequest:
    """What `nbp.encode` was asked for; None leaves a choice to the workdir's configuration.

    data, overrides: as in `nbp.build_data.change_data`. crops: random clips of each training video;
    held-out ones give one, the centred. host of hosts: whose shards are made here. batch: clips
    encoded at a time, rounded up to a multiple of the devices.
    """

    workdir: Path
    out: Path
    data: Path | None = None
    overrides: Mapping[str, str] = field(default_factory=dict)
    crops: int = 1
    seed: int | None = None
    host: int = 0
    hosts: int = 1
    batch: int | None = None
    shard_size: int = 1024
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("crops", "batch", "shard_size", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name} {value}: use 1 or more")
        if self.seed is not None and not 0 <= self.seed < 2**32:
            raise ConfigError(f"--seed {self.seed}: use 0 .. 2^32 - 1")


def encode_workdir(request: EncodeRequest, report: Report) -> Path:
    """Makes this host's part of the cache, and finishes it if every part is there.

    Of each of `data.grids` too, in a folder of its name. Returns the folder of the main cache.
    Raises CheckpointError without a trained tokenizer, ConfigError where `out` holds or was begun
    as another cache, DataError for unusable clips.
    """
    before = read_config(request.workdir)
    config = build_data.change_data(before, request.data, request.overrides, report=report)
    build_data.refuse_cache(config)
    if config.data.kind == "folder":
        refuse_inside(request.out, "--out", config.data.root, "the videos")
    check_writable_folder(request.out, ELSEWHERE)
    trained = build.load_tokenizer(config, request.workdir)
    made = encode_clips(config.on_clips(config.data.clip), request, trained, report)
    for clip in config.data.grids:
        below = dataclasses.replace(request, out=request.out / name_clips(clip))
        encode_clips(config.on_clips(clip), below, trained, report)
    return made


def encode_clips(
    config: Config, request: EncodeRequest, trained: build.Trained, report: Report
) -> Path:
    """This host's part of the cache of one grid; returns its folder."""
    train, held_out = build_data.make_data(config)
    names = choose_names(config)
    splits = {
        names[0]: Crops(train, request.crops, choose_seed(config, request)),
        names[1]: Crops(held_out, 1, None),
    }
    encoder = Encoder(config, trained.params, request.batch or config.sampling.batch)
    plan = describe_cache(config, request, splits, trained=trained, batch=encoder.batch)
    writer = CacheWriter(
        request.out,
        plan,
        examples={name: len(crops) for name, crops in splits.items()},
        shard_size=request.shard_size,
    )
    try:
        writer.begin()
        if writer.final.is_dir():
            report(f"{writer.final} is finished already")
            return writer.final
        if (bad := train.bad_videos) is not None:
            bad.file = request.out / "bad_videos.csv"
            if len(bad) or config.data.kind == "folder":
                bad.add()
    except OSError as error:
        raise explain(error, request.out) from error
    todo = [
        (split, number, examples)
        for split in splits
        for number, examples in enumerate(writer.list_shards(split))
        if number % request.hosts == request.host and not writer.is_made(split, number)
    ]
    if todo:
        report(f"compiling the tokenizer for {encoder.batch} clips at a time")
    with (
        Progress(sum(len(examples) for _, _, examples in todo), "clips", report) as progress,
        ThreadPoolExecutor(request.threads or os.cpu_count() or 1) as pool,
    ):
        for split, number, examples in todo:
            skipped: list[tuple[str, int, str]] = []
            rows = encode_examples(
                config,
                splits[split],
                examples,
                encoder=encoder,
                pool=pool,
                skipped=skipped,
                progress=progress,
            )
            writer.write_shard(split, number, examples=rows, skipped=skipped)
            if skipped:
                text = f"{split} shard {number}: {len(skipped)} clips skipped, first {skipped[0]}"
                progress.note(text)
    if not writer.is_whole():
        report(f"this host's shards are in {request.out}; another one's are not done yet")
    else:
        writer.finish()
        counts = ", ".join(f"{len(crops)} {name}" for name, crops in splits.items())
        report(f"{counts} clips as tokens in {writer.final}")
    return writer.final


@dataclass(frozen=True)
class Crops:
    """The examples that one split gives: `count` clips of each of its records, in record order.

    seed: of the random crops; None for a split without randomness.
    """

    data: build_data.ClipData
    count: int
    seed: int | None

    def __len__(self) -> int:
        return len(self.data.source) * self.count

    def read(self, example: int, root: str) -> "Example":
        """Decodes one example; a clip that cannot be read becomes an example without one."""
        row, crop = divmod(example, self.count)
        # Of the record and the crop alone, so that no shard, thread or restart changes it.
        rng = np.random.default_rng((CROP_STREAM, self.seed or 0, row, crop))
        path = str(row)
        try:
            record = self.data.source[row]
            path = shorten(str(record.get("path", row)), root)
            for transform in self.data.transforms:
                record = transform(record, rng)
        except DataError as error:
            known = isinstance(error, VideoError)
            return Example(None, 0, path, crop, error.reason if known else str(error))
        return Example(record["video"], int(record["label"]), path, crop)


@dataclass(frozen=True)
class Example:
    """A clip with what is stored beside its codes; `error` says why there is none."""

    clip: Clip | None
    label: int
    path: str
    crop: int
    error: str = ""


def shorten(path: str, root: str) -> str:
    """The path below the root of the data, with /: a cache must not depend on where they lie."""
    relative = os.path.relpath(path, root) if root and os.path.isabs(path) else path
    return relative.replace(os.sep, "/")


class Encoder:
    """The workdir's tokenizer on all devices of this host. Always one shape, compiled once."""

    def __init__(self, config: Config, params: PyTree, batch: int) -> None:
        self._mesh = make_mesh(devices=jax.local_devices())
        devices = self._mesh.size
        self.batch = -(-batch // devices) * devices
        self._params = place_state(params, self._mesh)
        self._encode = jax.jit(build.make_tokenizer_network(config).encode)

    def start(self, clips: list[Clip]) -> jax.Array:
        """Codes of at most `batch` clips, being computed; the rows after them mean nothing."""
        video = np.stack([*clips, *clips[:1] * (self.batch - len(clips))])
        return self._encode(self._params, place_batch({"video": video}, self._mesh)["video"])


def encode_examples(
    config: Config,
    crops: Crops,
    examples: range,
    *,
    encoder: Encoder,
    pool: ThreadPoolExecutor,
    skipped: list[tuple[str, int, str]],
    progress: Progress,
) -> Iterator[TokenExample]:
    """The examples of one shard in order; those that cannot be read are added to `skipped`.

    One batch is decoded while another is encoded.
    """
    root = config.data.root
    pending: deque[tuple[list[Example], jax.Array]] = deque()

    def finish() -> Iterator[TokenExample]:
        batch, codes = pending.popleft()
        for example, tokens in zip(batch, np.asarray(codes), strict=False):
            progress.step()
            yield TokenExample(tokens, example.label, example.path, example.crop)

    batch: list[Example] = []
    for example in read_ahead(pool, lambda i: crops.read(i, root), examples, 2 * encoder.batch):
        if example.clip is None:
            skipped.append((example.path, example.crop, example.error))
            progress.step(bad=True)
            judge(config, example, skipped, examples)
            continue
        batch.append(example)
        if len(batch) == encoder.batch:
            pending.append((batch, encoder.start([e.clip for e in batch if e.clip is not None])))
            batch = []
        if len(pending) > 1:
            yield from finish()
    if batch:
        pending.append((batch, encoder.start([e.clip for e in batch if e.clip is not None])))
    while pending:
        yield from finish()


def judge(
    config: Config, example: Example, skipped: list[tuple[str, int, str]], examples: range
) -> None:
    """Raises DataError for a clip that must not be skipped, and for too many of them."""
    if config.data.bad_records == "stop":
        raise DataError(
            f"{example.path}: {example.error}. Repair or remove it, or have it skipped: "
            "--config.data.bad_records=replace"
        )
    limit = min(max(BAD_COUNT, BAD_SHARE * len(examples)), len(examples) - 1)
    if len(skipped) > limit:
        raise DataError(
            f"{len(skipped)} of {len(examples)} clips of a shard cannot be read, the last: "
            f"{example.path}: {example.error}. Check that the data are still there and whole."
        )


def read_ahead(
    pool: ThreadPoolExecutor, read: Callable[[int], Example], examples: range, ahead: int
) -> Iterator[Example]:
    """`read` of each example, in order, with at most `ahead` of them in memory."""
    futures: deque[Future[Example]] = deque()
    for example in examples:
        futures.append(pool.submit(read, example))
        if len(futures) >= ahead:
            yield futures.popleft().result()
    while futures:
        yield futures.popleft().result()


def choose_names(config: Config) -> tuple[str, str]:
    """What the splits of the cache are called: as in a prepared dataset, else train, validation."""
    if config.data.kind != "records":
        return "train", "validation"
    return "train", build_data.choose_held_out(config, build_data.list_splits(config))


def choose_seed(config: Config, request: EncodeRequest) -> int:
    return config.seed if request.seed is None else request.seed


def describe_cache(
    config: Config,
    request: EncodeRequest,
    splits: Mapping[str, Crops],
    *,
    trained: build.Trained,
    batch: int,
) -> dict[str, Any]:
    """The cache's provenance: all that decides its bytes, as JSON."""
    spec = dataclasses.asdict(config.tokenizer)
    spec.pop("remat")  # changes no code
    sources = {name: crops.data.source for name, crops in splits.items()}
    return {
        "tokenizer": {
            "sha256": trained.sha256,
            "step": trained.step,
            "averaged": config.train.tokenizer.ema > 0,
            "spec": spec,
        },
        "grid": config.grid.shape,
        "codes": config.tokenizer.make_quantizer().codes,
        "labels": list(sources["train"].label_names),
        "preprocessing": build_data.describe_clips(config),
        "source": {
            "kind": config.data.kind,
            "records": {name: len(source) for name, source in sources.items()},
            "fingerprints": {name: source.fingerprint for name, source in sources.items()},
        },
        "crops": request.crops,
        "seed": choose_seed(config, request),
        "shard_size": request.shard_size,
        # Codes that lie near a boundary may fall either way in another batch or on other devices.
        "batch": batch,
        "device": f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}",
        "versions": {"nbp": __version__, "jax": jax.__version__, "numpy": np.__version__},
    }
