# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Numbers of flags: what is none, what is out of range, and how it is told."""

import argparse
from pathlib import Path

import pytest

from nbp.errors import ConfigError
from nbp.flags import COUNT, SEED, SHARE, Parser, Real, Whole

NOT_NUMBERS = ("", " ", "nan", "inf", "-inf", "1_000", "１", "٣", "0x10", "1 ", "\n1", "+-1", "one")


@pytest.mark.parametrize("text", [*NOT_NUMBERS, "1.0", "1e3", "9" * 5000])
@pytest.mark.parametrize("kind", [COUNT, SEED, Whole(-5, 5)])
def test_whole_numbers_are_ascii_digits(kind: Whole, text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"is not {kind}"):
        kind(text)


@pytest.mark.parametrize("text", [*NOT_NUMBERS, ".", "1e", "e5", "Infinity", "NaN", "1e999"])
@pytest.mark.parametrize("kind", [SHARE, Real(0.0, 1e300), Real(-1.0, 2.0, above=True)])
def test_real_numbers_are_finite_ascii_decimals(kind: Real, text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not a number"):
        kind(text)


@pytest.mark.parametrize(
    "kind, inside, outside",
    [
        (COUNT, ("1", "+7", "2147483647"), ("0", "-1", "2147483648", str(2**63))),
        (SEED, ("0", "4294967295"), ("-1", "4294967296", str(2**40), str(2**64))),
        (Whole(-5, 5), ("-5", "-0", "5"), ("-6", "6")),
        (SHARE, ("0", "1", "1.", ".5", "1e-42"), ("-1e-9", "1.0000001", "1e300", "-1")),
        (Real(0.0, 1.0, above=True), ("0.5", "1"), ("0", "0.0", "1e-999")),
        (Real(0.0, 1.0, below=True), ("0", "0.999"), ("1", "1e0")),
    ],
)
def test_ends_of_ranges(
    kind: Whole | Real, inside: tuple[str, ...], outside: tuple[str, ...]
) -> None:
    assert [kind(text) for text in inside] == [type(kind(text))(text) for text in inside]
    for text in outside:
        with pytest.raises(argparse.ArgumentTypeError, match="is not a"):
            kind(text)


def test_a_parser_tells_a_wrong_value_in_one_line() -> None:
    parser = Parser("nbp.sample")
    parser.add_argument("--seed", type=SEED)
    parser.add_argument("--label")
    parser.add_argument("--kind", choices=("a", "b"))
    with pytest.raises(ConfigError, match="^--seed: 4294967296 is not a whole number from 0 to 42"):
        parser.parse_args(["--seed", "4294967296"])
    with pytest.raises(ConfigError, match="^--kind: invalid choice: 'c'"):
        parser.parse_args(["--kind", "c"])
    with pytest.raises(ConfigError, match="written with =, as in --label=-x"):
        parser.parse_args(["--label", "-x"])
    with pytest.raises(ConfigError, match=r"^the argument '--label=x\\x00' holds a NUL character"):
        parser.parse_args(["--label=x\0"])
    assert parser.parse_args(["--label=-x", "--seed", "4294967295"]).label == "-x"


def test_the_home_folder_is_found_behind_an_equals_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    parser = Parser("nbp.sample")
    parser.add_argument("--workdir", type=Path)
    parser.add_argument("--label")
    found = parser.parse_args(["--workdir=~/runs/a~b", "--label=~"])
    assert (found.workdir, found.label) == (Path("/somewhere/runs/a~b"), "~")
    assert parser.parse_args(["--workdir", "here/~"]).workdir == Path("here/~")
