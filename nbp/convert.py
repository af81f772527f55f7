# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m nbp.convert {generator,tokenizer,i3d,lpips,c3d} --source FILE --out DIR [flags]`."""

import argparse
from pathlib import Path
from typing import Any

from nbp.errors import ConfigError, run_main
from nbp.flags import COUNT, Parser, Real, Whole


def make_parser() -> Parser:
    kinds = ("generator", "tokenizer", "i3d", "lpips", "c3d")
    parser = Parser(
        "nbp.convert",
        main.__doc__,
        examples=(
            "tokenizer --source magvit2_k600.pt --out runs/k600",
            "generator --source k600_base_nbp16.ckpt --out runs/k600",
            "lpips --source vgg16-397923af.pth --linear vgg.pth --out weights/lpips",
        ),
    )
    parser.add_argument("what", choices=kinds, help="what the file holds")
    parser.add_argument(
        "--source",
        required=True,
        type=Path,
        help=".ckpt, .pt, .pth, .safetensors, .npz, an index of shards, or a folder",
    )
    parser.add_argument("--out", required=True, type=Path, help="workdir to make or to complete")
    parser.add_argument("--levels", help="FSQ levels; default 8,8,8,5,5,5")
    parser.add_argument("--frames", type=COUNT, help="frames of a clip; default 17")
    parser.add_argument(
        "--size", type=Whole(1, 2**16), help="height and width of a clip; default 128"
    )
    parser.add_argument("--layers", type=COUNT, help="confirms what the file says")
    parser.add_argument("--heads", type=COUNT, help="default: of the published model of this width")
    parser.add_argument("--width", type=COUNT, help="confirms what the file says")
    parser.add_argument(
        "--block", help="row, frame, token or bt,bh,bw; default: the file's, or row"
    )
    parser.add_argument("--opening", choices=("prefix", "bov", "hybrid"), help="confirms")
    parser.add_argument("--prompt", choices=("none", "label", "text"), help="confirms")
    parser.add_argument("--labels", type=Path, help="class names, one a line (label prompts)")
    parser.add_argument("--videos", help="folder of real clips for nbp.evaluate")
    parser.add_argument(
        "--first_stage", action="store_true", help="also convert the tokenizer in a generator file"
    )
    parser.add_argument("--linear", type=Path, help="file of the linear heads (lpips)")
    parser.add_argument(
        "--epsilon",
        type=Real(0.0, 1.0, above=True),
        help="of I3D's normalisation, for a file that is not known; default: what its format says",
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    """Converts published PyTorch weights into a workdir; needs no PyTorch."""
    arguments = make_parser().parse_args(argv)

    from nbp.jobs import convert

    given = {name: value for name, value in vars(arguments).items() if value is not None}
    what = given.pop("what")
    if not 0 < given.get("epsilon", 1) <= 1 or (what != "i3d" and "epsilon" in given):
        raise ConfigError("--epsilon: expected a number from 0 to 1, and only with i3d")
    if "levels" in given:
        given["levels"] = read_numbers("levels", given["levels"])
    if given.get("block", "row") not in ("row", "frame", "token"):
        given["block"] = read_numbers("block", given["block"])
    jobs: dict[str, Any] = {
        "generator": convert.convert_generator,
        "tokenizer": convert.convert_tokenizer,
        "i3d": convert.convert_i3d,
        "lpips": convert.convert_lpips,
        "c3d": convert.convert_c3d,
    }
    options = {"epsilon": given.pop("epsilon")} if "epsilon" in given else {}
    request = convert.ConvertRequest(**given)
    jobs[what](request, report=lambda text: print(f"[convert] {text}"), **options)


def read_numbers(flag: str, text: str) -> tuple[int, ...]:
    """`1,2,2` or `(1, 2, 2)` as a tuple; ConfigError for anything but whole numbers."""
    parts = text.strip("() ").removesuffix(",").split(",")
    try:
        return tuple(COUNT(part.strip(" ")) for part in parts)
    except argparse.ArgumentTypeError as error:
        raise ConfigError(f"--{flag} {text!r}: {error}; give numbers such as 1,2,2") from error


if __name__ == "__main__":
    run_main(main)
