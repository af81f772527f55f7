# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Everything that can refuse a training run, looked at before anything of its workdir changes.

What is compared with the workdir: the configuration, the data, the class names, the shapes of all
parameters, the tokenizer that a generator was trained on, the position in the data. What is looked
at beside: devices, weights and features that are read, places that are written.
"""

import dataclasses
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from nbp import build, build_data
from nbp.build_sampling import choose_given_frames, make_sampling, read_opener
from nbp.config import to_json
from nbp.config.grids import find_batches, name_clips
from nbp.config.schema import Config, StageConfig, StageName
from nbp.data.sources import BadVideos
from nbp.errors import CheckpointError, ConfigError
from nbp.evaluation.during_training import PeriodicScore
from nbp.evaluation.setup import STANDARD, EvaluationSetup
from nbp.files import check_writable_folder
from nbp.init_from import check_start, look_for_start
from nbp.metrics.score_table import find_score
from nbp.parallel import distributed
from nbp.parallel.mesh import check_batch
from nbp.places import ELSEWHERE, refuse_inside
from nbp.protocols import find_protocol
from nbp.sampling.request import SampleRequest
from nbp.stages import STAGES, compare_config, list_stages
from nbp.training.checkpoint import Checked, Checkpointer
from nbp.training.early_stopping import BestSpec, ScoreHistory
from nbp.training.loop import LoopSpec, compare_data, find_batch
from nbp.training.rollback import JOURNAL, read_journal
from nbp.weights import RANDOM, describe_remedy
from nbp.workdir import (
    Resume,
    find_resume,
    has_begun,
    list_begun,
    read_labels,
    refuse_published,
)


@dataclass(frozen=True)
class TrainPlan:
    """What a run has been found to need; nothing is written yet.

    clips: of each stage that is trained. held_out: for evaluations. tasks: of the stages that
    follow no other, with their weights read. trained: the tokenizer, where tokens are read. score:
    the periodic one. checked: of each stage that has begun, its newest whole checkpoint. resume:
    what is to be copied before.
    """

    clips: Mapping[str, build_data.ClipData]
    held_out: build_data.ClipData
    tasks: Mapping[str, Any]
    trained: build.Trained | None
    score: PeriodicScore | None
    checked: Mapping[str, Checked]
    resume: Resume | None
    began: float

    @property
    def labels(self) -> tuple[str, ...]:
        return self.held_out.label_names

    @property
    def bad_videos(self) -> BadVideos | None:
        """Unusable files that were found; their list is not written yet."""
        return next(iter(self.clips.values())).bad_videos


def plan_training(
    config: Config,
    workdir: Path,
    *,
    source: Path | None = None,
    step: int | None = None,
    setup: EvaluationSetup = STANDARD,
) -> TrainPlan:
    """Looks at everything that training in `workdir` needs and changes nothing.

    Call `check_places` before. source, step: as in `nbp.workdir.find_resume`; the comparisons
    are made there then. setup: of evaluations during training.

    Raises ConfigError, DataError or CheckpointError for what would make the run fail or spoil what
    lies in the workdir.
    """
    began = time.monotonic()
    resume = None if source is None else find_resume(source, workdir, step=step)
    place = workdir if resume is None else resume.source
    refuse_published(workdir, "be trained on")
    changed = compare_config(config, place)  # before a long look at the data, which may fail too
    if source is None and changed.get("generator.draft") == (True, False):
        raise CheckpointError(
            f"{workdir} was trained with generator.draft=True, and would lose what it learned of "
            "drafts: add --config.generator.draft=True, or train without it in another --workdir "
            f"with --resume_from {workdir}"
        )
    stages = list_stages(config)
    for stage in stages if config.images.batch else ():
        if stage.images:
            check_batch(config.images.batch, build.make_mesh(config, stage.name), what="images")
    check_features(config)
    for stage in stages:
        make_loop_spec(config, getattr(config.train, stage.name))
    tasks = {s.name: s.make_task(config, (), {}) for s in stages if s.follows is None}
    if any(stage.generates for stage in stages):
        make_sampling(config)
        choose_given_frames(config, SampleRequest(1))
    begun = distributed.decide(list_begun(place))
    train, held_out = build_data.make_data(config)
    distributed.check_agreement(
        {
            "configuration": to_json(config),
            "data set": ", ".join(each.source.fingerprint for each in (train, *train.grids)),
        }
    )
    if any(stage.follows not in (None, *config.stages, *begun) for stage in stages):
        build.load_tokenizer(config, place)  # says what is missing
    check_devices(config)
    clips = {}
    for stage in stages:
        clips[stage.name] = build_data.add_images(config, train) if stage.images else train
    trained = None
    if config.data.kind == "tokens":
        trained = build.load_tokenizer(config, place)
        for cache in build_data.open_each_cache(config):
            build.check_cache(cache, trained)
    later = {s.name: s.make_task(config, held_out.label_names, {}) for s in stages if s.follows}
    checked: dict[str, Checked] = {}
    for name in (name for name in STAGES if name in clips):
        chosen = step if resume is not None and name in begun[-1:] else None
        found = check_stage(config, place, {**tasks, **later}[name], clips[name], step=chosen)
        if found is not None:
            checked[name] = found
    check_pair(config, place, begun, checked)
    check_labels(config, place, begun, held_out.label_names)
    labels = held_out.label_names
    if any(stage.generates for stage in stages):
        read_opener(config, labels, config.sampling)
    score = None
    if config.evaluation.every:
        score = PeriodicScore(config, workdir, labels, setup=setup)
    if resume is not None:
        whole = {stage: [found.step] for stage, found in checked.items()}
        resume = dataclasses.replace(resume, steps={**resume.steps, **whole})
    return TrainPlan(clips, held_out, tasks, trained, score, checked, resume, began)


def make_loop_spec(config: Config, stage: StageConfig, *, began: float = math.inf) -> LoopSpec:
    """How a stage is run; ConfigError for guards and a trace that do not make sense.

    began: when `train.max_hours` began, in seconds of `time.monotonic`.
    """
    hours = config.train.max_hours
    return LoopSpec(
        total_steps=stage.steps,
        global_batch=stage.batch,
        shapes=1 + len(config.data.grids),
        log_every=config.train.log_every,
        checkpoint_every=config.train.checkpoint_every,
        changed_data=config.train.changed_data,
        profile_steps=config.train.profile_steps,
        best=make_best_spec(stage),
        statistics_every=stage.statistics_every,
        guards=config.train.guards,
        deadline=began + 3600 * hours if hours else math.inf,
    )


def make_best_spec(stage: StageConfig) -> BestSpec | None:
    """Which score tells the best state of a stage; None where none is asked for."""
    if not stage.keep_best:
        return None
    better = find_score(stage.keep_best.rpartition("/")[2]).better
    mode = "max" if better == "higher" else "min"
    return BestSpec(stage.keep_best, mode, patience=stage.early_stop)


def check_places(config: Config, workdir: Path) -> None:
    """Nothing that the run writes may become its data, and it must be able to write."""
    for i, data in enumerate(each.data for each in config.each_set):
        if data.kind == "folder":
            key = f"data.mix[{i - 1}].root" if i else "data.root"
            refuse_inside(workdir, "--workdir", data.root, key)
    if config.images.batch and config.images.root:
        refuse_inside(workdir, "--workdir", config.images.root, "images.root")
    if not distributed.is_main():
        return
    folders = ["", "report", "samples", "tracking"]
    for stage in config.stages:
        folders += [stage, f"{stage}/checkpoints", f"{stage}/previews"]
    for folder in folders:
        check_writable_folder(workdir / folder, ELSEWHERE)


def check_devices(config: Config) -> None:
    """ConfigError where a batch does not divide among the devices."""
    for stage in config.stages:
        check_batches(config, stage, build.make_mesh(config, stage))


def check_batches(config: Config, stage: StageName, mesh: Mesh) -> None:
    """ConfigError where a batch of one of the grids does not divide among the devices."""
    main, *further = find_batches(config, getattr(config.train, stage))
    check_batch(main, mesh)
    for clip, batch in zip(config.data.grids, further, strict=True):
        try:
            check_batch(batch, mesh)
        except ConfigError as error:
            key = f"train.{stage}.grid_batches"
            raise ConfigError(f"{key}, of {name_clips(clip)}: {error}") from error


def check_features(config: Config) -> None:
    """ConfigError where evaluations at the end, or during training, would miss their features."""
    evaluation = config.evaluation
    choice = evaluation.features
    used = evaluation.protocol or evaluation.every
    if not (used and choice) or choice == RANDOM:
        return
    if not (build.stage_directory(Path(choice), "i3d") / "checkpoints").is_dir():
        detector: Any = "any"
        if evaluation.protocol:
            rule = find_protocol(evaluation.protocol, config.data.kind).features
            detector = "any" if rule is None else rule.detector
        raise ConfigError(
            f"evaluation.features: {choice} holds no converted I3D: {describe_remedy(detector)}"
        )


def check_stage(
    config: Config,
    place: Path,
    task: Any,
    clips: build_data.ClipData,
    *,
    step: int | None,
) -> Checked | None:
    """The checkpoint that a stage goes on from, if it has begun, which fits task and data.

    place: the workdir that holds it. step: which one, in place of the newest whole one.

    Raises CheckpointError for parameters of other shapes, other data, damaged checkpoints, and a
    start from elsewhere that is gone; ConfigError for a batch that does not fit the position.
    """
    name: StageName = task.name
    start = look_for_start(config, place, name)
    directory = build.stage_directory(place, name) / "checkpoints"
    if not distributed.decide(has_begun(place, name)):
        if distributed.decide(any(directory.glob("corrupt-*"))):
            raise CheckpointError(
                f"no checkpoint in {directory}. Damaged ones were renamed to corrupt-*. "
                "Remove the directory to start again."
            )
        if start is not None:
            check_start(start, name, task.network)
        return None
    template = jax.eval_shape(task.init, jax.random.key(0))
    options: dict[str, Any] = {"optional": task.network.optional, "report": lambda text: None}
    with Checkpointer(directory, read_only=True, **options) as checkpointer:
        found = checkpointer.check(template, step=step)
    stage = getattr(config.train, name)
    entries = read_journal(directory / JOURNAL)
    ahead = max((entry.next for entry in entries), default=0)
    position = {**found.data, "next": max(int(found.data.get("next", 0)), ahead)}
    find_batch(position, stage.batch)
    fingerprint = build_data.find_fingerprint(config, stage, clips)
    compare_data(found.data, fingerprint, config.train.changed_data)
    return found


def check_pair(
    config: Config, place: Path, begun: list[StageName], checked: Mapping[str, Checked]
) -> None:
    """CheckpointError where a stage that has begun would be left without what it follows."""
    for name, before in ((name, STAGES[name].follows) for name in begun):
        if before is None or before not in begun or name not in config.stages:
            continue
        folder = build.stage_directory(place, before) / "checkpoints"
        with Checkpointer(folder, read_only=True, report=lambda text: None) as reader:
            known = checked.get(before)
            step = reader.find_whole("model", "ema") if known is None else known.step
            sha256 = reader.checkpoint_hash(step)
        later = checked[name]
        build.check_tokenizer(
            build.Trained({}, later.step, "", later.meta), build.Trained({}, step, sha256, {})
        )
        settings: StageConfig = getattr(config.train, before)
        wanted = settings.steps
        if known and ScoreHistory(make_best_spec(settings), known.data.get("scores")).is_over:
            continue  # it ended early, and stays as it is
        if before in config.stages and wanted > step and f"{before}_sha256" in later.meta:
            raise CheckpointError(
                f"the {name} (step {later.step}) was trained on the {before} of step {step}, "
                f"and train.{before}.steps={wanted} would change it. Use --config.train.{before}."
                f"steps={step}, or train both in another workdir."
            )


def check_labels(
    config: Config, place: Path, begun: list[StageName], labels: tuple[str, ...]
) -> None:
    """CheckpointError where classes that a generator has learned would get other names."""
    if "generator" not in begun or config.generator.prompt == "none":
        return
    if not (place / "labels.json").is_file():
        return
    known = read_labels(place)
    if known == labels:
        return
    pairs = enumerate(zip(known, labels, strict=False))
    differ = [f"{i} was {a!r}, now {b!r}" for i, (a, b) in pairs if a != b]
    if len(known) != len(labels):
        differ.append(f"{len(known)} classes, now {len(labels)}")
    more = f" and {len(differ) - 3} more" if differ[3:] else ""
    raise CheckpointError(
        f"the generator of {place} was trained with other classes than the data have: "
        f"{'; '.join(differ[:3])}{more}. Use the old data, or train in another --workdir, which "
        f"may begin there: --config.train.generator.start_from={place}"
    )
