# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Whether a model can generate what a protocol asks for: found before anything is computed."""

from collections.abc import Sequence
from pathlib import Path

from nbp.config import Config
from nbp.errors import CheckpointError, ConfigError
from nbp.jobs.sample import SampleRequest, choose_given_frames
from nbp.protocols.protocol import GenerationRule, Protocol
from nbp.protocols.published import PROTOCOLS
from nbp.workdir import has_begun


def check_generation(config: Config, protocol: Protocol, workdir: Path) -> int:
    """The same as `check_model` for the model in a workdir.

    Raises CheckpointError where there is no generator, but the protocol scores nothing else.
    """
    given = check_model(config, protocol)
    if not (protocol.reconstruction or has_begun(workdir, "generator")):
        raise CheckpointError(
            f"protocol {protocol.name} scores generated clips, and {workdir} has no trained "
            f"generator: python -m nbp.train --config FILE --workdir {workdir}"
        )
    return given


def check_model(config: Config, protocol: Protocol) -> int:
    """The latent frames that a generated clip continues. config: of the model.

    Raises ConfigError, naming every problem, where the model cannot generate the protocol's clips.
    """
    rule = protocol.generation
    if rule is None:
        return 0
    given, problems = find_given(config, rule)
    problems += check_labels(config, protocol, rule)
    if problems:
        raise ConfigError(
            f"protocol {protocol.name}: {'; '.join(problems)}. {name_way_out(config, protocol)}"
        )
    return given


def find_given(config: Config, rule: GenerationRule) -> tuple[int, list[str]]:
    """Latent frames for the given frames of a rule, and why that cannot be."""
    plan, stride = config.plan, config.tokenizer_spec.stride[0]
    if rule.given_frames is None:
        return choose_given_frames(config, SampleRequest(1)), []
    given, rest = divmod(max(rule.given_frames - 1, 0), stride)
    given += rule.given_frames > 0
    if rest:
        return 0, [
            f"it gives {rule.given_frames} frames, which are no whole latent frames of this "
            f"tokenizer (1 and {stride} each)"
        ]
    try:
        plan.schedule(plan.tokens_of_frames(given))
    except ValueError as error:
        does = f"gives {rule.given_frames} frames" if given else "gives no frames to continue"
        return 0, [f"it {does}, and this model was not trained for that ({error})"]
    return given, []


def check_labels(config: Config, protocol: Protocol, rule: GenerationRule) -> list[str]:
    """Whether the model takes the labels that the protocol gives, or goes without."""
    prompt = config.generator.prompt
    if rule.labels in ("paired", "in turn") and prompt == "none":
        return ["it asks for clips of given classes, and this model was trained without labels"]
    if rule.labels == "none" and prompt != "none" and not config.generator.null_probability:
        return [
            f"it gives no labels, and this model always had one in training (prompt {prompt}, "
            "null_probability 0)"
        ]
    return []


def name_way_out(config: Config, protocol: Protocol) -> str:
    """Protocols of the same data that this model could be scored under."""
    fitting = []
    wanted = {rule.dataset for rule in protocol.clips}
    for other in PROTOCOLS.values():
        rule = other.generation
        if rule is None or other.reconstruction or other.name == protocol.name:
            continue
        sizes = {rule.size or clips.size for clips in other.clips}
        fits = config.data.size in sizes and wanted & {clips.dataset for clips in other.clips}
        if fits and not find_given(config, rule)[1] and not check_labels(config, other, rule):
            fitting.append(other.name)
    return f"Use {' or '.join(fitting)}" if fitting else "Use another workdir"


def check_classes(
    config: Config, protocol: Protocol, labels: Sequence[str], there: Sequence[str]
) -> None:
    """Refuses real clips of other classes than the model's where their labels are used."""
    if config.generator.prompt == "none" or protocol.generation is None:
        return
    if tuple(labels) != tuple(there):
        raise ConfigError(
            f"the held-out clips have {len(there)} classes and not the {len(labels)} that the "
            "model was trained with: use the same dataset"
        )
