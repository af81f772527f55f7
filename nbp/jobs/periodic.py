# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""A small Frechet distance during training: of a fixed number of clips, named by that number."""

import dataclasses
import functools
from pathlib import Path

import numpy as np

from nbp.config import Config
from nbp.errors import ConfigError
from nbp.jobs.evaluation_plan import CACHE, FEATURE_BATCH, choose_model_config
from nbp.jobs.fitting import check_classes, check_model
from nbp.jobs.generate import ClipMaker, choose_labels_of, finish_clips
from nbp.jobs.real_clips import RealClips, choose_rule, open_clips
from nbp.jobs.reconstruct import Devices
from nbp.jobs.reference import Reference, measure_reference
from nbp.metrics.frechet import Moments, frechet_distance
from nbp.metrics.score_table import name_fvd
from nbp.parallel.distributed import is_main
from nbp.protocols.protocol import GENERAL
from nbp.protocols.published import find_protocol
from nbp.sampling.sampler import Sampler
from nbp.shapes import PyTree
from nbp.weights import RANDOM, Features, load_features

NAME = "evaluation"  # before the score's name in the metrics


class PeriodicScore:
    """The distance of `evaluation.every_clips` generated clips from as many real ones.

    Under `evaluation.protocol`, or the general one of the data, with `evaluation.features`, or
    random ones. The clips have the same seed at every step, so that the curve shows the model and
    not the draw. Nothing of the training state is kept or changed.

    Raises ConfigError, when it is made, where model or data do not fit the protocol.
    """

    def __init__(self, config: Config, workdir: Path, labels: tuple[str, ...]) -> None:
        self._clips_wanted = config.evaluation.every_clips
        name = config.evaluation.protocol or GENERAL[config.data.kind][0]
        protocol = find_protocol(name, config.data.kind)
        if protocol.generation is None or protocol.features is None:
            raise ConfigError(
                f"evaluation.every: protocol {name} generates no clips to score. Use "
                f"{GENERAL[config.data.kind][0]}, or --config.evaluation.every=0"
            )
        self._protocol, self._reading = choose_rule(protocol, config, {})
        self._config = choose_model_config(config, self._reading)
        self._given = check_model(self._config, self._protocol)
        self._cache = workdir / "report" / CACHE
        self._labels = labels
        self._sampler: Sampler | None = None

    def __call__(self, sampler: Sampler, params: PyTree) -> dict[str, float]:
        """{name: distance} of a sampler with the generator's `params`, on any mesh.

        sampler: the same one every time, as it holds the compiled programs.
        """
        rule = self._protocol.generation
        assert rule is not None
        self._sampler = self._sampler or dataclasses.replace(sampler, batch=self._batch)
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
                report=lambda text: print(f"[evaluation] {text}", flush=True) if say else None,
            )

    @functools.cached_property
    def _maker(self) -> ClipMaker:
        rule, protocol = self._protocol.generation, self._protocol
        assert rule is not None
        stride = self._config.tokenizer_spec.stride[0]
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
        return ClipMaker(
            self._sampler,
            protocol.seed,
            self._batch,
            labels=labels,
            conditions=conditions,
            given=self._given,
            pixels=(self._given - 1) * stride + 1 if self._given else 0,
        )
