# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Converts published PyTorch weights into a workdir; needs no PyTorch.

python -m nbp.convert {generator,tokenizer,i3d,lpips,c3d} --source FILE --out DIR [flags]
"""

from pathlib import Path

from nbp.errors import run_command
from nbp.flags import COUNT, Parser, Real, Whole


def make_parser() -> Parser:
    kinds = ("generator", "tokenizer", "i3d", "lpips", "c3d")
    parser = Parser(
        "nbp.convert",
        __doc__,
        examples=(
            "tokenizer --source magvit2_k600.pt --out runs/k600",
            "generator --source k600_base_nbp16.ckpt --out runs/k600",
            "lpips --source vgg16-397923af.pth --linear vgg.pth --out weights/lpips",
        ),
    )
    add = parser.add_argument_group("weights").add_argument
    add("what", choices=kinds, help="what the file holds")
    add(
        "--source",
        required=True,
        type=Path,
        help=".ckpt, .pt, .pth, .safetensors, .npz, an index of shards, or a folder",
    )
    add("--out", required=True, type=Path, help="workdir to make or to complete")
    add = parser.add_argument_group("what a file does not say").add_argument
    add("--levels", help="FSQ levels; default 8,8,8,5,5,5")
    add("--frames", type=COUNT, help="frames of a clip; default 17")
    add("--size", type=Whole(1, 2**16), help="height and width of a clip; default 128")
    add("--layers", type=COUNT, help="confirms what the file says")
    add("--heads", type=COUNT, help="default: of the published model of this width")
    add("--width", type=COUNT, help="confirms what the file says")
    add("--block", help="row, frame, token or bt,bh,bw; default: the file's, or row")
    add("--opening", choices=("prefix", "bov", "hybrid"), help="confirms")
    add("--prompt", choices=("none", "label", "text"), help="confirms")
    add("--labels", type=Path, help="class names, one a line (label prompts)")
    add("--videos", help="folder of real clips for nbp.evaluate")
    add = parser.add_argument_group("generators, LPIPS and I3D").add_argument
    add("--first_stage", action="store_true", help="also convert the tokenizer in a generator file")
    add("--linear", type=Path, help="file of the linear heads (lpips)")
    add(
        "--epsilon",
        type=Real(0.0, 1.0, above=True),
        help="of I3D's normalisation, for a file that is not known; default: what its format says",
    )
    return parser


if __name__ == "__main__":
    run_command("nbp.convert", make_parser)  # help and mistakes end there, before the imports


import argparse
from collections.abc import Callable, Mapping
from typing import Any

from nbp import build
from nbp.config.schema import Config
from nbp.conversion import Conversion, describe_file, name_some, tell_choice, write_conversions
from nbp.errors import CheckpointError, ConfigError
from nbp.interop import feature_networks, infer_config, official
from nbp.interop.identity import PUBLIC, KnownFile
from nbp.interop.infer_config import ConvertRequest, Report
from nbp.interop.mapping import Tensor
from nbp.interop.reading import TensorFile, open_tensors
from nbp.interop.states import find_state
from nbp.models.c3d import C3dNetwork, C3dSpec
from nbp.models.i3d import PYTORCH_EPSILON, TFHUB_EPSILON, I3dNetwork, I3dSpec
from nbp.models.lpips import LpipsNetwork
from nbp.nn.conv3d import taps_conv
from nbp.workdir import read_config


def main(argv: list[str] | None = None) -> None:
    """The command. argv: its arguments; default: those of the process."""
    arguments = make_parser().parse_args(argv)

    given = {name: value for name, value in vars(arguments).items() if value is not None}
    what = given.pop("what")
    if not 0 < given.get("epsilon", 1) <= 1 or (what != "i3d" and "epsilon" in given):
        raise ConfigError("--epsilon: expected a number from 0 to 1, and only with i3d")
    if "levels" in given:
        given["levels"] = read_numbers("levels", given["levels"])
    if given.get("block", "row") not in ("row", "frame", "token"):
        given["block"] = read_numbers("block", given["block"])
    jobs: dict[str, Any] = {
        "generator": convert_generator,
        "tokenizer": convert_tokenizer,
        "i3d": convert_i3d,
        "lpips": convert_lpips,
        "c3d": convert_c3d,
    }
    options = {"epsilon": given.pop("epsilon")} if "epsilon" in given else {}
    request = ConvertRequest(**given)
    jobs[what](request, report=lambda text: print(f"[convert] {text}"), **options)


def read_numbers(flag: str, text: str) -> tuple[int, ...]:
    """`1,2,2` or `(1, 2, 2)` as a tuple; ConfigError for anything but whole numbers."""
    parts = text.strip("() ").removesuffix(",").split(",")
    try:
        return tuple(COUNT(part.strip(" ")) for part in parts)
    except argparse.ArgumentTypeError as error:
        raise ConfigError(f"--{flag} {text!r}: {error}; give numbers such as 1,2,2") from error


# Which file to fetch in place of a wrong one.
RELEASE = "get the .ckpt or .pt of the release"
I3D = "get i3d_pretrained_400.pt or i3d_torchscript.pt, see docs/official_parity.md"
LPIPS = "get torchvision's vgg16-397923af.pth, and vgg.pth of the lpips package for --linear"
C3D = "get a PyTorch file of C3D with UCF101's 101 classes"


def convert_generator(request: ConvertRequest, report: Report) -> None:
    """Converts a generator, and with `first_stage` the tokenizer in the same file."""
    file = open_tensors(request.source, get=RELEASE)
    origin = file.path.name
    state = official.split_state(file.tensors)
    if not state.generator:
        raise CheckpointError(f"{origin} holds no generator; it has {name_some(file.tensors)}")
    tell_choice(file, state.notes, report)
    tokenizer = infer_config.find_tokenizer(request, state, origin=origin)
    sizes = official.infer_generator(state.generator, origin=origin)
    infer_config.confirm_sizes(request, sizes, file.hints, origin=origin)
    prompt = infer_config.find_prompt(request, sizes, origin=origin)
    labels = infer_config.find_labels(request, prompt)
    generator = infer_config.describe_generator(
        request, sizes, file.hints, tokenizer=tokenizer, prompt=prompt, labels=labels, report=report
    )
    config = infer_config.make_config(request, tokenizer=tokenizer, generator=generator)
    network = build.make_generator_network(config, labels)
    rules, drops = official.make_generator_rules(sizes.layers, prompt=prompt != "none")
    tensors = {**state.generator, **state.other}
    conversions = []
    if request.first_stage:
        conversions.append(_plan_tokenizer(config, state.tokenizer))
    elif state.tokenizer:
        report("the tokenizer in the file is left out; --first_stage converts it too")
    conversions.append(Conversion("generator", tensors, rules, drops, network))
    write_conversions(file, request.out, conversions, config=config, labels=labels, report=report)
    if not (build.stage_directory(request.out, "tokenizer") / "checkpoints").is_dir():
        report(f"a tokenizer is missing: python -m nbp.convert tokenizer --out {request.out} ...")


def convert_tokenizer(request: ConvertRequest, report: Report) -> None:
    """Converts a tokenizer file, or the tokenizer inside a generator file."""
    file = open_tensors(request.source, get=RELEASE)
    origin = file.path.name
    state = official.split_state(file.tensors)
    if not state.tokenizer:
        raise CheckpointError(f"{origin} holds no tokenizer; it has {name_some(file.tensors)}")
    tell_choice(file, state.notes, report)
    spec = official.infer_tokenizer(state.tokenizer, levels=request.levels, origin=origin)
    generator = None
    if (request.out / "config.json").is_file():
        known = read_config(request.out)
        generator = known.generator
        infer_config.require_same(request, known, spec)
    config = infer_config.make_config(request, tokenizer=spec, generator=generator)
    rest = {} if state.generator else state.other
    conversion = _plan_tokenizer(config, {**state.tokenizer, **rest})
    write_conversions(file, request.out, [conversion], config=config, report=report)


def convert_i3d(
    request: ConvertRequest,
    report: Report,
    *,
    epsilon: float | None = None,
    known: Mapping[str, KnownFile] = PUBLIC,
) -> None:
    """Converts the FVD feature network into `out/i3d`.

    epsilon: of its normalisation, where the file is none of the `known` ones (by git blob id).
    """
    file = open_tensors(request.source, get=I3D)
    state = _find_network(file, feature_networks.is_i3d_name, "I3D", get=I3D, report=report)
    network = I3dNetwork(I3dSpec(), taps_conv)
    tensors = feature_networks.rename_ported(state)
    conversion = Conversion(
        "i3d", tensors, feature_networks.i3d_rules(), feature_networks.i3d_drops(), network
    )
    # The code around such a file, and with it the epsilon, follows from what the file looks like.
    ported = feature_networks.is_ported(state) or file.format == "torchscript"
    guess = TFHUB_EPSILON if ported else PYTORCH_EPSILON
    origin = describe_file(file, known, epsilon=epsilon or guess, report=report)
    write_conversions(file, request.out, [conversion], config=None, report=report, origin=origin)


def convert_lpips(
    request: ConvertRequest, report: Report, *, known: Mapping[str, KnownFile] = PUBLIC
) -> None:
    """Converts LPIPS into `out/lpips`: VGG-16 and, in the same file or in `linear`, its heads."""
    file = open_tensors(request.source, get=LPIPS)
    tensors = _find_network(
        file, feature_networks.is_network_name, "VGG-16", get=LPIPS, report=report
    )
    heads = find_state(file.tensors, feature_networks.is_head_name).tensors
    linear = None
    if request.linear is not None:
        linear = open_tensors(request.linear, get=LPIPS)
        twice = (
            heads.keys() & find_state(linear.tensors, feature_networks.is_head_name).tensors.keys()
        )
        if any(feature_networks.is_head_name(name) for name in twice):
            raise CheckpointError(f"{min(twice)} is in both {request.source} and {request.linear}")
        name = "linear heads of LPIPS"
        heads = _find_network(linear, feature_networks.is_head_name, name, get=LPIPS, report=report)
    elif not heads:
        raise CheckpointError(f"{request.source} has no linear heads; name their file: --linear")
    conversion = Conversion(
        "lpips",
        feature_networks.clean_lpips_names({**tensors, **heads}),
        feature_networks.lpips_rules(),
        feature_networks.lpips_drops(),
        LpipsNetwork(),
    )
    origin = describe_file(file, known, report=report)
    if linear is not None:
        origin["linear"] = describe_file(linear, known, report=report)
    write_conversions(file, request.out, [conversion], config=None, report=report, origin=origin)


def convert_c3d(
    request: ConvertRequest, report: Report, *, known: Mapping[str, KnownFile] = PUBLIC
) -> None:
    """Converts the classifier of the Inception score, with UCF101's classes, into `out/c3d`."""
    file = open_tensors(request.source, get=C3D)
    state = _find_network(file, feature_networks.is_c3d_name, "C3D", get=C3D, report=report)
    network = C3dNetwork(C3dSpec(), taps_conv)
    conversion = Conversion(
        "c3d", feature_networks.clean_c3d_names(state), feature_networks.c3d_rules(), [], network
    )
    origin = describe_file(file, known, report=report)
    write_conversions(file, request.out, [conversion], config=None, report=report, origin=origin)


def _find_network(
    file: TensorFile, wanted: Callable[[str], bool], what: str, *, get: str, report: Report
) -> dict[str, Tensor]:
    """The tensors of a network whose names are known; CheckpointError where the file has none."""
    state = find_state(file.tensors, wanted)
    if state.prefix is None:
        raise CheckpointError(
            f"{file.path} holds no {what}: it has {name_some(file.tensors)}; {get}"
        )
    tell_choice(file, state.notes, report)
    return state.tensors


def _plan_tokenizer(config: Config, tensors: Mapping[str, Tensor]) -> Conversion:
    rules, drops = official.make_tokenizer_rules(config.tokenizer)
    return Conversion("tokenizer", tensors, rules, drops, build.make_tokenizer_network(config))
