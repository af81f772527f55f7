# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Scores of generated clips: drawn once for the protocols that share them, in chunks, compared with
the real set.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from nbp import build
from nbp.evaluation.chunk_store import SUM, Arrays, ChunkStore, fill_stores, hash_values
from nbp.evaluation.generation import (
    AGREEMENTS,
    ClipGenerator,
    ClipScorer,
    choose_labels_of,
    count_seconds,
    list_values,
)
from nbp.evaluation.real_clips import RealClips, open_clips
from nbp.evaluation.reference_set import (
    NONE_REPLACED,
    Reference,
    fill_reference,
    join_features,
    measure_reference,
)
from nbp.evaluation.result import ClassScores, CodeUse, Drawing, GeneratedResult, RepeatScore
from nbp.evaluation.setup import Plan, share_sampler
from nbp.metrics.estimates import Repeats
from nbp.metrics.feature_statistics import compute_statistics, name_scores
from nbp.metrics.frechet import FeatureMetric
from nbp.metrics.inception_score import score_classes
from nbp.metrics.reconstruction import CodeCounter
from nbp.metrics.score_table import name_fvd
from nbp.protocols.protocol import Protocol

Report = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Generated:
    """What an evaluation of generated clips found, for the report.

    arrays: rows of the first repeat. maker: draws its clips again. distances: feature distances of
    its clips. replaced: see `RealClips.replaced`, of the clips of all repeats, whichever process
    read them.
    """

    scores: dict[str, float]
    result: GeneratedResult
    code_use: CodeUse
    arrays: Arrays
    maker: ClipGenerator
    conditions: RealClips | None
    reference: Reference | None
    distances: np.ndarray | None
    replaced: dict[str, str]


class DrawingTime(NamedTuple):
    """Seconds that a set of clips took in this run, and parts of them."""

    seconds: float
    seconds_of: dict[str, float]


class MadeSet(NamedTuple):
    """One set of generated clips: its rows, how it was drawn, and its real set."""

    arrays: Arrays
    maker: ClipGenerator
    speed: DrawingTime
    reference: Reference | None


def can_generate(plan: Plan) -> bool:
    """Whether there is anything to measure of generated clips."""
    wanted = plan.features is not None or plan.c3d[0] is not None
    return bool(plan.generated) and (wanted or _tracks(plan))


def _tracks(plan: Plan) -> bool:
    return plan.protocol.label_agreement and plan.model_config.generator.prompt == "label"


def group_plans(plans: Sequence[Plan]) -> list[list[Plan]]:
    """Plans that score the same clips, or a beginning of them, together.

    A beginning ends with a chunk, else its last chunk would be another one.
    """
    groups: list[tuple[str, list[Plan]]] = []
    for plan in sorted(plans, key=lambda plan: -plan.generated):
        chunk = plan.setup.chunk
        name = hash_values(describe_clips(plan, 0))
        for known, members in groups:
            longest = members[0].generated
            if name == known and (plan.generated == longest or not plan.generated % chunk):
                members.append(plan)
                break
        else:
            groups.append((name, [plan]))
    return [members for _, members in groups]


# Keys of `sampling` that change nothing while a block takes one pass.
REFINING = ("refinements", "commit", "entropy_bound", "confidence_noise")


def describe_clips(plan: Plan, repeat: int) -> dict[str, Any]:
    """What decides which clips are generated: plans that agree in this can share them.

    Real clips of a repeat may be others than the first's: generated ones that follow them are too.
    """
    rule = plan.protocol.generation
    assert rule is not None
    settings = dataclasses.asdict(plan.model_config.sampling)
    aside = {"batch", "fps", "opener"} | (set() if settings["refinements"] > 1 else set(REFINING))
    if not settings["opener"]:  # where there is one, the origin has the hash of its checkpoint
        aside.add("opener_frames")
    drawing = {name: value for name, value in settings.items() if name not in aside}
    paired, model = follows_real(plan), plan.model_config.data
    return {
        "model": plan.model.origin,
        "sampling": drawing,
        "seed": plan.seed,
        "labels": rule.labels,
        "given": plan.given,
        "size": model.size if plan.request.num_frames is None else model.clip,
        "real": {**describe_real(plan, repeat), "count": plan.generated} if paired else None,
    }


def follows_real(plan: Plan) -> bool:
    """Whether clip i has the label or the first frames of real clip i."""
    rule = plan.protocol.generation
    return bool(plan.given) or (rule is not None and rule.labels == "paired")


def describe_real(plan: Plan, repeat: int) -> dict[str, Any]:
    clips = plan.clips.of_repeat(repeat)
    rule = dataclasses.asdict(clips.rule)
    read = {"rule": rule, "seed": clips.seed, "distinct": clips.distinct}
    return {"clips": clips.chosen.source.fingerprint, **read}


@dataclass(frozen=True)
class Round:
    """One repeat of plans that share their clips.

    active: places of the plans that have so many repeats; first: of the one that has most clips.
    maker: draws the clips, once it has their labels.
    """

    repeat: int
    active: list[int]
    first: int
    maker: ClipGenerator


def list_rounds(plans: Sequence[Plan], conditions: RealClips | None) -> Iterator[Round]:
    """The repeats of a group; conditions: those of the plan with most clips."""
    longest = find_longest(plans)
    sampler, batch = share_sampler(plans[longest])
    values = list_values(plan.protocol.generation for plan in plans)
    if values:
        sampler = dataclasses.replace(sampler, floats=True)
    for repeat in range(max(plan.protocol.repeats for plan in plans)):
        active = [i for i, plan in enumerate(plans) if repeat < plan.protocol.repeats]
        first = longest if longest in active else active[0]
        lead = plans[first]
        maker = ClipGenerator(
            sampler,
            lead.seed + repeat,
            batch,
            conditions=conditions and conditions.of_repeat(repeat),
            given=lead.given,
            pixels=lead.pixels,
            values=values,
        )
        yield Round(repeat, active, first, maker)


def find_longest(plans: Sequence[Plan]) -> int:
    return max(range(len(plans)), key=lambda i: plans[i].generated)


def score_group(plans: Sequence[Plan], report: Report) -> list[Generated]:
    """The scores of each plan; their clips are generated once."""
    sets: list[list[MadeSet]] = [[] for _ in plans]
    conditions = find_conditions(plans[find_longest(plans)])
    for each in list_rounds(plans, conditions):
        references = {
            i: find_reference(plans[i], sets[i], each.repeat, report) for i in each.active
        }
        labels = find_labels(plans[each.first], references[each.first], each.maker.conditions)
        maker = dataclasses.replace(each.maker, labels=labels)
        found = generate_set([plans[i] for i in each.active], maker, each.repeat, report)
        for i, (arrays, speed) in zip(each.active, found, strict=True):
            sets[i].append(MadeSet(arrays, maker, speed, references[i]))
    return [summarize(plan, repeats, conditions) for plan, repeats in zip(plans, sets, strict=True)]


def fill_share(plans: Sequence[Plan], share: tuple[int, int], report: Report) -> list[ChunkStore]:
    """Makes the files of `score_group` that are task i's of n; returns all that it will read."""
    stores: list[ChunkStore] = []
    for each in list_rounds(plans, find_conditions(plans[find_longest(plans)])):
        for plan in (plans[i] for i in each.active if plans[i].features is not None):
            clips = plan.clips.of_repeat(each.repeat)
            settings = describe_reference(plan)
            stores.append(fill_reference(clips, **settings, report=report, share=share)[0])
        lead, known = plans[each.first], None
        if lead.features is not None:
            known = functools.partial(read_labels, lead, each.repeat, share)
        labels = find_labels(lead, None, each.maker.conditions, known=known)
        maker = dataclasses.replace(each.maker, labels=labels)
        active = [plans[i] for i in each.active]
        stores += fill_generated(active, maker, each.repeat, report, share=share)[0]
    return stores


def read_labels(plan: Plan, repeat: int, share: tuple[int, int]) -> np.ndarray:
    """`Reference.labels`, of those real clips alone that the share's generated clips follow."""
    clips, chunk = plan.clips.of_repeat(repeat), plan.setup.chunk
    labels = np.zeros(len(clips.rows), np.int32)
    for start in range(share[0] * chunk, plan.generated, share[1] * chunk):
        rows = np.arange(start, min(start + chunk, plan.generated)) % len(labels)
        labels[rows] = clips.read(rows.tolist())["label"]
    return labels


def generate_set(
    plans: Sequence[Plan], maker: ClipGenerator, repeat: int, report: Report
) -> list[tuple[Arrays, DrawingTime]]:
    """The rows of all clips for each plan, from its chunks, and how long they took."""
    stores, speed = fill_generated(plans, maker, repeat, report)
    return [(store.load_all(), speed) for store in stores]


def fill_generated(
    plans: Sequence[Plan],
    maker: ClipGenerator,
    repeat: int,
    report: Report,
    *,
    share: tuple[int, int] | None = None,
) -> tuple[list[ChunkStore], DrawingTime]:
    """Makes what is missing in the stores of the plans. share: as in `fill_stores`."""
    measures = [make_measure(plan) for plan in plans]
    stores = [open_store(plan, maker.seed, repeat) for plan in plans]
    began = time.monotonic()

    def make(numbers: np.ndarray, lacking: Sequence[int]) -> list[Arrays]:
        made = maker(numbers)
        return [measures[i](numbers, made) for i in lacking]

    unit = f"generated clips{f' (repeat {repeat + 1})' if repeat else ''}"
    fill_stores(stores, make, unit=unit, report=report, share=share)
    return stores, DrawingTime(round(time.monotonic() - began, 1), count_seconds(measures))


def open_store(plan: Plan, seed: int, repeat: int) -> ChunkStore:
    """Where the chunks of a plan lie: another protocol, model or setting is another place."""
    settings = {
        "clips": {**describe_clips(plan, repeat), "count": plan.generated, "seed": seed},
        "protocol": dataclasses.asdict(plan.protocol),
        "features": None if plan.features is None else plan.features.origin,
        "frames": None if plan.frames is None else plan.frames.name,
        "lpips": plan.lpips[1] if plan.given else None,
    }
    if plan.c3d[1] is not None:  # not a key of chunks without
        settings["c3d"] = plan.c3d[1]
    kind = f"generated-{plan.protocol.name}"
    return ChunkStore.open(
        plan.request.cache_folder, kind, settings, count=plan.generated, size=plan.setup.chunk
    )


def make_measure(plan: Plan) -> ClipScorer:
    rule = plan.protocol.generation
    assert rule is not None
    return ClipScorer(
        rule,
        size=plan.config.data.size,
        codes=plan.codec.codes,
        pixels=plan.pixels,
        fidelity_frames=plan.protocol.fidelity_frames,
        extractor=None if plan.features is None else plan.features.extractor,
        frame_features=plan.frames,
        lpips=plan.lpips[0],
        classes=plan.c3d[0],
        tracker=build.make_tracker(plan.model_config) if _tracks(plan) else None,
        label_names=plan.model.labels,
    )


def find_reference(
    plan: Plan, earlier: Sequence[MadeSet], repeat: int, report: Report
) -> Reference | None:
    """The real set of a repeat: that of the first, unless the protocol takes others each time."""
    if plan.features is None:
        return None
    clips = plan.clips.of_repeat(repeat)
    if earlier and clips is plan.clips:
        return earlier[0].reference
    return measure_reference(clips, **describe_reference(plan), report=report)


def describe_reference(plan: Plan) -> dict[str, Any]:
    """How the real clips of a plan with features are measured, and where they lie."""
    assert plan.features is not None
    return {
        "extractor": plan.features.extractor,
        "frames": plan.frames,
        "origin": plan.features.origin,
        "cache": plan.request.cache_folder,
        "chunk": plan.setup.chunk,
    }


def find_conditions(plan: Plan) -> RealClips | None:
    """The real clips at the model's size, where their first frames are given."""
    if not plan.given:
        return None
    if plan.model_config == plan.config:
        return plan.clips
    return open_clips(plan.model_config, plan.protocol, plan.request.clips)


def find_labels(
    plan: Plan,
    reference: Reference | None,
    conditions: RealClips | None,
    *,
    known: Callable[[], np.ndarray] | None = None,
) -> np.ndarray | None:
    """The class id of each generated clip. known: gives `Reference.labels` in place of one."""
    rule = plan.protocol.generation
    assert rule is not None
    prompted = plan.model_config.generator.prompt != "none"
    classes = len(plan.model.labels) if prompted else 0
    if conditions is not None and rule.labels == "any":
        rule = dataclasses.replace(rule, labels="paired")

    def real() -> np.ndarray:
        if reference is not None:
            labels = reference.labels
        elif known is not None:
            labels = known()
        else:
            assert conditions is not None
            rows = range(min(plan.generated, len(conditions.rows)))
            labels = np.array([conditions.find_label(i) for i in rows], np.int32)
        return labels[np.arange(plan.generated) % len(labels)]

    return choose_labels_of(rule, plan.generated, classes=classes, real=real)


def summarize(plan: Plan, sets: Sequence[MadeSet], conditions: RealClips | None) -> Generated:
    """Scores from the rows of every repeat, and what else a report says of them."""
    first, maker, speed, reference = sets[0]
    scores: dict[str, float] = {}
    distances, repeats = None, []
    if reference is not None and plan.features is not None:
        scores, repeats = score_features(plan, sets)
        distances = FeatureMetric.of(reference.set.moments)(np.float64(first["features"]))
    if "agreement" in first:
        scores |= mean_agreement(plan, first["agreement"])
    if "classes" in first:
        rows = [made.arrays["classes"] for made in sets]
        scores |= score_probabilities(rows, plan.protocol, name=name_inception(plan))
    for name in (name for name in first if name.endswith("_after_given")):
        scores[name] = float(np.mean(first[name], dtype=np.float64))
    per_frame = first.get("psnr_per_frame")
    plan_of_blocks = plan.model_config.plan
    passes: float = plan_of_blocks.passes(plan_of_blocks.tokens_of_frames(plan.given))
    drawn_otherwise = plan.model_config.sampling.refinements > 1 or "opener_passes" in first
    if drawn_otherwise:  # each clip takes its own number
        passes = round(float(first["passes"].mean()), 2)
    frames = plan.generated * plan.model_config.data.frames
    curve = None
    if per_frame is not None:
        curve = np.round(per_frame.mean(axis=0, dtype=np.float64), 4).tolist()
    generation: Drawing = {
        "clips": plan.generated,
        "seed": maker.seed,
        "passes": passes,
        "seconds": speed.seconds,
        "seconds_of": speed.seconds_of,
        # The median: the first ones wait for the compiler.
        "seconds_per_clip": round(float(np.median(first["seconds"])), 6),
        "clips_per_second": _rate(plan.generated, float(first["seconds"].sum())),
        "frames_per_second": _rate(frames, float(first["seconds"].sum())),
    }
    if "opener_passes" in first:
        generation["opener_passes"] = round(float(first["opener_passes"].mean()), 2)
    result = GeneratedResult(
        generation=generation,
        reference=None if reference is None else reference.provenance,
        per_class=describe_classes(plan.model.labels, first, distances),
        repeats=repeats,
        generated_psnr_per_frame=curve,
    )
    code_use = describe_codes(first[SUM + "codes"])
    replaced: dict[str, str] = {}
    for made in sets:
        replaced |= {} if made.reference is None else made.reference.replaced
        replaced |= dict(made.arrays.get("replaced", NONE_REPLACED).tolist())
    return Generated(
        scores, result, code_use, first, maker, conditions, reference, distances, replaced
    )


def score_features(
    plan: Plan, sets: Sequence[MadeSet]
) -> tuple[dict[str, float], list[RepeatScore]]:
    """Means over the repeats, their deviation, and the distance and the real set of each."""
    named = name_set(plan)
    frames = plan.frames.name if plan.frames else ""
    renamed = []
    for arrays, _, _, reference in sets:
        assert reference is not None
        made = join_features(arrays, np.arange(plan.generated), chunk=plan.setup.chunk)
        found = compute_statistics(reference.set, made, plan.request.statistics)
        renamed.append(name_scores(found, named, frames=frames))
    scores = {name: float(np.mean([r[name] for r in renamed])) for name in renamed[0]}
    values = [scores[named] for scores in renamed]
    if len(values) > 1:
        deviation = Repeats.of(values, ddof=plan.protocol.repeats_ddof).deviation
        scores[f"{named}_std"] = deviation
    repeats: list[RepeatScore] = [
        {
            "seed": made.maker.seed,
            "score": named,
            "value": value,
            "real": made.reference and made.reference.provenance["fingerprint"],
        }
        for made, value in zip(sets, values, strict=True)
    ]
    return scores, repeats


def score_probabilities(
    sets: Sequence[np.ndarray], protocol: Protocol, *, name: str
) -> dict[str, float]:
    """Inception scores of [n v] for each repeat: their means, `_std` the deviation over several."""
    found = [score_classes(rows, rule=protocol.inception, name=name) for rows in sets]
    scores = {key: float(np.mean([one[key] for one in found])) for key in found[0]}
    if len(found) > 1:
        for key in [key for key in scores if not key.endswith("_std")]:
            values = [one[key] for one in found]
            deviation = Repeats.of(values, ddof=protocol.repeats_ddof).deviation
            scores[f"{key}_std"] = deviation
    return scores


def name_set(plan: Plan) -> str:
    """`fvd` for all that the protocol asks for, else what the name has to tell."""
    assert plan.features is not None
    assert plan.protocol.generation is not None
    count, features = plan.generated, plan.features.kind
    # A protocol that leaves the number to the workdir has no complete set: the name always tells.
    whole = plan.protocol.generation.clips == count and plan.clips.is_complete
    return name_fvd("fvd", count=count, complete=count + (not whole), features=features)


def name_inception(plan: Plan) -> str:
    """As `name_set`; no real clips are compared."""
    rule = plan.protocol.generation
    whole = rule is not None and rule.clips == plan.generated
    return "inception_score" if whole else f"inception_score_{plan.generated}"


def mean_agreement(plan: Plan, rows: np.ndarray) -> dict[str, float]:
    tracker = build.make_tracker(plan.model_config)
    chances = {
        "colour": 1 / len(tracker.palette),
        "shape": 1 / len(tracker.shapes),
        "motion": 1 / len(tracker.motions),
    }
    chances["label"] = float(np.prod(list(chances.values())))
    means = {f"{part}_agreement": float(rows[:, i].mean()) for i, part in enumerate(AGREEMENTS)}
    return means | {f"{part}_chance": chances[part] for part in AGREEMENTS}


def describe_classes(
    names: Sequence[str], arrays: Arrays, distances: np.ndarray | None
) -> list[ClassScores]:
    """Means over the generated clips of each class."""
    rows: list[ClassScores] = []
    for label in np.unique(arrays["label"][arrays["label"] >= 0]):
        here = arrays["label"] == label
        agreement = arrays["agreement"][here, 0].mean() if "agreement" in arrays else None
        rows.append(
            {
                "label": names[int(label)],
                "count": int(here.sum()),
                "feature_distance": _round(None if distances is None else distances[here].mean()),
                "label_agreement": _round(agreement),
            }
        )
    return rows


def describe_codes(counts: np.ndarray) -> CodeUse:
    """Use of the codes; `curve`: the share of tokens of the k/64 most frequent codes."""
    counter = CodeCounter(len(counts))
    counter.counts = counts.astype(np.int64)
    found = counter.result()
    falling = np.cumsum(np.sort(counter.counts)[::-1]) / max(counter.counts.sum(), 1)
    places = np.maximum(np.arange(1, 65) * len(counts) // 64, 1) - 1
    return {
        "codes": len(counts),
        "used": int((counter.counts > 0).sum()),
        "usage": found["code_usage"],
        "perplexity": found["code_perplexity"],
        "curve": np.round(falling[places], 5).tolist(),
    }


def list_problems(plan: Plan) -> list[str]:
    """How the generated and the real set differ from the protocol's, in words."""
    rule, protocol = plan.protocol.generation, plan.protocol
    assert rule is not None
    found = []
    if rule.clips and plan.generated < rule.clips:
        found.append(f"{plan.generated} of {rule.clips} generated clips")
    if not protocol.reconstruction and len(plan.clips.rows) < plan.clips.complete:
        found.append(f"{len(plan.clips.rows)} of {plan.clips.complete} real clips")
    return found


def _rate(count: int, seconds: float) -> float:
    return round(count / max(seconds, 1e-9), 3)


def _round(value: Any) -> float | None:
    return None if value is None else round(float(value), 4)


def find_gallery_clips(plan: Plan, conditions: RealClips | None) -> RealClips | None:
    """Real clips at the model's size, to be shown beside generated ones."""
    if conditions is not None:
        return conditions
    return plan.clips if plan.model_config == plan.config else None
