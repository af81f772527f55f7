# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Trains the stages of a configuration in order, then draws samples and scores the result."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nbp import __version__, build, datasets
from nbp.config import Config
from nbp.data.prepare.class_names import find_split
from nbp.data.sources import VideoFolder
from nbp.data.video.encoding import tile_clips, write_gif
from nbp.errors import DataError, DivergedError, NonFiniteError
from nbp.evaluation.result import write_report
from nbp.init_from import prepare_start
from nbp.jobs.evaluate import EvaluateRequest, evaluate_workdir, report_path
from nbp.jobs.periodic import NAME as PERIODIC
from nbp.jobs.sample import (
    choose_given_frames,
    make_drawing,
    sample_workdir,
    take_examples,
)
from nbp.metrics.feature_extractors import LpipsScorer
from nbp.metrics.reconstruction import CodeCounter, ReconstructionScores
from nbp.models.lpips import LEAST_SIZE
from nbp.parallel import distributed
from nbp.parallel.mesh import place_state, shard_batch
from nbp.places import claim_workdir, explain
from nbp.report.collect import is_stale, write_page
from nbp.report.plots import write_curves_png
from nbp.report.table import format_table
from nbp.runtime import keep_freed_memory
from nbp.sampling.request import SampleRequest
from nbp.sampling.sampler import Sampler
from nbp.sections import StageConfig
from nbp.shapes import PyTree
from nbp.tasks.generator import GeneratorTask
from nbp.tasks.tokenizer import TokenizerTask
from nbp.train_plan import TrainPlan, check_places, make_loop_spec, plan_training
from nbp.training.checkpoint import Checkpointer
from nbp.training.loop import run
from nbp.training.metrics import MetricsWriter
from nbp.training.state import TrainState
from nbp.training.task import Evaluator
from nbp.workdir import adopt_config, copy_resume, has_begun, save_labels

EVALUATED = 64  # held-out clips of an evaluation during training


def train_workdir(
    config: Config, workdir: Path, *, source: Path | None = None, step: int | None = None
) -> None:
    """Trains what is not trained yet. Rerunning the same command continues a stopped run.

    source, step: a new workdir goes on from another one; see `nbp.workdir`. A run that is
    refused has changed nothing: errors as in `plan_training`, ConfigError where another trains.
    """
    keep_freed_memory()
    check_places(config, workdir)
    with claim_workdir(workdir) as claim:
        plan = plan_training(config, workdir, source=source, step=step)
        distributed.wait_for_all("checked")
        claim.keep()
        begin(config, workdir, plan)
        for stage in config.stages:
            run_stage(config, workdir, stage, plan)
        if "generator" in config.stages:
            finish(config, workdir)
        if distributed.is_main() and is_stale(workdir):
            print(f"[report] to look at: {write_page(workdir)}", flush=True)


def begin(config: Config, workdir: Path, plan: TrainPlan) -> None:
    """The first writes: what is resumed, unusable files, the configuration, the class names."""
    try:
        if plan.resume is not None:
            copy_resume(plan.resume, workdir)
        if (bad := plan.bad_videos) is not None:
            bad.file = workdir / name_bad_videos()
            if len(bad) or config.data.kind == "folder":
                bad.add()
            if len(bad) and distributed.is_main():
                text = (
                    f"{len(bad)} unusable files skipped ({bad.summarize()}), listed in {bad.file}"
                )
                print(f"[data] {text}", flush=True)
        if distributed.is_main():
            source = next(iter(plan.clips.values())).source
            if isinstance(source, VideoFolder):
                for text in (
                    *source.describe_notes(plan.held_out.source),
                    *describe_split_folders(plan.labels),
                ):
                    print(f"[data] {text}", flush=True)
            adopt_config(config, workdir, report=lambda text: print(f"[train] {text}", flush=True))
            save_labels(workdir, plan.labels)
    except OSError as error:
        raise explain(error, workdir) from error
    distributed.wait_for_all("configuration")


def describe_split_folders(labels: Sequence[str]) -> list[str]:
    """A line where the classes of a folder of videos are named like splits."""
    if len(labels) < 2 or not all(find_split(label) for label in labels):
        return []
    return [
        f"the classes are {', '.join(labels)}, which look like splits: each folder at the top of "
        "data.root is a class. Set data.root to one of them, or use nbp.prepare folder"
    ]


def run_stage(config: Config, workdir: Path, stage: str, plan: TrainPlan) -> None:
    """Trains one stage with its evaluations."""
    clips = Validation(config, plan.held_out)
    if stage == "tokenizer":
        task: Any = plan.tokenizer_task or build.make_tokenizer_task(config)
        evaluators = tokenizer_evaluators(config, task, clips)
        origin: dict[str, Any] = {}
    else:
        trained = plan.trained or build.load_tokenizer(config, workdir)
        # On every device of the mesh, as the parameters that are measured together with it.
        mesh = build.make_mesh(config, "generator")
        tokenizer_params = place_state(trained.params, mesh)
        task = build.make_generator_task(config, plan.labels, tokenizer_params)
        if distributed.decide(has_begun(workdir, stage)):
            begun = build.load_trained(
                workdir,
                "generator",
                network=task.network,
                ema=False,
                groups=task.optimizer.groups,
            )
            build.check_tokenizer(begun, trained)
        sampler = make_preview_sampler(config, task, tokenizer_params)
        evaluators = generator_evaluators(config, task, clips, sampler=sampler)
        if plan.score is not None:
            evaluators.score = partial(plan.score, sampler)
        origin = {"tokenizer_step": trained.step, "tokenizer_sha256": trained.sha256}
    found = plan.checked.get(stage)
    train_stage(
        config,
        workdir,
        task=task,
        data=plan.clips[stage],
        evaluators=evaluators,
        origin=origin,
        verified=(found.step,) if found is not None and found.sealed else (),
    )


def train_stage(
    config: Config,
    workdir: Path,
    *,
    task: TokenizerTask | GeneratorTask,
    data: datasets.ClipData,
    evaluators: "StageEvaluators",
    origin: Mapping[str, Any],
    verified: tuple[int, ...] = (),
) -> TrainState:
    """Runs one stage in `workdir/<stage>` and draws its curves, also of one that goes wrong.

    verified: checkpoints whose files were just compared with their hashes.
    """
    stage: StageConfig = getattr(config.train, task.name)
    directory = build.stage_directory(workdir, task.name)
    mesh = build.make_mesh(config, task.name)
    rows = partial(distributed.find_rows, shard_batch(mesh))
    begin, started = prepare_start(config, workdir, task.name, network=task.network, origin=origin)
    task = dataclasses.replace(task, begin=begin)
    meta = {
        "config": dataclasses.asdict(config),
        "plan": config.plan.fingerprint,
        "versions": {"nbp": __version__, "jax": jax.__version__, "numpy": np.__version__},
        **origin,
        **started,
    }
    with (
        Checkpointer(
            directory / "checkpoints", keep=config.train.keep, verified=verified
        ) as checkpointer,
        drawn_curves(config, workdir, task.name),
        MetricsWriter(
            directory, name=task.name, save_gif=write_gif, silent=not distributed.is_main()
        ) as writer,
    ):
        return run(
            task,
            stream_factory=lambda batch: datasets.make_training_stream(
                config, stage, data=data, start_batch=batch, rows=rows
            ),
            checkpointer=checkpointer,
            spec=make_loop_spec(config, stage),
            mesh=mesh,
            writer=writer,
            meta=meta,
            seed=config.seed,
            evaluators=evaluators.make(writer),
        )


@contextlib.contextmanager
def drawn_curves(config: Config, workdir: Path, stage: str) -> Iterator[None]:
    """Draws the curves of a stage once it has ended, or was given up because it went wrong."""
    table = build.stage_directory(workdir, stage) / "metrics.csv"
    curves = workdir / "report" / f"{stage}_curves.png"

    def draw() -> None:
        if distributed.is_main() and table.is_file():
            curves.parent.mkdir(exist_ok=True)
            write_curves_png(table, curves, title=f"{config.name}: {stage}")

    try:
        yield
    except (NonFiniteError, DivergedError):
        with contextlib.suppress(DataError, OSError):  # what went wrong is what must be told
            draw()
        raise
    draw()


def finish(config: Config, workdir: Path) -> None:
    """Draws the configured samples and runs the configured protocol, unless that is done."""
    drawn = distributed.decide((workdir / "samples" / "samples.npz").is_file())
    if config.evaluation.samples and not drawn:
        sample_workdir(workdir, workdir / "samples", SampleRequest(config.evaluation.samples))
        if distributed.is_main():
            print(f"[samples] {config.evaluation.samples} clips in {workdir / 'samples'}")
    protocol = config.evaluation.protocol
    if protocol and not distributed.decide(report_path(workdir, protocol).is_file()):
        request = EvaluateRequest(workdir, protocol)
        say = distributed.is_main()
        report = evaluate_workdir(
            request, lambda text: print(f"[evaluate] {text}", flush=True) if say else None
        )
        if not say:
            return
        write_report(report_path(workdir, protocol), report)
        print(format_table(f"{config.name}, protocol {protocol}", report["scores"]))
        print(f"[report] {report_path(workdir, protocol)}")


def name_bad_videos() -> str:
    """The list of unusable clips in the workdir; each process of a job reads others."""
    process, _ = distributed.find_place()
    return f"bad_videos.{process}.csv" if process else "bad_videos.csv"


class Validation:
    """The first held-out clips, read once and kept."""

    def __init__(self, config: Config, data: datasets.ClipData) -> None:
        self._config, self._data = config, data
        self._batches: list[dict[str, np.ndarray]] = []

    def batches(self) -> list[dict[str, np.ndarray]]:
        if not self._batches:
            limit = min(EVALUATED, self._config.data.validation_clips)
            self._batches = list(
                datasets.iterate_clips(self._config, self._data, limit=limit, batch=limit)
            )
        return self._batches


class StageEvaluators:
    """The periodic measurements and previews of a stage, made once its writer exists.

    score: a measure of generated clips, at a cadence of its own.
    """

    def __init__(self, config: Config, measure: Any, preview: Any) -> None:
        self._config, self._measure, self._preview = config, measure, preview
        self.score: Callable[[PyTree], dict[str, float]] | None = None

    def make(self, writer: MetricsWriter) -> list[Evaluator]:
        cadence = self._config.train
        evaluators = []
        if cadence.evaluate_every:
            evaluators.append(Evaluator("validation", cadence.evaluate_every, self._measure))
        if cadence.preview_every:

            def show(state: TrainState) -> dict[str, float]:
                clips = self._preview(state)
                frames = tile_clips(clips, columns=cadence.preview_clips)
                step = int(state.step)
                writer.write_preview(step, "clips", frames, fps=self._config.sampling.fps)
                return {}

            evaluators.append(Evaluator("preview", cadence.preview_every, show))
        if (score := self.score) is not None:
            every = self._config.evaluation.every
            evaluators.append(Evaluator(PERIODIC, every, lambda state: score(averaged(state))))
        return evaluators


def tokenizer_evaluators(config: Config, task: TokenizerTask, clips: Validation) -> StageEvaluators:
    """Held-out PSNR, SSIM, GMS and code statistics, and LPIPS where its weights are configured.

    Previews show clips above their reconstructions.
    """
    network = task.network
    lpips = find_lpips(config, task)
    encode, decode = jax.jit(network.encode), jax.jit(network.decode)

    def reconstruct(state: TrainState, video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        params = averaged(state)
        tokens = encode(params, video)
        return np.asarray(decode(params, tokens)), np.asarray(tokens)

    def measure(state: TrainState) -> dict[str, float]:
        scores = ReconstructionScores()
        counter = CodeCounter(network.spec.quantizer.codes)
        distances: list[float] = []
        for batch in clips.batches():
            output, tokens = reconstruct(state, batch["video"])
            scores.add(batch["video"], output)
            counter.add(tokens)
            if lpips is not None:
                distances.extend(lpips(batch["video"], output).tolist())
        perceptual = {"lpips": float(np.mean(distances))} if distances else {}
        return {**scores.result(), **perceptual, **counter.result()}

    def preview(state: TrainState) -> np.ndarray:
        video = clips.batches()[0]["video"][: config.train.preview_clips]
        return np.concatenate([video, reconstruct(state, video)[0]])

    return StageEvaluators(config, measure, preview)


def find_lpips(config: Config, task: TokenizerTask) -> LpipsScorer | None:
    """LPIPS with the weights that the task trains with, else those that are configured, if any."""
    root = config.losses.lpips_root
    if config.data.size < LEAST_SIZE or not (root or "lpips" in task.frozen):
        return None
    params = task.frozen["lpips"] if "lpips" in task.frozen else build.load_lpips(root)
    return LpipsScorer(params, place=np.asarray)


def make_preview_sampler(config: Config, task: GeneratorTask, tokenizer_params: PyTree) -> Sampler:
    """One sampler for the whole stage: its compiled program is used at every preview."""
    filtering, guidance = make_drawing(config, SampleRequest(1))
    return Sampler(
        task.network,
        {},
        task.tokenizer,
        tokenizer_params,
        filtering=filtering,
        guidance=guidance,
        batch=config.train.preview_clips,
    )


def generator_evaluators(
    config: Config, task: GeneratorTask, clips: Validation, *, sampler: Sampler
) -> StageEvaluators:
    """Held-out bits per token and accuracy; previews show samples of the first held-out labels."""
    measure_batch = jax.jit(task.evaluate)
    given = choose_given_frames(config, SampleRequest(1))

    def measure(state: TrainState) -> dict[str, float]:
        counter = CodeCounter(config.tokenizer_spec.quantizer.codes)
        sums: dict[str, float] = {}
        total = 0
        for batch in clips.batches():
            count = len(batch["label"])
            rows = {name: values for name, values in batch.items() if name != "index"}
            metrics, tokens = measure_batch(averaged(state), task.frozen, rows)
            counter.add(np.asarray(tokens))
            total += count
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + float(value) * count
        means = {name: value / total for name, value in sums.items()}
        return {**means, "unigram_bits": counter.result()["unigram_bits"]}

    def preview(state: TrainState) -> np.ndarray:
        batch = clips.batches()[0]
        count = min(config.train.preview_clips, len(batch["label"]))
        prompted = config.generator.prompt != "none"
        return sampler.sample(
            count,
            seed=config.seed,
            labels=batch["label"][:count].tolist() if prompted else None,
            given_frames=given,
            params=averaged(state),
            **take_examples(batch, count),
        ).videos

    return StageEvaluators(config, measure, preview)


def averaged(state: TrainState) -> PyTree:
    """The averaged parameters where the state keeps them, else the current ones."""
    return state.ema if jax.tree.leaves(state.ema) else state.params
