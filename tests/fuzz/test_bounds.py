# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""That the limits of fuzzing catch what they are for."""

import mmap

import numpy as np
import pytest

from nbp.errors import ConfigError, DataError
from tests.fuzz import bounds
from tests.fuzz.bounds import Hang, Tally, run_case, run_command


def loop() -> None:
    while True:
        try:
            sum(range(1000))
        except Exception:  # as a reader that turns every error into its own
            continue


def fail(error: BaseException) -> None:
    raise error


def test_what_is_allowed_is_counted() -> None:
    tally = Tally("x")
    assert run_case(lambda: 3, tally, allowed=(DataError,)) == 3
    assert run_case(lambda: fail(DataError("x")), tally, allowed=(DataError,)) is None
    assert tally.outcomes == {"read": 1, "DataError": 1}


def test_other_errors_and_empty_ones_fail() -> None:
    for error in (KeyError("x"), ConfigError("x")):
        with pytest.raises(type(error)):
            run_case(lambda error=error: fail(error), Tally("x"), allowed=(DataError,))
    with pytest.raises(AssertionError, match="without a text"):
        run_case(lambda: fail(DataError("")), Tally("x"), allowed=(DataError,))


def test_memory_is_bounded() -> None:
    def take(size: int) -> None:  # new pages, even where this process has kept freed ones
        np.frombuffer(mmap.mmap(-1, size), np.uint8)[:] = 1

    with pytest.raises(AssertionError, match="took .* MiB"):
        run_case(lambda: take(2**26), Tally("x"), allowed=(), memory=32)
    run_case(lambda: take(2**23), Tally("x"), allowed=(), memory=32)


def test_a_hang_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "SECONDS", 0.05)
    with pytest.raises(Hang):
        run_case(loop, Tally("x"), allowed=(DataError,))


def test_only_documented_exit_codes_pass() -> None:
    tally = Tally("x")
    assert run_command(lambda argv: None, [], tally) == 0
    assert run_command(lambda argv: fail(DataError("x")), [], tally) == 3
    with pytest.raises(AssertionError, match="exit code 1"):
        run_command(lambda argv: fail(SystemExit(1)), [], tally)
    with pytest.raises(KeyError):
        run_command(lambda argv: fail(KeyError("x")), [], tally)
