# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What we write by hand beside what a library has for it: equal numbers? as fast? as safe?

    python -m benchmarks.libraries [--only schedules accumulation loader checkpoint safetensors]

The numbers behind the table in docs/architecture.md ("By hand"). `safetensors` needs the package
of this name, which is none of our dependencies. Each section prints lines of JSON.
"""

import argparse
import importlib
import importlib.util
import json
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import microbatching

from benchmarks.measure import peak_memory_mib, print_row, time_calls
from nbp.errors import CheckpointError
from nbp.interop.reading import open_tensors
from nbp.layout import LatentGrid, Opening, SequencePlan, Vocabulary
from nbp.models.generator import GeneratorNetwork, paper_recipe
from nbp.models.tokenizer import TokenizerNetwork, TokenizerSpec
from nbp.nn.attention.reference import prefix_attention
from nbp.nn.conv3d import mixed_conv
from nbp.nn.transformer import TransformerSpec
from nbp.tasks import tokenizer as tokenizer_task
from nbp.tasks.generator import GeneratorTask
from nbp.tasks.tokenizer import Objective, TokenizerTask
from nbp.training import optimizer
from nbp.training.optimizer import (
    OptimizerSpec,
    average_micro_batches,
    make_schedule,
    update_ema,
)

MIB = 2**20


def main(argv: list[str] | None = None) -> None:
    """Prints the lines of the chosen sections."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--save", nargs=3, metavar=("WAY", "DIR", "MIB"), help="saves once, here")
    arguments = parser.parse_args(argv)
    if arguments.save:
        way, folder, size = arguments.save
        print(json.dumps(save_once(way, Path(folder), int(size))))
        return
    for name in arguments.only:
        SECTIONS[name]()


# optax -------------------------------------------------------------------------------------------


def compare_schedules() -> None:
    """Schedule, and average of parameters: how often optax's differ in their last digits."""
    for warmup, total in ((100, 10_000), (5000, 300_000)):
        spec = OptimizerSpec(3e-4, total, warmup=warmup, final_fraction=0.1)
        theirs = optax.join_schedules(
            [
                optax.linear_schedule(spec.learning_rate / warmup, spec.learning_rate, warmup - 1),
                optax.cosine_decay_schedule(spec.learning_rate, total - warmup, alpha=0.1),
            ],
            [warmup],
        )
        steps = jnp.arange(total)
        report_difference(
            "schedule", jax.jit(make_schedule(spec))(steps), jax.jit(jax.vmap(theirs))(steps)
        )
    rng = np.random.default_rng(0)
    old, new = (jnp.asarray(rng.normal(size=MIB), jnp.float32) for _ in range(2))
    step = jnp.asarray(50_000)  # where the decay of ours has become theirs
    ours = jax.jit(lambda *trees: update_ema(*trees, decay=0.999, step=step))
    theirs = jax.jit(lambda old, new: optax.incremental_update(new, old, 1.0 - 0.999))
    report_difference("ema", ours(old, new), theirs(old, new))


def report_difference(what: str, ours: Any, theirs: Any) -> None:
    """The share of float32 numbers that differ, and the largest difference relative to a number."""
    ours, theirs = (np.asarray(x, np.float32) for x in (ours, theirs))
    apart = np.max(np.abs(ours - theirs) / np.maximum(np.abs(ours), np.finfo(np.float32).tiny))
    row = {"what": what, "numbers": ours.size, "differ": round(float(np.mean(ours != theirs)), 4)}
    print_row("libraries", row | {"most": float(f"{apart:.2g}")})


def average_by_optax(function: Any, *, batch: Any, key: Any, accumulate: int = 1) -> Any:
    """`average_micro_batches` by optax; the number of a micro-batch, for its key, is a row."""

    def one(rows: Any, part: Any) -> Any:
        return jax.tree.map(
            lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)),
            function(rows, jax.random.fold_in(key, part[0])),
        )

    clips = len(jax.tree.leaves(dict(batch))[0])
    mean = microbatching.AccumulationType.MEAN
    run = microbatching.microbatch(one, (0, 1), clips // accumulate, mean)
    return run(dict(batch), jnp.arange(clips) % accumulate)


def make_tasks(accumulate: int) -> Iterator[tuple[str, Any, Any]]:
    """A generator and a tokenizer, small, each with a batch."""
    spec = OptimizerSpec(1e-3, 10, warmup=0, accumulate=accumulate)
    plan = SequencePlan(LatentGrid(3, 8, 8), (1, 1, 8), Opening("hybrid"))
    parts = paper_recipe(prefix_attention, context=plan.length)
    network = GeneratorNetwork(TransformerSpec(2, 4, 128), plan, Vocabulary(1000), parts)
    tokenizer = TokenizerNetwork(TokenizerSpec((8, 8), (0, 0), ((2, 2, 2),), (4, 6), 2), mixed_conv)
    rng = np.random.default_rng(0)
    codes = {"codes": rng.integers(0, 1000, (16, 3, 8, 8), np.int32)}
    yield "generator", GeneratorTask(network, tokenizer, spec, {}), codes
    clips = {"video": rng.integers(0, 256, (8, 3, 8, 8, 3), np.uint8)}
    yield "tokenizer", TokenizerTask(tokenizer, spec, Objective("l2")), clips


def compare_accumulation(*, accumulate: int = 4) -> None:
    """Updates over micro-batches by our loop and by optax's: time, memory, gradients."""
    for name, task, batch in make_tasks(accumulate):
        state = task.init(jax.random.key(0))
        compiled = {}
        for by, average in {"ours": average_micro_batches, "optax": average_by_optax}.items():
            with (
                mock.patch.object(optimizer, "average_micro_batches", average),
                mock.patch.object(tokenizer_task, "average_micro_batches", average),
            ):
                lowered = jax.jit(task.step).lower(state, {}, batch, jax.random.key(1))
                compiled[by] = lowered.compile()

        def step(run: Any, state: Any = state, batch: Any = batch) -> Any:
            return run(state, {}, batch, jax.random.key(1))

        for by, run in 2 * list(compiled.items()):  # in turns: a shared machine has slow minutes
            times = time_calls(lambda call=run: step(call), repeats=3)
            memory = run.memory_analysis()
            made = round(memory.temp_size_in_bytes / MIB, 1) if memory else None
            row = {"what": f"update of the {name}", "by": by, **times, "temporary_mib": made}
            print_row("libraries", row)
        # The first moment of Adam: the gradient times a constant.
        found = [jax.tree.leaves(step(run)[0].opt_state[1].mu) for run in compiled.values()]
        ours, theirs = (np.concatenate([np.ravel(x) for x in leaves]) for leaves in found)
        report_difference(f"gradient of the {name}", ours, theirs)


# grain -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Noise:
    """Clips of the paper's size that cost next to nothing to make."""

    label_names = ("only",)
    fingerprint = "noise"

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"video": np.full((17, 128, 128, 3), index % 256, np.uint8), "label": np.int32(0)}


def compare_loader(*, batch: int = 16, batches: int = 40) -> None:
    """Seconds to the first batch, by where it starts; and stacking in shared memory."""
    from nbp.data import pipeline

    for workers in (0, 2):
        for position in (0, 10**9):
            began = time.perf_counter()
            few = pipeline.PipelineSpec(batch, 0, workers=workers)
            with pipeline.BatchStream(Noise(), (), few, start_batch=position) as stream:
                next(stream)
                seconds = time.perf_counter() - began
            row = {"what": "first batch", "workers": workers, "position": position}
            print_row("libraries", row | {"seconds": round(seconds, 2)})
    for stack in ("ours", "grain", "ours", "grain"):  # in turns: a shared machine has slow minutes
        compare_stacking(stack, batch=batch, batches=batches)


@dataclass(frozen=True)
class MakeExample:
    """An example that names itself. At module level: worker processes import it."""

    def __call__(self, index: int) -> dict[str, Any]:
        return {**Noise()[index], "index": np.int64(index)}


def compare_stacking(stack: str, *, batch: int, batches: int) -> None:
    """Batches a second of a worker, and whether their contents depend on how many there are.

    grain stacks into shared memory only where batching is what a worker does last, thus behind the
    division of the examples among workers.
    """
    import grain
    from absl import flags

    from nbp.data.pipeline import _stack_examples
    from nbp.data.watchdog import prepare_worker

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    examples = grain.MapDataset.range(10**6).map(MakeExample())
    if stack == "ours":
        stacked = examples.batch(batch, drop_remainder=True, batch_fn=_stack_examples)
        stream = stacked.to_iter_dataset(grain.ReadOptions(2, 4))
    else:
        stream = examples.to_iter_dataset(grain.ReadOptions(2, 4 * batch)).batch(batch)
    firsts = []
    for workers in (2, 1):
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1)
        iterator = iter(stream.mp_prefetch(options, worker_init_fn=prepare_worker))
        firsts.append(next(iterator)["index"].tolist())
        began = time.perf_counter()
        for _ in range(batches):
            np.array(next(iterator)["video"])  # as `Feeder` copies it
        seconds = time.perf_counter() - began
        iterator.close()
    row = {"what": "stacking", "by": stack, "batches_per_s": round(batches / seconds, 1)}
    print_row("libraries", row | {"same_with_two_workers": firsts[0] == firsts[1]})


# orbax -------------------------------------------------------------------------------------------

WAYS = ("ours", "default", "options", "v1")


def compare_checkpoints(*, mib: int = 512) -> None:
    """Saving numpy arrays: peak of memory and time, each way in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="nbp-libraries-") as folder:
        for way in WAYS:
            path = Path(folder) / way
            command = [sys.executable, "-m", "benchmarks.libraries", "--save", way, str(path)]
            done = subprocess.run(
                [*command, str(mib)], check=True, stdout=subprocess.PIPE, text=True
            )
            row = json.loads(done.stdout.splitlines()[-1])
            print_row("libraries", {"what": "checkpoint", "by": way, "mib": mib, **row})
            shutil.rmtree(path)


def save_once(way: str, folder: Path, mib: int) -> dict[str, Any]:
    """Saves arrays that do not compress; what that took beside them."""
    from nbp.training.checkpoint import set_up_orbax

    bits = np.random.default_rng(0).integers(0, 2**30, mib * MIB // 4, np.int32)
    tree = {str(i): part for i, part in enumerate(bits.reshape(8, 64, -1))}
    if way == "ours":
        set_up_orbax()
    save = {"v1": save_v1, "options": save_with_options}.get(way, save_plainly)
    save(folder / "warm", {"a": np.zeros(9, np.float32)})
    before, began = peak_memory_mib(), time.perf_counter()
    save(folder / "run", tree)
    seconds = time.perf_counter() - began
    size = sum(path.stat().st_size for path in (folder / "run").rglob("*") if path.is_file())
    return {
        "seconds": round(seconds, 2),
        "more_memory_mib": round(peak_memory_mib() - before),
        "files_mib": round(size / MIB),
    }


def save_plainly(folder: Path, tree: Any) -> None:
    """As orbax does it, or as our handler does, where that is set up."""
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager(folder) as manager:
        manager.save(0, args=ocp.args.StandardSave(tree))


def save_with_options(folder: Path, tree: Any) -> None:
    """By orbax's public options alone."""
    import orbax.checkpoint as ocp

    from nbp.training.checkpoint import PIECE

    handler = ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False)
    ocp.type_handlers.register_type_handler(np.ndarray, handler, override=True)
    pieces = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=PIECE), tree)
    with ocp.CheckpointManager(folder) as manager:
        manager.save(0, args=ocp.args.StandardSave(tree, save_args=pieces))


def save_v1(folder: Path, tree: Any) -> None:
    """By the interface that is to replace the one that we use, with files of today's kind."""
    import orbax.checkpoint.experimental.v1 as ocp

    from nbp.training.checkpoint import PIECE

    context = ocp.Context()
    context.memory.deepcopy_host_arrays = False
    context.memory.write_concurrent_bytes = 2 * PIECE
    context.array.saving.storage_options.chunk_byte_size = PIECE
    context.array.saving.use_zarr3 = False
    with ocp.training.Checkpointer(str(folder), context=context) as checkpointer:
        checkpointer.save(0, tree)


# safetensors -------------------------------------------------------------------------------------


def pack(header: str | bytes, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A file of this format."""
    text = header if isinstance(header, bytes) else header.encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def describe(*, dtype: str = "U8", shape: str = "[4]", offsets: str = "[0,4]") -> str:
    return f'{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}'


def list_files() -> Iterator[tuple[str, bytes]]:
    """Damaged and hostile files by name; the first two are good."""
    one = describe()
    yield "good", pack(f'{{"w":{one}}}', bytes(4))
    yield "good, of an empty tensor", pack(f'{{"w":{describe(shape="[0]", offsets="[0,0]")}}}')
    yield "empty", b""
    yield "header longer than the file", pack("{}", length=1 << 60)
    yield "header that is no JSON", pack("{" * 99)
    yield "header nested deeply", pack('{"w":' + "[" * 100_000 + "]" * 100_000 + "}")
    yield "header that is no UTF-8", pack(b'{"\xff\xfe":1}')
    yield "tensor twice", pack(f'{{"w":{one},"w":{one}}}', bytes(4))
    second = describe(offsets="[4,8]")
    yield "tensor twice, at two places", pack(f'{{"w":{one},"w":{second}}}', bytes(8))
    yield "two tensors in the same bytes", pack(f'{{"v":{one},"w":{one}}}', bytes(4))
    yield "hole between tensors", pack(f'{{"v":{one},"w":{describe(offsets="[8,12]")}}}', bytes(12))
    yield "bytes after the last tensor", pack(f'{{"w":{one}}}', bytes(99))
    yield "data cut off", pack(f'{{"w":{one}}}', bytes(3))
    yield "offsets that turn back", pack(f'{{"w":{describe(offsets="[4,0]")}}}', bytes(4))
    yield "negative offset", pack(f'{{"w":{describe(offsets="[-4,0]")}}}', bytes(4))
    yield "fractional offsets", pack(f'{{"w":{describe(offsets="[0.0,4.0]")}}}', bytes(4))
    yield "negative side", pack(f'{{"w":{describe(shape="[-4]")}}}', bytes(4))
    yield (
        "sides whose product overflows",
        pack(f'{{"w":{describe(shape="[4611686018427387904,4,4]")}}}', bytes(4)),
    )
    yield "sides that do not fill the bytes", pack(f'{{"w":{describe(shape="[3]")}}}', bytes(4))
    yield "unknown type", pack(f'{{"w":{describe(dtype="X9")}}}', bytes(4))
    name = "n" * 5000 + "\\n" * 5000
    yield (
        "name of 10,000 letters and lines",
        pack(f'{{"{name}":{describe(shape="[5]")}}}', bytes(4)),
    )


def compare_safetensors() -> None:
    """Damaged files, each read by both; then the time to open many tensors and to read one."""
    if importlib.util.find_spec("safetensors") is None:
        raise SystemExit("the package safetensors, which this section compares with, is not here")
    safetensors = importlib.import_module("safetensors")
    save_file = importlib.import_module("safetensors.numpy").save_file

    def ours(path: Path) -> list[Any]:
        return [tensor.read() for tensor in open_tensors(path).tensors.values()]

    def theirs(path: Path) -> list[Any]:
        with safetensors.safe_open(path, "numpy") as file:
            names = file.keys()
            return [file.get_tensor(name) for name in names]

    with tempfile.TemporaryDirectory(prefix="nbp-libraries-") as folder:
        path = Path(folder) / "x.safetensors"
        for name, content in list_files():
            path.write_bytes(content)
            found = {by: read(run, path) for by, run in (("ours", ours), ("safetensors", theirs))}
            print_row("libraries", {"what": "hostile file", "name": name, **found})
        save_file({f"layer.{i}.w": np.zeros(4, np.float32) for i in range(10_000)}, path)
        large = Path(folder) / "large.safetensors"
        save_file({"w": np.random.default_rng(0).random((256, MIB // 8))}, large)
        for by, run in (("ours", ours), ("safetensors", theirs)):
            row: dict[str, Any] = {"what": "safetensors", "by": by}
            row["seconds_of_10000_tensors"] = measure(lambda run=run: run(path))
            row["seconds_of_256_mib"] = measure(lambda run=run: run(large))
            print_row("libraries", row)


def read(run: Callable[[Path], Any], path: Path) -> str:
    """What came of it: one line."""
    try:
        return f"read: {len(run(path))} tensors"
    except CheckpointError as error:
        lines, text = str(error).count("\n") + 1, str(error).replace(str(path), "FILE")
        return f"{lines} line: {text[:90]}"
    except BaseException as error:  # panics of Rust are no Exceptions
        lines, text = str(error).count("\n") + 1, str(error).replace(str(path), "FILE")
        return f"{lines} line, {type(error).__name__}: {text[:90]}"


def measure(run: Callable[[], Any]) -> float:
    """The median second of five calls."""
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return round(statistics.median(seconds), 3)


SECTIONS: dict[str, Callable[[], None]] = {
    "schedules": compare_schedules,
    "accumulation": compare_accumulation,
    "loader": compare_loader,
    "checkpoint": compare_checkpoints,
    "safetensors": compare_safetensors,
}

if __name__ == "__main__":
    main()
