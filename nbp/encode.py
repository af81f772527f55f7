# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m nbp.encode --workdir DIR --out DIR [--data DIR] [--crops N] [--shard I/N]`."""

from pathlib import Path

from nbp.errors import run_main
from nbp.flags import COUNT, SEED, Parser, Whole


def make_parser() -> Parser:
    parser = Parser(
        "nbp.encode",
        main.__doc__,
        examples=("--workdir runs/ucf --data data/ucf101 --out data/ucf_tokens --crops 8",),
        overrides="data",
    )
    parser.add_argument("--workdir", required=True, type=Path, help="holds the tokenizer")
    parser.add_argument("--out", required=True, type=Path, help="folder of the cache")
    parser.add_argument(
        "--data", type=Path, help="prepared dataset or folder of videos; default: the workdir's"
    )
    parser.add_argument("--crops", type=COUNT, default=1, help="random clips of a training video")
    parser.add_argument("--seed", type=SEED, help="of the random clips; default: the config's")
    parser.add_argument(
        "--shard", metavar="I/N", help="this host and their number; default: the job's processes"
    )
    parser.add_argument("--batch", type=COUNT, help="clips at a time; default: the config's")
    parser.add_argument(
        "--shard_size", type=COUNT, default=1024, help="clips in a file, the unit of restarts"
    )
    parser.add_argument("--threads", type=Whole(1, 1024), help="that decode; default: one per core")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Turns clips into a token cache with a workdir's tokenizer. Rerun it to go on."""
    arguments, rest = make_parser().parse_known_args(argv)

    from nbp.parallel import distributed

    distributed.initialize()

    from nbp.config import parse_overrides
    from nbp.jobs.encode import EncodeRequest, encode_workdir
    from nbp.progress import parse_shard

    shard = arguments.shard
    host, hosts = parse_shard(shard) if shard else distributed.find_place()
    request = EncodeRequest(
        workdir=arguments.workdir,
        out=arguments.out,
        data=arguments.data,
        overrides=parse_overrides(rest),
        crops=arguments.crops,
        seed=arguments.seed,
        host=host,
        hosts=hosts,
        batch=arguments.batch,
        shard_size=arguments.shard_size,
        threads=arguments.threads,
    )
    encode_workdir(request, report=lambda line: print(f"[encode] {line}", flush=True))
    distributed.wait_for_all("encoded")


if __name__ == "__main__":
    run_main(main)
