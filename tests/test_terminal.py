# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Whatever becomes of stdout and stderr, a command does its work and its exit code tells of it."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nbp.errors import EXIT_RESTART, EXIT_USAGE, ConfigError, run_main

# Prints more than any pipe holds, then leaves a file, as every command does.
COMMAND = """
import sys
from pathlib import Path
from nbp.errors import ConfigError, run_main

def main(argv):
    for i in range(6_000):
        print("clips in é/日本", i, flush=i % 1000 == 0)
    print("warning: é", file=sys.stderr, flush=True)
    Path(sys.argv[1]).write_text("whole")
    if "refuse" in sys.argv:
        raise ConfigError("no label 日本")

run_main(main)
"""


def run_shell(line: str, target: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A line of bash in which $RUN is the command."""
    variables = {
        **os.environ,
        **environment,
        "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
    }
    line = line.replace("$RUN", f"{sys.executable} {target.with_suffix('.py')} {target}")
    target.with_suffix(".py").write_text(COMMAND, encoding="utf8")
    return subprocess.run(["bash", "-c", line], env=variables, capture_output=True, timeout=60)


@pytest.mark.parametrize(
    "line",
    [
        "$RUN | head -1; exit ${PIPESTATUS[0]}",
        "$RUN 2>&1 | head -1; exit ${PIPESTATUS[0]}",
        "$RUN > /dev/full",
        "$RUN >&-",
        "$RUN <&- >&- 2>&-",
        "$RUN > /dev/null",
    ],
)
def test_a_stream_that_is_gone_does_not_end_the_work(tmp_path: Path, line: str) -> None:
    done = run_shell(line, tmp_path / "made")
    assert done.returncode == 0
    assert (tmp_path / "made").read_text() == "whole"
    assert b"Traceback" not in done.stderr
    assert b"ignored" not in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_the_encoding_lacks_is_escaped(tmp_path: Path, encoding: str) -> None:
    done = run_shell("$RUN refuse", tmp_path / "made", PYTHONIOENCODING=encoding)
    assert done.returncode == EXIT_USAGE
    shown = "\\xe9" if encoding == "ascii" else "é"
    assert done.stdout.startswith(f"clips in {shown}/\\u65e5\\u672c 0".encode(encoding))
    assert done.stderr.splitlines()[-1] == b"nbp: ConfigError: no label \\u65e5\\u672c"


@pytest.mark.parametrize(
    "number, code",
    [
        (errno.EACCES, EXIT_USAGE),
        (errno.EROFS, EXIT_USAGE),
        (errno.ENAMETOOLONG, EXIT_USAGE),
        (errno.ENOSPC, EXIT_RESTART),
    ],
)
def test_a_place_that_cannot_be_used_is_no_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    def main(argv: list[str] | None) -> None:
        raise OSError(number, os.strerror(number), "runs/a")

    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(SystemExit) as caught:
        run_main(main)
    assert caught.value.code == code
    error = capsys.readouterr().err
    assert f"runs/a: {os.strerror(number)}" in error
    assert len(error.splitlines()) == 1


def test_other_faults_of_the_system_are_bugs() -> None:
    def main(argv: list[str] | None) -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")

    with pytest.raises(OSError, match="Bad file"):
        run_main(main)


def test_an_error_is_one_line_whatever_it_names(capsys: pytest.CaptureFixture[str]) -> None:
    def main(argv: list[str] | None) -> None:
        raise ConfigError("no label 'a\nb\x1b[2J é\u2028'")

    with pytest.raises(SystemExit):
        run_main(main)
    expected = "nbp: ConfigError: no label 'a\\nb\\x1b[2J é\\u2028'\n"
    assert capsys.readouterr().err == expected
