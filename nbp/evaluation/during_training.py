# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Scores during training: the evaluators of both stages, and a small Frechet distance."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nbp import build, build_data
from nbp.build_data import take_examples
from nbp.build_sampling import choose_given_frames, make_sampling
from nbp.config.grids import name_clips
from nbp.config.schema import Config
from nbp.data.video.encode import tile_clips
from nbp.errors import ConfigError
from nbp.evaluation.generation import ClipGenerator, choose_labels_of, finish_clips
from nbp.evaluation.real_clips import RealClips, choose_rule, open_clips
from nbp.evaluation.reference_set import Reference, measure_reference
from nbp.evaluation.score_reconstruction import Devices
from nbp.evaluation.setup import (
    CACHE,
    FEATURE_BATCH,
    STANDARD,
    EvaluationSetup,
    check_classes,
    check_model,
    choose_model_config,
)
from nbp.layout import frames_of_latents
from nbp.metrics.frechet import Moments, frechet_distance
from nbp.metrics.label_agreement import label_agreement
from nbp.metrics.lpips import LpipsScorer
from nbp.metrics.reconstruction import CodeCounter, ReconstructionScores
from nbp.metrics.score_table import name_fvd
from nbp.models.lpips import LEAST_SIZE, VGG16, LpipsNetwork
from nbp.parallel import distributed
from nbp.parallel.distributed import is_main
from nbp.parallel.sharding import constrain
from nbp.protocols import find_protocol
from nbp.protocols.protocol import GENERAL
from nbp.sampling.request import SampleRequest
from nbp.sampling.sampler import Sampler
from nbp.shapes import PyTree
from nbp.tasks.generator import GeneratorTask
from nbp.tasks.tokenizer import TokenizerTask
from nbp.training.metrics import MetricsWriter
from nbp.training.state import TrainState
from nbp.training.task import Evaluator
from nbp.weights import RANDOM, Features, load_features

NAME = "evaluation"  # before the score's name in the metrics


class PeriodicScore:
    """The distance of `evaluation.every_clips` generated clips from as many real ones.

    Under `evaluation.protocol`, or the general one of the data, with `evaluation.features`, or
    random ones. The clips have the same seed at every step, so that the curve shows the model and
    not the draw. Nothing of the training state is kept or changed.

    Raises ConfigError, when it is made, where model or data do not fit the protocol.
    """

    def __init__(
        self,
        config: Config,
        workdir: Path,
        labels: tuple[str, ...],
        *,
        setup: EvaluationSetup = STANDARD,
    ) -> None:
        self._clips_wanted, self._setup = config.evaluation.every_clips, setup
        name = config.evaluation.protocol or GENERAL[config.data.kind][0]
        protocol = find_protocol(name, config.data.kind, known=setup.protocols)
        if protocol.generation is None or protocol.features is None:
            raise ConfigError(
                f"evaluation.every: protocol {name} generates no clips to score. Use "
                f"{GENERAL[config.data.kind][0]}, or --config.evaluation.every=0"
            )
        self._protocol, self._reading = choose_rule(protocol, config, {})
        self._config = choose_model_config(config, self._reading)
        self._given = check_model(self._config, self._protocol, setup.protocols)
        self._cache = workdir / "report" / CACHE
        self._labels = labels
        self._sampler: Sampler | None = None

    def __call__(self, sampler: Sampler, params: PyTree) -> dict[str, float]:
        """{name: distance} of a sampler with the generator's `params`, on any mesh.

        sampler: the same one every time, as it holds the compiled programs.
        """
        rule = self._protocol.generation
        assert rule is not None
        self._sampler = self._sampler or sampler.in_batches(self._batch)
        maker = dataclasses.replace(self._maker, sampler=self._sampler, params=params)
        made = maker(np.arange(self.count))
        clips = finish_clips(
            made,
            rule,
            size=self._reading.data.size,
            pixels=maker.pixels,
        )
        with self._devices.context():
            rows = self._features.extractor(clips).astype(np.float32)
        distance = frechet_distance(self._reference.set.moments, Moments.of(rows))
        name = name_fvd(
            "fvd",
            count=self.count,
            complete=self.count + 1,
            features=self._features.kind,
        )
        return {name: distance}

    @property
    def _batch(self) -> int:
        return min(self._config.sampling.batch, self.count)

    @property
    def count(self) -> int:
        return min(self._clips_wanted, len(self._real.rows))

    # Made when they are first needed: compiling and reading wait until training runs.

    @functools.cached_property
    def _devices(self) -> Devices:
        return Devices()

    @functools.cached_property
    def _real(self) -> RealClips:
        return open_clips(self._reading, self._protocol, self._clips_wanted)

    @functools.cached_property
    def _features(self) -> Features:
        devices = self._devices
        choice = self._config.evaluation.features or RANDOM
        with devices.context():
            found = load_features(
                choice,
                self._protocol,
                frames=self._config.data.frames,
                place=devices.place,
                copy=devices.copy,
                make_network=self._setup.i3d,
            )
        assert found is not None
        batch = devices.round_up(min(FEATURE_BATCH, self.count))
        extractor = dataclasses.replace(found.extractor, batch=batch)
        return dataclasses.replace(found, extractor=extractor)

    @functools.cached_property
    def _reference(self) -> Reference:
        say = is_main()
        features = self._features
        with self._devices.context():
            return measure_reference(
                self._real,
                features.extractor,
                None,
                origin=features.origin,
                cache=self._cache,
                chunk=self._setup.chunk,
                report=lambda text: print(f"[evaluation] {text}", flush=True) if say else None,
            )

    @functools.cached_property
    def _maker(self) -> ClipGenerator:
        rule, protocol = self._protocol.generation, self._protocol
        assert rule is not None
        prompted = self._config.generator.prompt != "none"
        if self._given and rule.labels == "any":
            rule = dataclasses.replace(rule, labels="paired")
        if rule.labels == "paired":
            check_classes(self._config, protocol, self._labels, self._real.label_names)
        conditions = None
        if self._given:
            same = self._config == self._reading
            conditions = (
                self._real if same else open_clips(self._config, protocol, self._clips_wanted)
            )
        labels = choose_labels_of(
            rule,
            self.count,
            classes=len(self._labels) if prompted else 0,
            real=lambda: self._reference.labels,
        )
        assert self._sampler is not None
        return ClipGenerator(
            self._sampler,
            protocol.seed,
            self._batch,
            labels=labels,
            conditions=conditions,
            given=self._given,
            pixels=frames_of_latents(self._given, self._config.tokenizer.stride[0]),
        )


def name_bad_videos() -> str:
    """The list of unusable clips in the workdir; each process of a job reads others."""
    process, _ = distributed.find_place()
    return f"bad_videos.{process}.csv" if process else "bad_videos.csv"


class Validation:
    """The first held-out clips, read once and kept."""

    def __init__(self, config: Config, data: build_data.ClipData) -> None:
        self._config, self._data = config, data
        self._batches: list[dict[str, np.ndarray]] = []

    @property
    def label_names(self) -> tuple[str, ...]:
        return self._data.label_names

    @functools.cached_property
    def grids(self) -> dict[str, "Validation"]:
        """The first held-out clips of each of `data.grids`, by their names."""
        others = zip(self._config.each_grid[1:], self._data.grids, strict=True)
        return {name_clips(each.data.clip): Validation(each, data) for each, data in others}

    def batches(self) -> list[dict[str, np.ndarray]]:
        if not self._batches:
            limit = min(EVALUATED, self._config.data.validation_clips)
            self._batches = list(
                build_data.iterate_clips(self._config, self._data, limit=limit, batch=limit)
            )
        return self._batches


class StageEvaluators:
    """The periodic measurements and previews of a stage, made once its writer exists.

    score: a measure of generated clips, at a cadence of its own. early: what the first updates of a
    stage are watched by that starts from other weights.
    """

    def __init__(self, config: Config, measure: Any, preview: Any) -> None:
        self._config, self._measure, self._preview = config, measure, preview
        self.score: Callable[[PyTree], dict[str, float]] | None = None
        self.early: EarlyScore | None = None

    def make(self, writer: MetricsWriter, *, started: bool = False) -> list[Evaluator]:
        """started: whether the stage began with other weights than its seed gives."""
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
            evaluators.append(Evaluator(NAME, every, lambda state: score(averaged(state))))
        if started and self.early is not None and self._config.evaluation.early_clips:
            check = EarlyCheck(self._measure, self.early, note=writer.note)
            evaluators.append(Evaluator("early", EARLY_EVERY, check, until=EARLY_LAST))
        return evaluators


EARLY_EVERY, EARLY_LAST = 15, 90  # updates between looks at the first clips, and the last look
FALLEN = 0.01  # share by which bits per token have fallen where they fall
GOOD = 0.9  # a share of agreement that need not rise


@dataclass(frozen=True)
class EarlyScore:
    """A score of few clips. rises: whether more is better, of a share 0..1; else less is.

    score: of a state, and of what was measured of held-out clips on it.
    """

    name: str
    rises: bool
    score: Callable[[TrainState, Mapping[str, float]], float]


class EarlyCheck:
    """Warns in a line where the loss of the first updates falls and sampled clips do not improve.

    Means over the later half of the looks are held against those over the first half. Where
    sampling reads something else than training did, the loss falls and clips stay noise: it is told
    before a long training is spent on it.

    measure: of held-out clips on a state, with bits_per_token. note: prints a line.
    """

    def __init__(
        self,
        measure: Callable[[TrainState], Mapping[str, float]],
        score: EarlyScore,
        *,
        note: Callable[[str], None],
    ) -> None:
        self._measure, self._score, self._note = measure, score, note
        self._bits: list[float] = []
        self._scores: list[float] = []

    def __call__(self, state: TrainState) -> dict[str, float]:
        found, name = self._measure(state), self._score.name
        self._bits.append(found["bits_per_token"])
        self._scores.append(self._score.score(state, found))
        step = int(state.step)
        if step + EARLY_EVERY > EARLY_LAST and (warning := self.judge(step)):
            self._note(f"warning: {warning}")
        return {"bits_per_token": self._bits[-1], name: self._scores[-1]}

    def judge(self, step: int) -> str:
        """What is wrong by `step`; nothing where too few looks were taken to say so."""
        half = len(self._scores) // 2
        if not half:
            return ""
        bits = np.mean(self._bits[:half]), np.mean(self._bits[half:])
        scores = np.mean(self._scores[:half]), np.mean(self._scores[half:])
        gain = scores[1] - scores[0] if self._score.rises else scores[0] - scores[1]
        good = self._score.rises and scores[0] >= GOOD
        if bits[1] > bits[0] * (1 - FALLEN) or gain > 0 or good:
            return ""
        return (
            f"by step {step} bits per token fell from {bits[0]:.3g} to {bits[1]:.3g}, but sampled "
            f"clips do not improve ({self._score.name} {scores[0]:.3g}, then {scores[1]:.3g}): "
            "look at the previews, and whether tokenizer, block, given frames and classes are "
            "those that the weights were trained with"
        )


def choose_early_score(
    config: Config, clips: Validation, *, sampler: Sampler, score: PeriodicScore | None
) -> EarlyScore:
    """The best score of few clips that the data offer.

    The agreement of moving shapes with their labels, or the distance that is measured during
    training anyway; else bits per token behind the model's own draws.
    """
    if config.data.kind == "moving_shapes" and config.generator.prompt == "label":
        tracker = build.make_tracker(config)

        def measure(state: TrainState, found: Mapping[str, float]) -> float:
            videos, labels = draw_held_out(
                config, clips, sampler, state, count=config.evaluation.early_clips
            )
            names = [clips.label_names[label] for label in labels]
            parts = label_agreement(tracker, videos, names)
            return float(np.mean([parts[f"{n}_agreement"] for n in ("colour", "shape", "motion")]))

        return EarlyScore("agreement", True, measure)
    if score is not None:
        distance = functools.partial(score, sampler)
        return EarlyScore(
            "distance", False, lambda state, found: next(iter(distance(averaged(state)).values()))
        )
    return EarlyScore("bits_self_drawn", False, lambda state, found: found["bits_self_drawn"])


def draw_held_out(
    config: Config, clips: Validation, sampler: Sampler, state: TrainState, *, count: int
) -> tuple[np.ndarray, list[int]]:
    """Up to `count` clips of the first held-out labels and given frames, and these labels."""
    batch = clips.batches()[0]
    count = min(count, len(batch["label"]))
    labels = batch["label"][:count].tolist()
    examples: dict[str, Any] = take_examples(batch, count)
    drawn = sampler.sample(
        count,
        seed=config.seed,
        labels=labels if config.generator.prompt != "none" else None,
        given_frames=choose_given_frames(config, SampleRequest(1)),
        params=averaged(state),
        **examples,
    )
    return drawn.videos, labels


def tokenizer_evaluators(
    config: Config, task: TokenizerTask, clips: Validation, *, lpips: LpipsNetwork = VGG16
) -> StageEvaluators:
    """Held-out PSNR, SSIM, GMS and code statistics, and LPIPS where its weights are configured.

    lpips: the network of these. psnr_NAME_clips: of further grids. Previews show clips above their
    reconstructions.
    """
    network = task.network
    scorer = find_lpips(config, task, lpips)
    encode, decode = jax.jit(network.encode), jax.jit(network.decode)

    def reconstruct(state: TrainState, video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        params = averaged(state)
        tokens = encode(params, video)
        return np.asarray(decode(params, tokens)), np.asarray(tokens)

    def measure(state: TrainState) -> dict[str, float]:
        scores = ReconstructionScores()
        counter = CodeCounter(network.spec.make_quantizer().codes)
        distances: list[float] = []
        for batch in clips.batches():
            output, tokens = reconstruct(state, batch["video"])
            scores.add(batch["video"], output)
            counter.add(tokens)
            if scorer is not None:
                distances.extend(scorer(batch["video"], output).tolist())
        perceptual = {"lpips": float(np.mean(distances))} if distances else {}
        return {**scores.result(), **perceptual, **counter.result(), **measure_grids(state)}

    def measure_grids(state: TrainState) -> dict[str, float]:
        found = {}
        for name, held_out in clips.grids.items():
            scores = ReconstructionScores()
            for batch in held_out.batches():
                scores.add(batch["video"], reconstruct(state, batch["video"])[0])
            found[f"psnr_{name}_clips"] = scores.result()["psnr"]
        return found

    def preview(state: TrainState) -> np.ndarray:
        video = clips.batches()[0]["video"][: config.train.preview_clips]
        return np.concatenate([video, reconstruct(state, video)[0]])

    return StageEvaluators(config, measure, preview)


def find_lpips(config: Config, task: TokenizerTask, network: LpipsNetwork) -> LpipsScorer | None:
    """LPIPS with the weights that the task trains with, else those that are configured, if any."""
    root = config.losses.lpips_root
    if min(config.data.sides) < LEAST_SIZE or not (root or "lpips" in task.frozen):
        return None
    params = task.frozen["lpips"] if "lpips" in task.frozen else build.load_lpips(root, network)
    return LpipsScorer(params, network, place=np.asarray)


def make_preview_sampler(config: Config, task: GeneratorTask, tokenizer_params: PyTree) -> Sampler:
    """One sampler for the whole stage: its compiled program is used at every preview."""
    sampling = dataclasses.replace(
        make_sampling(config), weights="compute", cache="compute", batch=config.train.preview_clips
    )
    return Sampler(
        task.network,
        {},
        task.tokenizer,
        tokenizer_params,
        sampling=sampling,
    )


def generator_evaluators(
    config: Config, task: GeneratorTask, clips: Validation, *, sampler: Sampler
) -> StageEvaluators:
    """Held-out bits per token, of all and of each latent frame, and accuracy.

    bits_NAME_clips: bits per token in clips of further grids. Previews show samples of the first
    held-out labels.
    """

    def evaluate(*batch: PyTree) -> PyTree:
        """Whole on every device, so that each process of a job can read what it has."""
        return jax.tree.map(lambda x: constrain(x, (None,) * x.ndim), task.evaluate(*batch))

    measure_batch = jax.jit(evaluate)
    # The compiler leaves out all that serves other measures.
    measure_bits = jax.jit(lambda *batch: evaluate(*batch)[0]["bits_per_token"])

    def measure(state: TrainState) -> dict[str, float]:
        counter = CodeCounter(config.tokenizer.make_quantizer().codes)
        sums: dict[str, np.ndarray] = {}
        total = 0
        for batch in clips.batches():
            count = len(batch["label"])
            rows = {name: values for name, values in batch.items() if name != "index"}
            metrics, tokens = measure_batch(averaged(state), task.frozen, rows)
            counter.add(np.asarray(tokens))
            total += count
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + np.asarray(value, np.float64) * count
        means = {name: value / total for name, value in sums.items()}
        frames = means.pop("bits_grid").mean((1, 2))
        means |= {f"bits_frame_{t}": bits for t, bits in enumerate(frames) if np.isfinite(bits)}
        found = {name: float(value) for name, value in means.items()}
        for name, held_out in clips.grids.items():
            bits = []
            for batch in held_out.batches():
                rows = {name: values for name, values in batch.items() if name != "index"}
                more = float(measure_bits(averaged(state), task.frozen, rows))
                bits += [more] * len(batch["label"])
            found[f"bits_{name}_clips"] = float(np.mean(bits))
        return {**found, "unigram_bits": counter.result()["unigram_bits"]}

    def preview(state: TrainState) -> np.ndarray:
        return draw_held_out(config, clips, sampler, state, count=config.train.preview_clips)[0]

    return StageEvaluators(config, measure, preview)


def averaged(state: TrainState) -> PyTree:
    """The averaged parameters where the state keeps them, else the current ones."""
    return state.ema if jax.tree.leaves(state.ema) else state.params


EVALUATED = 64  # held-out clips of an evaluation during training
