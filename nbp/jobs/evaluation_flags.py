# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The flags of `nbp.evaluate`."""

from pathlib import Path

from nbp.flags import COUNT, SEED, Parser


def make_parser(description: str | None) -> Parser:
    parser = Parser(
        "nbp.evaluate",
        description,
        examples=(
            "--workdir runs/quickstart --protocol moving-shapes --features random-i3d",
            "--workdir runs/ucf101 --data data/ucf101 --protocol nbp-ucf\n"
            "--features runs/features_ts --statistics kvd,precision",
            "--compare runs/a/report/nbp-ucf.json runs/b/report/nbp-ucf.json",
        ),
        overrides="data",
    )
    parser.add_argument("--workdir", type=Path, help="trained or converted")
    parser.add_argument("--protocol", action="append", default=[], help="see docs/protocols.md")
    parser.add_argument("--out", type=Path, help="default: WORKDIR/report/PROTOCOL.json")
    parser.add_argument("--clips", type=COUNT, help="clips to generate, or else to score")
    parser.add_argument("--seed", type=SEED, help="of the generated clips; default: the protocol's")
    parser.add_argument("--data", type=Path, help="videos or prepared dataset to take clips from")
    parser.add_argument(
        "--features", default="", help="folder that nbp.convert i3d wrote, or random-i3d"
    )
    parser.add_argument("--lpips", default="", help="folder that nbp.convert lpips wrote")
    parser.add_argument(
        "--c3d", default="", help="folder that nbp.convert c3d wrote: the Inception score"
    )
    parser.add_argument(
        "--statistics", default="", help="more scores: kvd,precision,infinity,bootstrap,stream"
    )
    parser.add_argument("--cache", type=Path, help="of features; default: WORKDIR/report/cache")
    parser.add_argument(
        "--compare", nargs=2, type=Path, metavar="FILE.json", help="two reports of one protocol"
    )
    return parser
