# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m nbp.prepare {ucf101,k600,folder} --videos DIR [--annotations DIR] --out DIR`."""

import os
from pathlib import Path

from nbp.errors import run_main
from nbp.flags import Parser

# As in `nbp.data.video.resize`, which is not imported for a usage error.
KERNELS = ("bicubic", "swscale-bilinear", "bilinear-antialiased", "bilinear", "cv2-bilinear")


def make_parser() -> Parser:
    parser = Parser(
        "nbp.prepare",
        main.__doc__,
        examples=(
            "ucf101 --videos UCF-101 --annotations ucfTrainTestlist --out data",
            "folder --videos my_videos --out data --fps 8 --min_frames 9",
        ),
    )
    parser.add_argument("kind", choices=("ucf101", "k600", "folder"), help="how lists are read")
    parser.add_argument("--videos", required=True, type=Path, help="folder, searched to its depth")
    parser.add_argument("--annotations", type=Path, help="folder with the lists; default: videos")
    parser.add_argument("--out", required=True, type=Path, help="folder of data sets")
    parser.add_argument("--split", type=int, default=1, help="ucf101: official split 1, 2 or 3")
    parser.add_argument("--validation", type=float, default=0.1, help="folder: share held out")
    parser.add_argument(
        "--split_folders",
        choices=("auto", "yes", "no"),
        default="auto",
        help="folder: whether train/, val/, test/ at the top are splits, not classes",
    )
    parser.add_argument("--name", default="folder", help="folder: name of the dataset")
    parser.add_argument("--size", default="128", help="stored short side in pixels, or native")
    parser.add_argument("--squash", action="store_true", help="store size x size, aspect lost")
    parser.add_argument("--resize", default="bicubic", choices=KERNELS, help="kernel that scales")
    parser.add_argument(
        "--long_side", default="round", choices=("round", "floor", "ceil"), help="how it gets whole"
    )
    parser.add_argument("--codec", default="h264", choices=("h264", "jpeg"), help="as stored")
    parser.add_argument("--quality", type=int, help="h264: 0..51, default 12; jpeg: 1..95, 90")
    parser.add_argument("--group", type=int, default=24, help="h264: frames from key to key")
    parser.add_argument("--min_frames", type=int, default=17, help="shorter files are left out")
    parser.add_argument("--fps", type=float, help="rate at which min_frames counts; default: all")
    cores = os.cpu_count() or 1
    parser.add_argument("--workers", type=int, default=cores, help="processes; default: all cores")
    parser.add_argument("--shard", default="0/1", metavar="I/N", help="share I of N machines")
    parser.add_argument("--shard_size", type=int, default=256, help="files per shard")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for one file")
    parser.add_argument("--strict", action="store_true", help="fail on anything in the report")
    parser.add_argument("--restart", action="store_true", help="discard what is there")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Re-encodes video files into a dataset for training, and reports the bad ones."""
    arguments = make_parser().parse_args(argv)

    from nbp.data.prepare.plan import PrepareRequest
    from nbp.data.prepare.reencode import Recipe
    from nbp.data.video.clip_codec import Coding
    from nbp.errors import ConfigError
    from nbp.jobs.prepare import prepare_dataset
    from nbp.progress import parse_shard

    native = arguments.size == "native"
    if not (native or (arguments.size.isdecimal() and len(arguments.size) < 10)):
        raise ConfigError(f"--size {arguments.size!r}: give pixels, or native")
    if native and arguments.squash:
        raise ConfigError("--squash needs a --size in pixels")
    if native and (arguments.resize, arguments.long_side) != ("bicubic", "round"):
        raise ConfigError("--resize and --long_side need a --size in pixels: native scales nothing")
    recipe = Recipe(
        Coding(arguments.codec, arguments.quality, arguments.group),
        size=128 if native else int(arguments.size),
        fit="native" if native else "squash" if arguments.squash else "short",
        min_frames=arguments.min_frames,
        fps=arguments.fps,
        resize=arguments.resize,
        long_side=arguments.long_side,
    )
    used = ("size", "squash", "codec", "quality", "group", "min_frames", "fps", "shard")
    used += ("resize", "long_side")
    rest = {name: value for name, value in vars(arguments).items() if name not in used}
    prepare_dataset(PrepareRequest(recipe=recipe, shard=parse_shard(arguments.shard), **rest))


if __name__ == "__main__":
    run_main(main)
