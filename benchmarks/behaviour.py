# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What the commands do, written down before and after a refactoring, to see that it is the same.

    python -m benchmarks.behaviour write FILE.json --workdir DIR [--older DIR]
    python -m benchmarks.behaviour compare BEFORE.json AFTER.json

`write` records, with a new folder DIR to work in (ten minutes on two cores that do nothing else):

    configs   every configuration in `configs/` and every variant of it, resolved
    flags     options of every command, as its help shows them: metavars, choices, defaults
    trained   `configs/quickstart.py:smoke`, trained into DIR/run: metrics, arrays of checkpoints,
              samples, the evaluation's report, names of all files
    made      a prepared set and a token cache of ten small videos (those of the older DIR): files
    refusals  exit code and line of commands that must fail, and what they leave behind
    use       what is drawn, scored, encoded and trained with copies of all that DIR now holds
    older     the same with copies from an older DIR: what another version wrote is still read

Metrics, scores and hashes of arrays are compared to the last bit, so both must come from one
machine; programs run on one thread. What differs from run to run (times, memory, random names,
hashes of checkpoint files) is a `*`. `compare` prints a line for each difference and exits with 1
if there is one. It compares `older` of AFTER with `use` of BEFORE, the file written with that DIR.
Nothing of the package is imported but `load_config`, so that its inside may change at will.
"""

import argparse
import csv
import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from nbp.config import load_config
from tests.data.videos import encode, make_clip

ROOT = Path(__file__).resolve().parent.parent
# Columns of metrics.csv and keys of JSON files whose values differ from run to run, or by place.
VARYING = re.compile(
    r"\w+_per_s(econd\w*)?|\w+_s|seconds\w*|host_memory_mib|goodput|mfu|\w*sha256|workdir|root"
)
RANDOM = re.compile(r"[0-9a-f]{32}|(?<=-)[0-9a-f]{16}|(?<=tfevents\.).*")  # parts of file names
PINNED = {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "COLUMNS": "9999",  # a help does not break its lines
    "PYTHONPATH": str(ROOT),
}

COMMANDS = ("convert", "encode", "evaluate", "export", "precompile", "prepare", "report")
COMMANDS += ("sample", "train", "sweep", "fit", "doctor", "completion")
# Arguments of commands. @NAME lies in the working folder; .KEY=VALUE is --config.KEY=VALUE.
SMOKE = "--config configs/quickstart.py:smoke"
TRAIN = f"{SMOKE} --workdir @run .seed=0"
PREPARE = (
    "folder --videos @videos --out @prepared --size 32 --min_frames 9 --validation 0.4"
    " --codec jpeg --shard_size 3 --workers 1"
)
ENCODE = "--workdir @run --data @prepared --crops 2 --shard_size 3 --threads 1 --out @"
DRAW = "--workdir @run --seed 3 --out @"
SCORE = "--workdir @run --protocol"
SHORT = (
    ".train.evaluate_every=0 .train.preview_every=0 .train.log_every=1 .evaluation.protocol="
    " .evaluation.samples=0 .data.validation_clips=2"
)
FROM_RECORDS = (
    f"{SMOKE} --workdir @from_records .data.kind=records .data.root=@prepared {SHORT}"
    " .stages=('tokenizer',) .train.tokenizer.steps=2 .train.tokenizer.warmup=1"
    " .tokenizer.widths=(4,8) .tokenizer.units=(0,0) .tokenizer.strides=((2,4,4),)"
)
FROM_TOKENS = (
    f"{SMOKE} --workdir @from_tokens .data.kind=tokens .data.root=@tokens {SHORT}"
    " .stages=('generator',) .train.generator.steps=2 .train.generator.warmup=1"
    " .train.generator.batch=2"
)
USES = (  # command, arguments, place of what is read
    ("sample", f"{DRAW}drawn --num 2", "drawn"),
    ("sample", f"{DRAW}jacobi --num 1 --decoding jacobi --window 2 --top_k 8", "jacobi"),
    ("sample", f"{DRAW}long --num 1 --num_frames 13 --weights int8", "long"),
    # Goes on from the clips that the evaluation of the training kept.
    ("evaluate", f"{SCORE} moving-shapes --out @1.json", "1.json"),
    ("evaluate", f"{SCORE} reconstruction --data @prepared --out @2.json", "2.json"),
    ("encode", f"{ENCODE}again", "again"),
    # What is finished is known for that, and stays as it is.
    ("encode", f"{ENCODE}tokens", "tokens"),
    ("prepare", PREPARE, "prepared"),
    ("train", FROM_RECORDS, "from_records/tokenizer"),
    ("train", FROM_TOKENS, "from_tokens/generator"),
    ("train", f"{TRAIN} .train.generator.steps=14", "run/generator"),  # goes on from 12
)
REFUSALS = (
    ("train", "--workdir @new"),
    ("train", f"{SMOKE} --workdir @new --confg.seed=1"),
    ("train", f"{SMOKE} --workdir @new --resume_step 3"),
    ("train", "--config configs/quickstar.py --workdir @new"),
    ("train", f"{SMOKE} --workdir @new .generator.blok=row .generator.heads=x"),
    ("train", f"{SMOKE} --workdir @new .mesh.data=16"),
    ("train", "--config configs/folder.py --workdir @new .data.root=@absent"),
    ("train", f"{SMOKE} --workdir @run .tokenizer.levels=(5,5)"),
    ("train", f"{SMOKE} --workdir @new --resume_from @empty"),
    ("sample", "--workdir @empty"),
    ("sample", "--workdir @run --out @new --top_p 2"),
    ("sample", "--workdir @no_generator --out @new"),
    ("evaluate", "--workdir @run --protocol imaginary"),
    ("evaluate", "--workdir @run --protocol nbp-ucf --features random-i3d"),
    ("evaluate", "--workdir @no_tokenizer --protocol moving-shapes"),
    ("evaluate", "--compare @file @file"),
    ("encode", "--workdir @run --out @new --shard 3/2"),
    ("encode", "--workdir @no_tokenizer --out @new"),
    ("prepare", "folder --videos @absent --out @new"),
    ("prepare", "ucf101 --videos @videos --out @new"),
    ("convert", "tokenizer --source @file --out @new"),
    ("precompile", f"{SMOKE} --topology x"),
    ("export", "--workdir @run --out @videos"),
    ("report", "--workdir @empty"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """1 where `compare` finds a difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=("write", "compare"))
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="one, or two to compare"
    )
    parser.add_argument("--workdir", type=Path, help="write: a new folder, kept for --older")
    parser.add_argument("--older", type=Path, help="write: the --workdir of another version")
    arguments = parser.parse_args(argv)
    if len(arguments.files) != (1 if arguments.mode == "write" else 2):
        parser.error("write takes one file, compare takes two")
    if arguments.mode == "compare":
        before, after = (json.loads(path.read_bytes()) for path in arguments.files)
        before["older"] = before["use"]
        lines = list(list_differences(before, {"older": before["older"], **after}))
        print("\n".join(lines) or "no differences")
        return int(bool(lines))
    if arguments.workdir is None:
        parser.error("write needs --workdir DIR")
    folder = arguments.workdir.resolve()
    if folder.exists() and any(folder.iterdir()):
        parser.error(f"{folder} is not empty: name a new --workdir")
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.update(PINNED)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "jax_cache"))
    record = observe(folder, arguments.older and arguments.older.resolve())
    arguments.files[0].write_text(json.dumps(record, indent=1) + "\n", encoding="utf8")
    return 0


def observe(folder: Path, older: Path | None) -> dict[str, Any]:
    """The record, as the text of this module has it."""
    if older is not None:
        shutil.copytree(older / "videos", folder / "videos")
    for n in range(10 if older is None else 0):  # 12 frames of 40 x 32 pixels, without random marks
        path, clip = folder / "videos" / "ab"[n % 2] / f"{n}.mkv", make_clip(12, 32, 40, seed=n)
        encode(path, clip, options={"fflags": "+bitexact"})
    record: dict[str, Any] = {
        "configs": resolve_configs(),
        "flags": {name: read_flags(start(folder, name, "--help").stdout) for name in COMMANDS},
    }
    if start(folder, "train", TRAIN).returncode:
        raise SystemExit("without a trained workdir there is nothing to look at")
    record |= {
        "trained": read_run(folder / "run"),
        "made": {
            "prepared": perform(folder, "prepare", PREPARE, "prepared"),
            "tokens": perform(folder, "encode", f"{ENCODE}tokens", "tokens"),
        },
        "refusals": observe_refusals(folder),
        "use": use(folder, folder / "use"),
    }
    return record if older is None else record | {"older": use(older, folder / "use_older")}


def resolve_configs() -> dict[str, Any]:
    """Each `FILE[:VARIANT]`, with places for the data and the weights that a user would name."""
    found = {}
    for path in sorted((ROOT / "configs").rglob("*.py")):
        text, name = path.read_text(encoding="utf8"), path.relative_to(ROOT).as_posix()
        if "def get_config(" in text:
            variants = (f"{name}:{variant}" for variant in re.findall(r'variant == "(\w+)"', text))
            for argument in (name, *variants):
                places = {"data.root": "videos", "losses.lpips_root": "weights"}
                found[argument] = dataclasses.asdict(load_config(str(ROOT / argument), places))
    return found


def read_flags(text: str) -> dict[str, Any]:
    """Of a help each option or choice: its forms, its default, and whether it can be left out."""
    usage, _, rest = text.partition("\n\n")
    found: dict[str, Any] = {}
    for entry in re.findall(
        r"^  ([-{A-Z].*(?:\n {3,}\S.*)*)$", rest.partition("\nexample")[0], re.M
    ):
        forms, _, described = re.sub(r"\n\s*", "  ", entry).partition("  ")
        name, default = re.split(r"[, ]", forms)[0], re.search(r"default (\S+)$", described)
        # A list of at least one is shown as RUN [RUN ...].
        optional = bool(re.search(rf"\[{re.escape(name)}(?:\]| (?!\.\.\.))", usage))
        name = name if name.startswith("-") else "choice"
        found[name] = {"forms": forms, "default": default and default[1], "optional": optional}
    return found


def observe_refusals(folder: Path) -> dict[str, Any]:
    """Exit code and line of each, and the files that it left."""
    (folder / "empty").mkdir()
    (folder / "file").write_text("no weights, no report")
    for absent in ("tokenizer", "generator"):
        unwanted = shutil.ignore_patterns(absent, "report")
        shutil.copytree(folder / "run", folder / f"no_{absent}", ignore=unwanted)
    found = {}
    for command, arguments in REFUSALS:
        done = start(folder, command, arguments)
        line = find_line(done.stderr, folder)
        found[f"{command} {arguments}"] = [done.returncode, line, *list_names(folder / "new")]
        shutil.rmtree(folder / "new", ignore_errors=True)
    return found


def use(source: Path, folder: Path) -> dict[str, Any]:
    """Draws, scores, encodes and trains with copies of what `write` made in `source`."""
    for name in ("run", "videos", "prepared", "tokens"):
        shutil.copytree(source / name, folder / name)
    unwanted = shutil.ignore_patterns("generator", "report", "samples", "labels.json")
    shutil.copytree(source / "run", folder / "from_tokens", ignore=unwanted)
    return {place: perform(folder, command, text, place) for command, text, place in USES}


# Commands ----------------------------------------------------------------------------------------


def start(folder: Path, command: str, text: str) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end; @ in its arguments is the folder. Says how long it took."""
    began = time.monotonic()
    words = [f"--config{word}" if word.startswith(".") else word for word in text.split()]
    line = [
        sys.executable,
        "-m",
        f"nbp.{command}",
        *(word.replace("@", f"{folder}/") for word in words),
    ]
    done = subprocess.run(line, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    print(f"{time.monotonic() - began:6.1f} s, exit code {done.returncode}: {command} {text}")
    return done


def perform(folder: Path, command: str, text: str, place: str) -> Any:
    """What a command left in a place; how it ended, where that was not well."""
    done = start(folder, command, text)
    if done.returncode:
        print(done.stderr[-3000:])
        return [done.returncode, find_line(done.stderr, folder)]
    readers = {"train": read_metrics, "sample": read_samples, "evaluate": read_json}
    return readers.get(command, hash_files)(folder / place)


def find_line(text: str, folder: Path) -> str:
    """The line that the command wrote to stderr: of argparse's the one after the usage."""
    lines = [line for line in text.splitlines() if line and not line.startswith("usage: ")]
    line = next((line for line in lines if line.startswith("nbp: ")), "".join(lines[:1]))
    return line.replace(f"{folder}/", "@").replace(str(ROOT), "ROOT")


# What they leave ---------------------------------------------------------------------------------


def read_run(run: Path) -> dict[str, Any]:
    """All that a training leaves."""
    return {
        "metrics": {stage: read_metrics(run / stage) for stage in ("tokenizer", "generator")},
        "arrays": hash_checkpoints(run),
        "samples": read_samples(run / "samples"),
        "report": read_json(run / "report" / "moving-shapes.json"),
        "files": list_names(run),
    }


def read_metrics(stage: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv as they are written, but for times."""
    with (stage / "metrics.csv").open(encoding="utf8") as file:
        return [blank(row) for row in csv.DictReader(file)]


def hash_checkpoints(run: Path) -> dict[str, str]:
    """Hashes of the arrays of both stages' last checkpoints, by their paths."""
    found = {}
    for manifest in sorted(run.glob("*/checkpoints/12/*/manifest.ocdbt")):
        tree = ocp.PyTreeCheckpointer().restore(manifest.parent)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            name = f"{manifest.parts[-5]} {manifest.parts[-2]} {jax.tree_util.keystr(path)}"
            found[name] = hash_array(np.asarray(leaf))
    return found


def hash_array(array: np.ndarray) -> str:
    return f"{array.dtype} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"


def read_samples(folder: Path) -> dict[str, Any]:
    """Hashes of clips and tokens, and the names of all files."""
    with np.load(folder / "samples.npz", allow_pickle=False) as arrays:
        hashes = {name: hash_array(arrays[name]) for name in sorted(arrays.files)}
    return {**hashes, "files": list_names(folder)}


def read_json(path: Path) -> Any:
    return blank(json.loads(path.read_text(encoding="utf8")))


def blank(value: Any) -> Any:
    """The same with * for all that is VARYING."""
    if isinstance(value, dict):
        return {k: "*" if VARYING.fullmatch(k) else blank(v) for k, v in value.items()}
    return [blank(item) for item in value] if isinstance(value, list) else value


def hash_files(folder: Path) -> dict[str, Any]:
    """The hash of every file, or what it says if it is JSON."""
    return {
        path.relative_to(folder).as_posix(): read_json(path)
        if path.suffix == ".json"
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def list_names(folder: Path) -> list[str]:
    """All files below a folder; names that are drawn at random become one."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted({RANDOM.sub("*", path.as_posix()) for path in files})


def list_differences(before: Any, after: Any, place: str = "") -> Iterator[str]:
    """A line for each value that is not the same, or that only one of them has."""
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        before, after = dict(enumerate(before)), dict(enumerate(after))
    if isinstance(before, dict) and isinstance(after, dict):
        for key in dict.fromkeys([*before, *after]):
            old, new = before.get(key, "ABSENT"), after.get(key, "ABSENT")
            yield from list_differences(old, new, f"{place} > {key}".removeprefix(" > "))
    elif before != after:
        yield f"{place}: {json.dumps(before)[:300]} -> {json.dumps(after)[:300]}"


if __name__ == "__main__":
    raise SystemExit(main())
