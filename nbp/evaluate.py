# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Scores a trained workdir under named protocols; prints tables, writes JSON.

Started again after it was stopped, it goes on where it stood.

    python -m nbp.evaluate --workdir DIR --protocol NAME [--protocol NAME] [--features DIR]
"""

from pathlib import Path

from nbp.errors import run_command
from nbp.flags import COUNT, SEED, Parser, add_checkpoint_flag
from nbp.sampling.request import SIDE


def make_parser() -> Parser:
    parser = Parser(
        "nbp.evaluate",
        __doc__,
        examples=(
            "--workdir runs/quickstart --protocol moving-shapes --features random-i3d",
            "--workdir runs/ucf101 --data data/ucf101 --protocol nbp-ucf\n"
            "--features runs/features_ts --statistics kvd,precision",
            "--workdir runs/frames --protocol moving-shapes\n"
            "--config.sampling.refinements=8 --out refined.json",
            "--workdir runs/quickstart --protocol moving-shapes --clips 4096 --shard 3/8",
            "--compare runs/a/report/nbp-ucf.json runs/b/report/nbp-ucf.json",
        ),
        overrides="data sampling",
    )
    add = parser.add_argument_group("what is scored").add_argument
    add("--workdir", type=Path, help="trained or converted")
    add("--protocol", action="append", default=[], help="see docs/protocols.md")
    add("--out", type=Path, help="default: WORKDIR/report/PROTOCOL.json")
    add("--clips", type=COUNT, help="clips to generate, or else to score")
    add("--seed", type=SEED, help="of the generated clips; default: the protocol's")
    add("--num_frames", type=COUNT, help="length of the clips of the model")
    add("--size", nargs="+", type=SIDE, metavar="PX", help="side of their frames")
    add_checkpoint_flag(add, of="the last trained stage")
    add("--data", type=Path, help="videos or prepared dataset to take clips from")
    add = parser.add_argument_group("networks that scores need").add_argument
    add("--features", default="", help="folder of nbp.convert i3d, or random-i3d")
    add("--lpips", default="", help="folder that nbp.convert lpips wrote")
    add("--c3d", default="", help="folder of nbp.convert c3d: the Inception score")
    add = parser.add_argument_group("more scores, and two reports").add_argument
    add("--statistics", default="", help="more scores: kvd,precision,infinity,bootstrap,stream")
    add("--cache", type=Path, help="of features; default: WORKDIR/report/cache")
    add("--shard", metavar="I/N", help="task I of N, each for itself; the last to end scores")
    add("--compare", nargs=2, type=Path, metavar="FILE.json", help="two reports of one protocol")
    return parser


if __name__ == "__main__":
    run_command("nbp.evaluate", make_parser)  # help and mistakes end there, before the imports


import argparse
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import jax
import numpy as np

from nbp import __version__
from nbp.config import parse_overrides
from nbp.errors import ConfigError
from nbp.evaluation.chunk_store import hold_whole
from nbp.evaluation.gallery import Gallery, update_listing, write_gallery
from nbp.evaluation.leakage import check_leaks, find_copies
from nbp.evaluation.real_pixels import list_losses
from nbp.evaluation.reference_set import Reference
from nbp.evaluation.result import (
    CodeUse,
    Conditions,
    EvaluationResult,
    Leaks,
    ProtocolRecord,
    TokenBits,
    UsedWeights,
    WorstClip,
    describe_speed,
    write_report,
)
from nbp.evaluation.score_generated import (
    Generated,
    can_generate,
    describe_codes,
    fill_share,
    find_gallery_clips,
    follows_real,
    group_plans,
    list_problems,
    score_group,
)
from nbp.evaluation.score_reconstruction import (
    Likelihood,
    Measures,
    Reconstructed,
    list_deviations,
    score_reconstruction,
    write_reconstruction,
)
from nbp.evaluation.setup import (
    STANDARD,
    EvaluateRequest,
    EvaluationSetup,
    Plan,
    plan_evaluation,
)
from nbp.files import check_writable_file, check_writable_folder
from nbp.metrics.feature_statistics import parse_statistics
from nbp.metrics.score_table import name_fvd
from nbp.parallel import distributed
from nbp.parallel.distributed import is_main
from nbp.progress import parse_shard
from nbp.protocols.protocol import Protocol
from nbp.report.collect import write_page
from nbp.report.table import format_table
from nbp.runtime import keep_compiled, keep_freed_memory
from nbp.sample_files import write_grid
from nbp.trees import check_parameters


def main(argv: list[str] | None = None, *, setup: EvaluationSetup = STANDARD) -> None:
    """The command. argv: its arguments; default: those of the process."""
    parser = make_parser()
    arguments, rest = parser.parse_known_args(argv)
    if arguments.compare:
        from nbp.report.table import compare_reports

        print(compare_reports(*arguments.compare))
        return
    if arguments.workdir is None or not arguments.protocol:
        parser.error("name what to score: --workdir DIR --protocol NAME (docs/protocols.md)")
    if arguments.out and len(arguments.protocol) > 1:
        raise ConfigError("--out is for one protocol; several are written to WORKDIR/report")
    if arguments.out:
        check_writable_file(arguments.out, "Name another with --out FILE.json.")

    share = parse_shard(arguments.shard) if arguments.shard else None

    distributed.initialize()

    if share is not None:
        distributed.refuse_several("--shard")
    requests = make_requests(arguments, parse_overrides(rest), setup=setup)
    say = distributed.is_main()
    results = evaluate_protocols(
        requests, lambda text: print(f"[evaluate] {text}", flush=True) if say else None, share
    )
    if say and results:
        write_and_tell(arguments.workdir, results, arguments.out)
        if not arguments.out:  # it shows what lies in WORKDIR/report
            print(f"to look at: {write_page(arguments.workdir)}")


def make_requests(
    arguments: argparse.Namespace,
    overrides: Mapping[str, str],
    *,
    setup: EvaluationSetup = STANDARD,
) -> list[EvaluateRequest]:
    """The requests of parsed flags, one for each protocol."""
    names = ("workdir", "clips", "seed", "data", "features", "lpips", "c3d", "cache", "checkpoint")
    shared = {name: getattr(arguments, name) for name in names}
    shared |= {"statistics": parse_statistics(arguments.statistics), "overrides": overrides}
    shared |= {"num_frames": arguments.num_frames, "size": arguments.size, "setup": setup}
    return [EvaluateRequest(protocol=name, **shared) for name in arguments.protocol]


Report = Callable[[str], None]


def evaluate_workdir(request: EvaluateRequest, report: Report) -> EvaluationResult:
    """Scores the workdir under one protocol; see `evaluate_protocols`."""
    (found,) = evaluate_protocols([request], report)
    return found


def evaluate_protocols(
    requests: Sequence[EvaluateRequest], report: Report, share: tuple[int, int] | None = None
) -> list[EvaluationResult]:
    """Scores one workdir; returns a result each: protocol, provenance, conditions, scores.

    share: (i, n), the task of an array that this is: files of clips whose number is i modulo n are
    made, and only who finds all of them there scores; for the others the list is empty.

    Also writes into `workdir/report`: pictures (see `write_reconstruction`), clips to look at (see
    `nbp.evaluation.gallery`), features (see `nbp.evaluation.chunk_store`). Everything that can be
    wrong with the requests is found before anything is computed. Protocols that generate the same
    clips share them. Raises ConfigError where a protocol is unknown or does not fit the workdir or
    its data, or features are missing; CheckpointError without a trained tokenizer.
    """
    keep_freed_memory()
    keep_compiled()
    for request in requests if is_main() else ():
        check_places(request)
    plans: list[Plan] = []
    for request in requests:
        plans.append(plan_evaluation(request, report, plans))
    for plan in plans:
        check_model(plan)
    leaks = [check_leaks(plan.clips, report) for plan in plans]
    generating = [plan for plan in plans if can_generate(plan)]
    if share is None:
        return score_plans(plans, generating, leaks, report)
    if not generating:
        raise ConfigError("--shard: here no clips are generated, which it divides. Leave it out")
    stores = [s for group in group_plans(generating) for s in fill_share(group, share, report)]
    with hold_whole(stores) as found:
        if found:
            return score_plans(plans, generating, leaks, report)
    report(f"share {share[0]} of {share[1]} is done; the last task to end scores the clips of all")
    return []


def score_plans(
    plans: Sequence[Plan], generating: Sequence[Plan], leaks: Sequence[Leaks], report: Report
) -> list[EvaluationResult]:
    """The results of all plans, of which some generate clips."""
    began = time.time()
    generated: dict[int, Generated] = {}
    for group in group_plans(generating):
        for plan, found in zip(group, score_group(group, report), strict=True):
            generated[plans.index(plan)] = found
    shared = (time.time() - began) / max(1, len(generating))
    results = []
    for i, plan in enumerate(plans):
        made = generated.get(i)
        result = finish(plan, made, leaks[i], report)
        seconds = round(result.conditions.seconds + shared * (made is not None), 1)
        conditions = dataclasses.replace(result.conditions, seconds=seconds)
        results.append(dataclasses.replace(result, conditions=conditions))
    return results


def check_places(request: EvaluateRequest) -> None:
    """ConfigError where pictures or features could not be written after the work."""
    remedy = f"{request.workdir}/report holds pictures and clips: evaluate a copy of the workdir."
    check_writable_folder(request.report_folder, remedy)
    check_writable_folder(request.cache_folder, "Name another with --cache DIR.")


def check_model(plan: Plan) -> None:
    """NonFiniteError that names weights with which no score can be computed."""
    sampler = plan.model.sampler
    check_parameters({"tokenizer": plan.model.params} | ({} if sampler is None else sampler.params))


def finish(
    plan: Plan, generated: Generated | None, leaks: Leaks, report: Report
) -> EvaluationResult:
    """Scores the reconstructions where the protocol does, and puts the result together."""
    started = time.time()
    protocol, clips, features = plan.protocol, plan.clips, plan.features
    count = len(clips.rows)
    scores: dict[str, float] = {}
    psnr_per_frame: list[float] = []
    worst: list[WorstClip] = []
    token_bits: TokenBits | None = None
    code_usage: dict[str, CodeUse] = {}
    problems: list[str] = []
    if protocol.reconstruction:
        found, scores, token_bits = reconstruct(plan, generated and generated.reference, report)
        psnr_per_frame = [round(value, 4) for value in found.psnr_per_frame]
        code_usage["real"] = describe_codes(found.codes)
        worst = write_pictures(plan, found)
    if generated is not None:
        problems += list_problems(plan)
        scores = {**generated.scores, **scores} if features else {**scores, **generated.scores}
        code_usage["generated"] = generated.code_use
        if generated.reference is not None:
            find_copies(plan.clips, generated.reference, leaks, report)
        show(plan, generated)
    other = "" if features is None else features.deviation
    complete = clips.complete if protocol.reconstruction else count
    if clips.missing and clips.rule.clips:
        problems.append(f"{clips.missing} of {clips.rule.videos} videos are missing")
    replaced = {**({} if generated is None else generated.replaced), **clips.replaced}
    problems += list_deviations(count, complete, list(replaced.values()), features=other)
    provenance = clips.provenance()
    conditions = Conditions(
        workdir=plan.request.workdir.name,
        config=plan.config.name,
        held_out_clips=count,
        data=provenance,
        weights=UsedWeights(features and features.origin, plan.lpips[1], plan.c3d[1]),
        seed=plan.seed,
        sampling=dataclasses.asdict(plan.config.sampling),
        generated={} if generated is None else describe_speed(generated.result.generation),
        checkpoints=plan.model.origin,
        averaged=plan.config.train.tokenizer.ema > 0,
        averaged_generator=plan.config.train.generator.ema > 0,
        versions={"nbp": __version__, "jax": jax.__version__, "numpy": np.__version__},
        device=f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        processes=jax.process_count(),
        seconds=round(time.time() - started, 1),
    )
    return EvaluationResult(
        protocol=cast(ProtocolRecord, dataclasses.asdict(protocol)),
        complete=not problems,
        deviations=problems + list_losses(protocol, provenance["prepared"]),
        conditions=conditions,
        scores=scores,
        leaks=leaks,
        psnr_per_frame=psnr_per_frame,
        worst=worst,
        code_usage=code_usage,
        token_bits=token_bits,
        generated_set=generated and generated.result,
    )


def reconstruct(
    plan: Plan, reference: Reference | None, report: Report
) -> tuple[Reconstructed, dict[str, float], TokenBits | None]:
    """One pass of the tokenizer over the real clips, with the generator's likelihood of them."""
    sampler, clips, features = plan.model.sampler, plan.clips, plan.features
    likelihood = None
    if plan.protocol.likelihood and sampler is not None:
        likelihood = Likelihood(plan.model_config, sampler, plan.model.labels)
    measures = Measures(
        frames=plan.protocol.fidelity_frames,
        extractor=None if features is None else features.extractor,
        real=None if reference is None else reference.set.features,
        lpips=plan.lpips[0],
        also=likelihood,
        shown=plan.setup.shown,
    )
    found = score_reconstruction(clips, plan.codec, measures, report)
    scores = dict(found.scores)
    if found.rfvd is not None and features is not None:
        name = name_fvd(
            "rfvd",
            count=len(clips.rows),
            complete=len(clips.rows) + (not clips.is_complete),
            features=features.kind,
        )
        scores = {name: found.rfvd, **scores}
    if likelihood is None:
        return found, scores, None
    return found, scores | likelihood.result(), likelihood.token_bits()


def write_pictures(plan: Plan, found: Reconstructed) -> list[WorstClip]:
    return write_reconstruction(
        found,
        plan.clips,
        plan.request.report_folder,
        name=plan.protocol.name,
        fps=plan.config.sampling.fps,
        stride=plan.config.tokenizer.stride[0],
    )


def show(plan: Plan, generated: Generated) -> None:
    """Writes what a person looks at: a picture of the first clips, and the gallery."""
    folder = plan.request.report_folder
    fps = plan.config.sampling.fps
    write_grid(folder / "generated.gif", generated.arrays["sum_shown"], fps=fps)
    if not is_main():
        return
    gallery = Gallery(
        protocol=plan.protocol.name,
        maker=generated.maker,
        codec=plan.codec,
        real=find_gallery_clips(plan, generated.conditions),
        label_names=plan.model.labels,
        paired=follows_real(plan),
        fps=fps,
        pixels=plan.pixels,
        seconds=generated.arrays["seconds"],
        distances=generated.distances,
    )
    rows = write_gallery(gallery, folder)
    update_listing(folder / "clips.json", plan.protocol.name, rows)


def report_path(workdir: Path, protocol: Protocol | str) -> Path:
    name = protocol if isinstance(protocol, str) else protocol.name
    return workdir / "report" / f"{name}.json"


def write_and_tell(workdir: Path, results: Sequence[EvaluationResult], out: Path | None) -> None:
    """Writes the reports, `out` in place of the default, and prints their tables."""
    for found in results:
        protocol = found.protocol
        place = out or report_path(workdir, protocol["name"])
        write_report(place, found)
        title = f"{found.conditions.config}, protocol {protocol['name']} v{protocol['version']}"
        print(format_table(title, found.scores))
        for deviation in found.deviations:
            print(f"not the whole protocol: {deviation}")
        print(f"written to {place}")
