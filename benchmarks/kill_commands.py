# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Every command that writes, killed at random moments and started again until it ends.

    python -m benchmarks.kill_commands [--kills 30] [--seed 0] [--minutes 20]
        [--commands train,prepare,...]

Each command works on a tiny input: twice undisturbed (the second run is timed, and tells which
bits are the same anyway), then killed with SIGKILL at moments drawn evenly over the length of a run
and started again with the same arguments until it ends; a new run begins until there were enough
kills. After each kill no file under a final name may be torn, and what was finished before must be
there, byte for byte. What stands at the end must be what an undisturbed run leaves. Prints a line
per command; the exit status is 1 if a check failed.
"""

import argparse
import collections
import hashlib
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import jax
import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from benchmarks.kill_points import read_all, run_with_kills
from benchmarks.measure import print_row
from nbp import build
from nbp.training.integrity import Damaged, verify_files
from nbp.workdir import read_config, read_labels
from tests import tiny
from tests.commands import test_sweep
from tests.commands.test_convert import CLIPS, TOKENIZER, make_generator, write_generator
from tests.commands.test_sweep import read_results, write_sweep
from tests.data.videos import encode, make_clip
from tests.evaluated import add_generator, make_workdir
from tests.test_resume import CHANGES

ROOT = Path(__file__).resolve().parent.parent
PROTOCOL = "moving-shapes"
QUICK = "--xla_backend_optimization_level=0"  # one device, quickly compiled
SWEEP: dict[str, Any] = {
    "overrides": {**test_sweep.KEYS, "data.validation_clips": 8},
    "runs": {"row": {"seeds": (0, 1)}},
}
# Names that say of themselves that they are not finished, here and in orbax.
UNFINISHED = ("*.tmp", ".exporting", ".converting", "*.orbax-checkpoint-tmp*", "discarded-*")


@dataclass(frozen=True)
class Command:
    """One of the commands.

    arguments: of a run that writes into a folder. read: its result, to compare. rewritten: patterns
    of the files below the folder that each run writes anew, or goes on with. passing: of those that
    are there for the work alone, and go when it is done.
    """

    name: str
    arguments: Callable[[Path], list[str]]
    read: Callable[[Path], Any]
    rewritten: tuple[str, ...] = ()
    passing: tuple[str, ...] = (".incomplete*.json", "*/.incomplete*.json", "*.lock")


@dataclass
class Tally:
    """What was found after kills. lost, torn: problems in words."""

    problems: list[str] = field(default_factory=list)
    states: collections.Counter[str] = field(default_factory=collections.Counter)
    finished: dict[str, str] = field(default_factory=dict)


def main(argv: Sequence[str] | None = None) -> None:
    """Kills, checks, compares, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=math.inf, help="of kills of a command")
    parser.add_argument("--commands", default="export,convert,prepare,encode,train,evaluate")
    arguments = parser.parse_args(argv)
    failed = False
    with tempfile.TemporaryDirectory(prefix="nbp-kill-") as name:
        folder = Path(name)
        os.environ.setdefault("XLA_FLAGS", QUICK)
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "cache"))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        commands = make_commands(folder)
        for name in arguments.commands.split(","):
            row = kill_command(
                commands[name],
                folder,
                arguments.kills,
                seed=arguments.seed,
                minutes=arguments.minutes,
            )
            failed |= bool(row["problems"])
            print_row("kill_commands", {"command": name, **row})
    if failed:
        raise SystemExit(1)


def make_commands(folder: Path) -> dict[str, Command]:
    """The commands, and the inputs that they share below `folder`."""
    shapes = {"data.moving_shapes.train_clips": "24", "data.validation_clips": "8"}
    stages = {"stages": "('tokenizer', 'generator')"}
    workdir = add_generator(make_workdir(folder / "trained", {**shapes, **stages}))
    videos = folder / "videos"
    for number in range(16):
        encode(videos / "ab"[number % 2] / f"{number}.mp4", make_clip(seed=number))
    official = folder / "official.ckpt"
    write_generator(official, make_generator(), first_stage=TOKENIZER)
    CHANGES["train.keep"] = "10"  # nothing that is finished goes away by itself
    source = ["--workdir", str(workdir)]

    def evaluated(out: Path) -> list[str]:
        if not out.exists():
            shutil.copytree(workdir, out)
        return ["--workdir", str(out), "--protocol", PROTOCOL, "--clips", "130"]

    found = (
        Command(
            "train",
            lambda out: ["--config", tiny.CONFIG, "--workdir", str(out), *tiny.flags(CHANGES)],
            read_all,
            (
                *("*/metrics.csv", "*/goodput.json", "*/events.out.tfevents*", "*/.lock"),
                *("report/*", "config.json"),
            ),
        ),
        Command(
            "prepare",
            lambda out: [
                *("folder", "--videos", str(videos), "--out", str(out), "--workers", "1"),
                *("--size", "16", "--shard_size", "2", "--validation", "0.3"),
            ],
            hash_files,
            ("*.lock", "*/report.md", "*/report.csv"),
        ),
        Command(
            "encode",
            lambda out: [*source, "--out", str(out), "--shard_size", "4", "--threads", "1"],
            hash_files,
            ("*.lock",),
        ),
        Command(
            "sweep",
            lambda out: [write_sweep(folder, **SWEEP), "--workdir", str(out)],
            read_results,
            (
                *("*metrics.csv", "*goodput.json", "*events.out.tfevents*", "*.lock", "*report/*"),
                *("*config.json", "*labels.json", "*/run.json", "logs/*", "sweep.*", "index.html"),
            ),
        ),
        Command("evaluate", evaluated, read_report, ("report/[!c]*", "report/clips.json")),
        # A killed export begins anew, so nothing of it counts as finished.
        Command("export", lambda out: [*source, "--out", str(out)], read_export, ("*",)),
        Command(
            "convert",
            lambda out: [
                *("generator", "--source", str(official), "--first_stage", "--heads", "2"),
                *("--out", str(out), *CLIPS),
            ],
            read_export,
        ),
    )
    return {command.name: command for command in found}


def kill_command(
    command: Command, folder: Path, kills: int, *, seed: int, minutes: float
) -> dict[str, Any]:
    """One command's row: kills (fewer where `minutes` have passed), what stood then, problems."""
    rng = random.Random(f"{seed} {command.name}")
    expected: list[Any] = []
    seconds = 0.0
    for number in range(2):
        whole = folder / f"{command.name}-whole-{number}"
        began = time.monotonic()
        run_with_kills(lambda whole=whole: start(command, whole), 0, rng, most=0, look=lambda: 0)
        seconds = time.monotonic() - began
        expected.append(command.read(whole))
    tally, runs, done = Tally(), 0, 0
    if expected[0] != expected[1]:
        tally.problems.append("two undisturbed runs differ")
    until = time.monotonic() + 60 * minutes
    while done < kills and time.monotonic() < until:
        out = folder / f"{command.name}-killed"
        tally.finished.clear()
        began = time.monotonic()
        points = run_with_kills(
            lambda out=out: start(command, out),
            seconds,
            rng,
            most=kills - done,
            look=lambda out=out: look(command, out, tally),
            until=until,
        )
        if not points:  # the machine has become faster
            seconds = min(seconds, time.monotonic() - began)
        done += len(points)
        runs += 1
        look(command, out, tally, killed=False)
        if command.read(out) != expected[1]:
            tally.problems.append(f"run {runs}, killed {len(points)} times, ends differently")
        left = [str(path) for path in out.rglob("*") if is_unfinished(path.name)]
        tally.problems += [f"left over at the end: {name}" for name in left]
        shutil.rmtree(out)
    return {
        "kills": done,
        "kills_wanted": kills,
        "runs": runs,
        "seconds_undisturbed": round(seconds, 1),
        "files_finished_when_killed": dict(sorted(tally.states.items(), key=lambda s: int(s[0]))),
        "problems": tally.problems,
        "load": round(os.getloadavg()[0], 1),
    }


def start(command: Command, out: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    environment["XLA_FLAGS"] = QUICK
    return subprocess.Popen(
        [sys.executable, "-m", f"nbp.{command.name}", *command.arguments(out)],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


# What a kill leaves ------------------------------------------------------------------------------


def look(command: Command, out: Path, tally: Tally, *, killed: bool = True) -> int:
    """Checks the folder and notes problems; returns how many files are finished.

    A finished file may be moved, not changed.
    """
    files = {path: path.relative_to(out).as_posix() for path in list_finished(out)}
    tally.problems += [
        f"{name}: {fault}" for path, name in files.items() if (fault := find_fault(path))
    ]
    tally.problems += find_damaged_steps(out)
    kept = {
        name: hash_file(path)
        for path, name in files.items()
        if not any(fnmatch(name, pattern) for pattern in command.rewritten)
    }
    there = set(kept.values())
    for name, digest in tally.finished.items():
        passed = any(fnmatch(name, pattern) for pattern in command.passing) and name not in kept
        if not passed and (digest not in there or kept.get(name, digest) != digest):
            tally.problems.append(f"{name} was finished, and is lost or changed")
    tally.finished.clear()
    tally.finished.update(kept)
    if killed:
        tally.states[str(len(files))] += 1
    return len(files)


def is_unfinished(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in UNFINISHED)


def list_finished(out: Path) -> Iterator[Path]:
    """Files under names, and in folders, that do not call themselves unfinished."""
    for folder, names, files in os.walk(out):
        names[:] = [name for name in names if not is_unfinished(name)]
        yield from (Path(folder) / name for name in files if not is_unfinished(name))


def find_fault(path: Path) -> str:
    """What is wrong with a file that looks finished; "" where nothing is."""
    try:
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf8"))
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                assert all(arrays[name] is not None for name in arrays.files)
        elif "array_record" in path.name:
            reader = ArrayRecordReader(str(path))
            assert len(reader.read_all()) == reader.num_records() > 0
            reader.close()
        elif path.suffix == ".html":
            assert path.read_text(encoding="utf8").rstrip().endswith("</html>")
    except Exception as error:  # whatever a reader does about a torn file
        return f"torn ({type(error).__name__}: {error})"
    return ""


def find_damaged_steps(out: Path) -> list[str]:
    """Checkpoints under final names that are not what their lists of hashes say."""
    problems = []
    for path in out.glob("*/checkpoints/*"):
        if path.name.isdecimal():
            try:
                verify_files(path, [item.name for item in path.iterdir()])
            except Damaged as damage:
                problems.append(f"{path.relative_to(out)}: {damage}")
    return problems


# What a run leaves -------------------------------------------------------------------------------


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_files(out: Path) -> dict[str, str]:
    """The hash of every file."""
    files = [path for path in sorted(out.rglob("*")) if path.is_file()]
    return {path.relative_to(out).as_posix(): hash_file(path) for path in files}


def read_report(workdir: Path) -> list[Any]:
    """What an evaluation says of the model, and the names and arrays of all that it keeps."""
    report = json.loads((workdir / "report" / f"{PROTOCOL}.json").read_text(encoding="utf8"))
    names = sorted(path.name for path in (workdir / "report").rglob("*"))
    cache = {}
    for path in sorted((workdir / "report" / "cache").rglob("*.npz")):
        with np.load(path) as arrays:  # all but the time that sampling took
            kept = {name: arrays[name] for name in arrays.files if name != "seconds"}
        cache[path.name] = [(n, a.dtype.name, a.shape, a.tobytes()) for n, a in kept.items()]
    return [report["scores"], report.get("per_class"), names, cache]


def read_export(out: Path) -> dict[str, Any]:
    """All parameters of both stages, and the other files; orbax names its own at random."""
    config, labels = read_config(out), read_labels(out)
    networks = {
        "tokenizer": build.make_tokenizer_network(config),
        "generator": build.make_generator_network(config, labels),
    }
    found: dict[str, Any] = {
        name: (out / name).read_bytes() for name in ("config.json", "labels.json")
    }
    for stage, network in networks.items():
        trained = build.load_trained(out, stage, network=network, ema=False)  # pyright: ignore
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(trained.params)]
        found[stage] = [(leaf.dtype.name, leaf.shape, leaf.tobytes()) for leaf in leaves]
    return found | {"top": sorted(path.name for path in out.iterdir())}


if __name__ == "__main__":
    main()
