# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""`nbp.prepare` on a large tree of good and bad videos, killed at random points and resumed.

    python -m benchmarks.prepare_stress [--videos 2000] [--kills 6] [--work DIR]
    python -m benchmarks.prepare_stress --beam PYTHON [--videos 2000] [--work DIR]

Builds the tree of tests/data/trees.py, runs the command undisturbed and checks the report and every
clip (against the arrays that were encoded); then kills it (the whole process group, with SIGKILL),
resumes, and compares the bytes; then makes a file vanish on the way. With --beam, which names the
interpreter of an environment with Apache Beam, it runs the command there with --runner DirectRunner
instead, undisturbed and killed once, and compares the bytes with those of this environment. Prints
JSON lines; the exit status is 1 if a check fails.
"""

import argparse
import csv
import hashlib
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import print_row
from nbp.data.augmentation import resize_frame
from nbp.data.records import RecordSource
from nbp.data.video.clip_codec import decode_clip
from nbp.data.video.decode import read_clip
from tests.data.trees import CLASSES, OK, Made, build_tree
from tests.data.videos import psnr

# Of the tree, this share is bad.
BAD = 0.15
# Sources better than this count as this good: a lossy clip cannot follow a lossless one.
CAP = 42.0


# The interpreter that runs the command, and further flags of it.
Way = tuple[str, ...]
PLAIN: Way = (sys.executable,)


def start(videos: Path, out: Path, way: Way = PLAIN) -> subprocess.Popen[str]:
    """Runs nbp.prepare in a process group of its own."""
    command = [way[0], "-m", "nbp.prepare", "folder", "--shard_size", "32"]
    command += ["--videos", str(videos), "--out", str(out), "--timeout", "120", *way[1:]]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def hash_tree(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def run_killed(
    videos: Path, out: Path, *, kills: int, seed: int, way: Way = PLAIN
) -> dict[str, Any]:
    """Kills the command at random moments while it makes progress, then lets it finish."""
    rng = random.Random(seed)
    work = out / ".incomplete-folder"
    total = 0
    for number in range(kills):
        process = start(videos, out, way)
        before = len(list(work.glob("*-*.json")))
        while process.poll() is None:
            found = len(list(work.glob("*-*.json")))
            if found >= before + 1:  # at least one shard further, then any moment
                break
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 2))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            total += 1
        process.communicate()
        if number == 0 and work.is_dir():
            json.loads((work / "plan.json").read_text())  # whole, or absent
    process = start(videos, out, way)
    text, _ = process.communicate()
    return {"kills": total, "exit_code": process.returncode, "last_line": text.splitlines()[-1]}


def run_beam(videos: Path, work: Path, python: str, *, seed: int) -> int:
    """The bytes of Beam's DirectRunner against those in work/calm: whole, then killed."""
    cores = os.cpu_count() or 1
    failed = 0
    for kills in (0, 1):
        out = work / f"beam-{kills}"
        began = time.monotonic()
        way = (python, "--runner", "DirectRunner", "--direct_num_workers", str(cores))
        way += ("--direct_running_mode", "multi_threading")
        row = run_killed(videos, out, kills=kills, seed=seed, way=way)
        row |= {"seconds": round(time.monotonic() - began, 1), "direct_num_workers": cores}
        row["byte_identical"] = hash_tree(work / "calm") == hash_tree(out)
        row["last_line"] = row["last_line"].replace(str(work), "WORK")
        print_row("prepare_beam", row)
        failed |= row["exit_code"] or not row["byte_identical"]
    return int(bool(failed))


def run_vanishing(videos: Path, out: Path) -> dict[str, Any]:
    """Takes a file away once the command has listed it, and looks for it in the report."""
    process = start(videos, out)
    plan = out / ".incomplete-folder" / "plan.json"
    while process.poll() is None and not plan.is_file():
        time.sleep(0.01)
    good = [name for name, *_ in json.loads(plan.read_text())["items"] if "bad" not in name]
    gone = videos / good[-1]
    hidden = gone.with_name(".taken-away")
    gone.rename(hidden)
    process.communicate()
    hidden.rename(gone)
    with (out / "folder" / "report.csv").open(newline="", encoding="utf8") as file:
        reported = {row["path"]: row["heading"] for row in csv.DictReader(file)}
    return {"exit_code": process.returncode, "reported": reported.get(good[-1]) == "vanished"}


def check_report(out: Path, made: list[Made]) -> list[str]:
    """What is not under its heading."""
    with (out / "folder" / "report.csv").open(newline="", encoding="utf8") as file:
        found = {row["path"]: row["heading"] for row in csv.DictReader(file)}
    wanted = {m.path: m.heading for m in made}
    return [
        f"{path}: {found.get(path, OK)}, not {wanted.get(path, OK)}"
        for path in sorted(found.keys() | wanted.keys())
        if not re.fullmatch(wanted.get(path, OK), found.get(path, OK))
    ]


def measure_loss(job: tuple[str, str, int, Made]) -> tuple[str, float, float, float]:
    """(path, dB of the decoded source, of the stored clip, both against the truth, of the latter
    against the former).
    """
    videos, dataset, index, made = job
    split, number = ("train", index) if index >= 0 else ("validation", ~index)
    record = RecordSource(dataset, split)[number]
    info = record["info"]

    def fit(frame: np.ndarray) -> np.ndarray:
        return resize_frame(np.ascontiguousarray(frame), info.height, info.width)

    truth = np.stack([fit(frame) for frame in made.truth()])
    source = read_clip(os.path.join(videos, made.path), frames=info.frames, resize=fit)
    stored = decode_clip(record["clip"], np.arange(info.frames), name=made.path)
    if stored.shape != truth.shape:
        return made.path, 0.0, -100.0, -100.0
    return made.path, psnr(source, truth), psnr(stored, truth), psnr(stored, source)


def check_clips(videos: Path, out: Path, made: list[Made]) -> tuple[list[str], dict[str, Any]]:
    """Good clips that are absent or lose 1 dB or more, and the distribution of the loss."""
    dataset = out / "folder" / "1.0.0"
    places: dict[str, int] = {}
    for split in ("train", "validation"):
        source = RecordSource(dataset, split)
        for i in range(len(source)):
            places[source[i]["path"]] = i if split == "train" else ~i
    good = {m.path: m for m in made if m.heading == OK}
    wrong = [f"{path}: not in the dataset" for path in good.keys() - places.keys()]
    wrong += [f"{path}: should not be in the dataset" for path in places.keys() - good.keys()]
    jobs = [
        (str(videos), str(dataset), places[path], m) for path, m in good.items() if path in places
    ]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=spawn) as pool:
        rows = list(pool.map(measure_loss, jobs, chunksize=16))
    losses = np.array([min(source, CAP) - stored for _, source, stored, _ in rows])
    wrong += [f"{row[0]}: loses {loss:.2f} dB" for row, loss in zip(rows, losses, strict=True)
              if loss >= 1]  # fmt: skip
    to_source = np.array([row[3] for row in rows])
    return wrong, {
        "clips": len(rows),
        "loss_db_max": round(float(losses.max()), 3),
        "loss_db_mean": round(float(losses.mean()), 3),
        "to_source_db_min": round(float(to_source.min()), 2),
        "to_source_db_mean": round(float(to_source.mean()), 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="default: a temporary folder")
    parser.add_argument("--tree", type=Path, help="keeps the videos here, and uses them again")
    parser.add_argument("--beam", metavar="PYTHON", help="of an environment with Apache Beam")
    arguments = parser.parse_args()
    work = Path(tempfile.mkdtemp(dir=arguments.work))
    try:
        return run(work, arguments)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def run(work: Path, arguments: argparse.Namespace) -> int:
    videos = arguments.tree or work / "videos"
    bad = round(arguments.videos * BAD)
    began = time.monotonic()
    made = build_tree(
        videos,
        good=arguments.videos - bad,
        bad=bad,
        seed=arguments.seed,
        workers=os.cpu_count() or 1,
    )
    size = sum(path.stat().st_size for path in videos.rglob("*") if path.is_file())
    row: dict[str, Any] = {"videos": len(made), "bad": bad, "source_mib": round(size / 2**20, 1)}
    print_row("prepare_tree", {**row, "seconds": round(time.monotonic() - began, 1)})

    began = time.monotonic()
    process = start(videos, work / "calm")
    text, _ = process.communicate()
    seconds = time.monotonic() - began
    stored = sum(path.stat().st_size for path in (work / "calm").rglob("*.array_record*"))
    row |= {"seconds": round(seconds, 1), "videos_per_second": round(len(made) / seconds, 2)}
    row |= {"exit_code": process.returncode, "stored_mib": round(stored / 2**20, 1)}
    if process.returncode != 0:
        print_row("prepare_calm", {**row, "output": text[-2000:]})
        return 1
    if arguments.beam:
        print_row("prepare_calm", row)
        return run_beam(videos, work, arguments.beam, seed=arguments.seed)
    misplaced = check_report(work / "calm", made)
    wrong, quality = check_clips(videos, work / "calm", made)
    print_row("prepare_calm", {**row, "misplaced": misplaced, "wrong": wrong, **quality})

    began = time.monotonic()
    killed = run_killed(videos, work / "killed", kills=arguments.kills, seed=arguments.seed)
    same = hash_tree(work / "calm") == hash_tree(work / "killed")
    killed |= {"seconds": round(time.monotonic() - began, 1), "byte_identical": same}
    print_row("prepare_killed", killed)

    vanished = run_vanishing(videos / CLASSES[2], work / "vanishing")
    print_row("prepare_vanishing", vanished)
    failed = misplaced or wrong or not same or killed["exit_code"] or not vanished["reported"]
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
