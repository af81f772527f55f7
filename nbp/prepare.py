# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Re-encodes video files into a dataset for training, and reports the bad ones.

python -m nbp.prepare {ucf101,k600,folder} --videos DIR [--annotations DIR] --out DIR
"""

import os
from pathlib import Path

from nbp.errors import run_command
from nbp.flags import Parser

# As in `nbp.data.video.resize`, which is not imported for a usage error.
KERNELS = ("bicubic", "swscale-bilinear", "bilinear-antialiased", "bilinear", "cv2-bilinear")


def make_parser() -> Parser:
    parser = Parser(
        "nbp.prepare",
        __doc__,
        examples=(
            "ucf101 --videos UCF-101 --annotations ucfTrainTestlist --out data",
            "folder --videos my_videos --out data --fps 8 --min_frames 9",
            "folder --videos my_videos --out data --runner DirectRunner --direct_num_workers 4\n"
            "--direct_running_mode multi_threading",
        ),
    )
    add = parser.add_argument_group("videos").add_argument
    add("kind", choices=("ucf101", "k600", "folder"), help="how lists are read")
    add("--videos", required=True, type=Path, help="folder, searched to its depth")
    add("--annotations", type=Path, help="folder with the lists; default: videos")
    add("--out", required=True, type=Path, help="folder of data sets")
    add = parser.add_argument_group("which clips are for what").add_argument
    add("--split", type=int, default=1, help="ucf101: official split 1, 2 or 3")
    add("--validation", type=float, default=0.1, help="folder: share held out")
    add(
        "--split_folders",
        choices=("auto", "yes", "no"),
        default="auto",
        help="folder: whether train/, val/, test/ at the top are splits, not classes",
    )
    add("--name", default="folder", help="folder: name of the dataset")
    add = parser.add_argument_group("how clips are stored").add_argument
    add("--size", default="128", help="stored short side in pixels, or native")
    add("--squash", action="store_true", help="store size x size, aspect lost")
    add("--resize", default="bicubic", choices=KERNELS, help="kernel that scales")
    add("--long_side", default="round", choices=("round", "floor", "ceil"), help="how rounded")
    add("--codec", default="h264", choices=("h264", "jpeg"), help="as stored")
    add("--quality", type=int, help="h264: 0..51, default 12; jpeg: 1..95, 90")
    add("--group", type=int, default=24, help="h264: frames from key to key")
    add = parser.add_argument_group("which files are left out").add_argument
    add("--min_frames", type=int, default=17, help="shorter files are left out")
    add("--fps", type=float, help="rate at which min_frames counts; default: all")
    add = parser.add_argument_group("the work").add_argument
    add("--workers", type=int, help="processes; default: all cores, 1 on Beam")
    add("--shard", default="0/1", metavar="I/N", help="share I of N machines")
    add("--runner", default="", metavar="NAME", help="of Apache Beam; further flags are Beam's")
    add("--shard_size", type=int, default=256, help="files per shard")
    add("--timeout", type=float, default=600.0, help="seconds for one file")
    add("--strict", action="store_true", help="fail on anything in the report")
    add("--restart", action="store_true", help="discard what is there")
    return parser


if __name__ == "__main__":
    run_command("nbp.prepare", make_parser)  # help and mistakes end there, before the imports


import contextlib
import dataclasses
import functools
import json
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence

from nbp.data.prepare import beam
from nbp.data.prepare.plan import REPLACING, Plan, PrepareRequest, compare_options, load_plan
from nbp.data.prepare.quality_report import Outcome, collect_findings, format_report, summarize
from nbp.data.prepare.reencode import Recipe, WorkerPool
from nbp.data.prepare.shards import Shard, ShardWriter
from nbp.data.records import PREPARED, RecordSource, shard_name, write_metadata
from nbp.data.video.clip_codec import Coding
from nbp.data.video.notes import list_notes
from nbp.errors import ConfigError, DataError, Preempted, RestartError, hide_main
from nbp.files import VideoError, full_disk_named, name_text, read_json, sync, write_text
from nbp.locks import hold_lock
from nbp.places import refuse_inside
from nbp.progress import Progress, parse_shard


def main(argv: list[str] | None = None) -> None:
    """The command. argv: its arguments; default: those of the process."""
    parser = make_parser()
    arguments, options = parser.parse_known_args(argv)
    if options and not arguments.runner:
        parser.error(f"unrecognized arguments: {' '.join(options)}")

    native = arguments.size == "native"
    if not (native or (arguments.size.isdecimal() and len(arguments.size) < 10)):
        raise ConfigError(f"--size {arguments.size!r}: give pixels, or native")
    if native and arguments.squash:
        raise ConfigError("--squash needs a --size in pixels")
    if native and (arguments.resize, arguments.long_side) != ("bicubic", "round"):
        raise ConfigError("--resize and --long_side need a --size in pixels: native scales nothing")
    recipe = Recipe(
        Coding(arguments.codec, arguments.quality, arguments.group),
        size=128 if native else int(arguments.size),
        fit="native" if native else "squash" if arguments.squash else "short",
        min_frames=arguments.min_frames,
        fps=arguments.fps,
        resize=arguments.resize,
        long_side=arguments.long_side,
    )
    used = ("size", "squash", "codec", "quality", "group", "min_frames", "fps", "shard")
    used += ("resize", "long_side", "runner", "workers")
    rest = {name: value for name, value in vars(arguments).items() if name not in used}
    workers, share = arguments.workers, parse_shard(arguments.shard)
    if workers is None:
        workers = 1 if arguments.runner else os.cpu_count() or 1
    request = PrepareRequest(recipe=recipe, shard=share, workers=workers, **rest)
    if arguments.runner and share != (0, 1):
        raise ConfigError("--shard and --runner: Beam divides the shards among its workers")
    run = make_beam_run(arguments.runner, options) if arguments.runner else prepare_shards
    prepare_dataset(request, run=run)


# Bytes of a stored clip at 128 pixels, on the large side, for the check of free space.
_CLIP_BYTES = 500_000
# Seconds between two looks at which shards the workers of Beam have finished, and those that they
# have to end after a signal.
LOOK_SECONDS, STOP_SECONDS = 2.0, 30.0
STOPPED = "stopped; the same command resumes at the first unfinished shard"

Report = Callable[[str], None]
# Writes shards that are not finished: `prepare_shards`, or what hands them to others.
Run = Callable[[PrepareRequest, Sequence[Shard], Report], None]


def prepare_dataset(
    request: PrepareRequest, report: Report = print, *, run: Run | None = None
) -> Path:
    """Prepares the dataset, or this machine's share of it; returns where it lies when finished.

    run: what writes the shards, by default `prepare_shards`. Raises ConfigError for options that
    differ from those of a finished or half-finished dataset, DataError for sources that cannot
    serve and, under `strict`, for any finding.
    """
    refuse_inside(request.out, "--out", request.videos, "--videos")
    if _is_finished(request, report):
        return request.target
    plan = load_plan(request, report)
    shards = plan.shards
    share, machines = request.shard
    mine = [shard for shard in shards if shard.number % machines == share]
    todo = [shard for shard in mine if not shard.is_finished(request.work)]
    if len(todo) < len(mine):
        report(f"resuming: {len(mine) - len(todo)} of {len(mine)} shards are finished")
    _check_space(request, todo)
    with hold_lock(request.work / f"share-{share}-of-{machines}.lock") as free:
        if not free:
            raise ConfigError(
                f"another nbp.prepare works on share {share} of {request.work}. Wait for it; if "
                "none does, delete the *.held files there"
            )
        (run or prepare_shards)(request, todo, report)
    if not request.restart and _is_finished(request, report):  # another machine was faster
        return request.target
    left = sum(not shard.is_finished(request.work) for shard in shards)
    if left:
        report(f"this share is done; {left} of {len(shards)} shards are left to other machines")
        return request.target
    with hold_lock(request.work / "finish.lock") as free:
        if not free:
            report("another machine finishes the dataset")
        else:
            with full_disk_named(request.work / ".none"):
                _finish(request, plan, report)
    return request.target


def prepare_shards(
    request: PrepareRequest, shards: Sequence[Shard], report: Report = print
) -> None:
    """Writes those of the given shards that are not finished into the work folder.

    Any process may do any shard of `load_plan(request).shards`, and several the same one.
    """
    shards = [shard for shard in shards if not shard.is_finished(request.work)]
    if not shards:
        return
    writers: dict[int, ShardWriter] = {}

    def feed() -> Iterator[tuple[tuple[int, int], str]]:
        for shard in shards:
            writers[shard.number] = ShardWriter(shard, request.work)
            for place, item in enumerate(shard.items):
                yield (shard.number, place), os.path.join(request.videos, *item.path.split("/"))

    files = feed()
    with (
        Progress(sum(len(shard.items) for shard in shards), "files", report) as progress,
        WorkerPool(request.recipe, workers=request.workers, timeout=request.timeout) as pool,
        _stopped_by_sigterm() as stopped,
    ):
        exhausted = False
        while writers or not exhausted:
            if stopped():
                raise Preempted(STOPPED)
            while not exhausted and pool.room > 0:
                task = next(files, None)
                exhausted = task is None
                if task is not None:
                    pool.submit(*task)
            for (number, place), result in pool.collect():
                progress.step(bad=isinstance(result, VideoError))
                if writers[number].add(place, result):
                    writers.pop(number).finish()


def make_beam_run(runner: str, options: Sequence[str]) -> Run:
    """What has Beam's workers write the shards. Raises ConfigError as `beam.open_pipeline` does."""
    pipeline = beam.open_pipeline(runner, options)

    def run(request: PrepareRequest, shards: Sequence[Shard], report: Report) -> None:
        if not shards:
            return
        # As seen from other working folders; what was to be discarded is by now.
        places = {name: getattr(request, name) for name in ("videos", "annotations", "out")}
        absolute = {name: place and place.absolute() for name, place in places.items()}
        asked = dataclasses.replace(request, restart=False, **absolute)
        work = functools.partial(prepare_one, asked)
        failures: list[Exception] = []

        def call() -> None:
            try:
                beam.run_for_each(pipeline, work, [shard.number for shard in shards])
            except Exception as error:
                failures.append(error)

        thread = threading.Thread(target=call, daemon=True)
        with Progress(len(shards), "shards", report) as progress, _stopped_by_sigterm() as stopped:
            thread.start()
            left, running = list(shards), True
            try:
                while running:
                    thread.join(LOOK_SECONDS)
                    running = thread.is_alive()
                    there = [shard for shard in left if shard.is_finished(request.work)]
                    left = [shard for shard in left if shard not in there]
                    for _ in there:
                        progress.step()
                    if stopped():
                        raise Preempted(STOPPED)
            except (KeyboardInterrupt, Preempted):
                _signals.append(signal.SIGTERM)  # to the workers in this process
                thread.join(STOP_SECONDS)
                raise
        if failures:
            raise failures[0]
        if left:
            raise RestartError(
                f"the pipeline has ended, and {len(left)} of {len(shards)} shards are not in "
                f"{request.work}: its workers must see the same --out and --videos. Run again"
            )

    return run


def prepare_one(request: PrepareRequest, number: int) -> None:
    """Writes one shard of a plan that is there, on whatever machine this is."""

    hide_main()  # that of Beam's worker, for which each process would import Beam
    plan = load_plan(request, report=lambda text: None)
    prepare_shards(request, [plan.shards[number]], report=lambda text: None)


def _is_finished(request: PrepareRequest, report: Report) -> bool:
    file = request.target / PREPARED
    replacing = request.restart or (request.work / REPLACING).exists()
    if replacing or not request.target.exists():
        return False
    if not file.is_file():
        raise ConfigError(f"{request.target} exists and is not of nbp.prepare; use another --out")
    try:
        prepared = read_json(file)
        options, findings = dict(prepared["options"]), prepared["findings"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: damaged ({error}). Prepare it anew with --restart") from None
    compare_options(options, request.options(), request.target)
    if request.work.exists():  # it was killed between the last two steps
        shutil.rmtree(request.work, ignore_errors=True)
    report(f"{request.target} is finished already; --restart prepares it anew")
    if request.strict and findings:
        raise DataError(f"--strict: {findings}; see {request.target.parent}/report.md")
    return True


def _finish(request: PrepareRequest, plan: Plan, report: Report) -> None:
    """Report, metadata, and the rename that makes the dataset appear."""
    work, target, listing = request.work, request.target, plan.listing
    written = [(shard, shard.read_result(work)) for shard in plan.shards]
    outcomes: list[Outcome] = [outcome for _, result in written for outcome in result.outcomes]
    findings = collect_findings(listing, outcomes, groups=request.kind == "ucf101")
    target.parent.mkdir(parents=True, exist_ok=True)
    summed_up, table = format_report(request.dataset, listing, outcomes=outcomes, findings=findings)
    write_text(target.parent / "report.md", summed_up)
    write_text(target.parent / "report.csv", table)
    summary = summarize(findings)
    report(f"report: {target.parent / 'report.md'} ({summary or 'nothing is wrong'})")
    for text, _ in list_notes((o.path, o.notes) for o in outcomes if o.status == "ok"):
        report(text)
    if request.strict and findings:
        raise DataError(
            f"--strict: {summary}. Mend the sources and use --restart, or run the same command "
            "without --strict to leave the bad files out"
        )
    final = work / "final"
    shutil.rmtree(final, ignore_errors=True)
    final.mkdir()
    splits: dict[str, list[int]] = {}
    hashes: dict[str, str] = {}
    classes: dict[str, list[int]] = {}
    for split in listing.splits:
        filled = [(s, r) for s, r in written if s.split == split and r.records]
        if not filled:
            raise DataError(
                f"no usable video for the split {split}; see {target.parent}/report.md. Mend its "
                f"files{_other_share(request)}, and begin anew with --restart"
            )
        splits[split] = [result.records for _, result in filled]
        stored = [o for _, result in filled for o in result.outcomes if o.status == "ok"]
        classes[split] = [outcome.label for outcome in stored]
        for place, (shard, result) in enumerate(filled):
            name = shard_name(request.dataset, split, place, len(filled))
            hashes[name] = result.sha256
            shard.place_file(work, final / name)
    write_metadata(final, request.dataset, labels=listing.labels, splits=splits)
    prepared = {"options": request.options(), "findings": summary, "files": hashes}
    # The names as they are: those beside it, which other programs read, are escaped.
    prepared["labels"] = [name_text(label) for label in listing.labels]
    prepared["classes"] = classes  # of each record, so that none has to be read for it
    write_text(final / PREPARED, json.dumps(prepared, indent=1) + "\n")
    for split in splits:
        RecordSource(final, split)  # opens, or says why not
    sync(final)
    if target.exists():  # --restart
        shutil.rmtree(work / "replaced", ignore_errors=True)
        os.replace(target, work / "replaced")
    os.replace(final, target)
    sync(target.parent)
    shutil.rmtree(work, ignore_errors=True)
    clips = ", ".join(f"{sum(lengths)} {split}" for split, lengths in splits.items())
    size = sum(file.stat().st_size for file in target.iterdir())
    report(f"{target}: {clips} clips, {size / 2**20:.1f} MiB")


def _other_share(request: PrepareRequest) -> str:
    return ", or use --validation 0" if request.kind == "folder" and request.validation else ""


def _check_space(request: PrepareRequest, shards: Sequence[Shard]) -> None:
    """Refuses to begin what cannot fit; a coarse estimate from the sizes of the sources."""
    sources = count = 0
    for item in (item for shard in shards for item in shard.items):
        with contextlib.suppress(OSError):
            sources += os.stat(request.videos / item.path).st_size
            count += 1
    recipe = request.recipe
    factor = 6 if recipe.coding.codec == "jpeg" else 1
    need = factor * sources
    if recipe.fit != "native":
        need = min(need, factor * int(count * _CLIP_BYTES * (recipe.size / 128) ** 2))
    need += 2**17 * len(shards)  # ArrayRecord fills blocks of 64 KiB
    free = shutil.disk_usage(request.work).free
    if free < need:
        raise ConfigError(
            f"{request.out} has {free / 2**30:.1f} GiB free, and {count} clips may need up to "
            f"{need / 2**30:.1f} GiB. Free space, use another --out, or a smaller --size"
        )


_signals: list[int] = []  # that have come, for all threads


@contextlib.contextmanager
def _stopped_by_sigterm() -> Iterator[Callable[[], bool]]:
    """Yields what says whether SIGTERM came."""
    try:
        before = signal.signal(signal.SIGTERM, lambda number, _: _signals.append(number))
    except ValueError:  # not in the main thread, which may be waiting in here
        yield lambda: bool(_signals)
        return
    try:
        yield lambda: bool(_signals)
    finally:
        signal.signal(signal.SIGTERM, before)
        _signals.clear()
