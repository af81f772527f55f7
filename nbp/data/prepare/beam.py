# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Numbered work as a pipeline of Apache Beam, which is imported only where a runner was named."""

import contextlib
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

from nbp import errors
from nbp.errors import ConfigError, NbpError, RestartError

# Beam's DirectRunner first looks for another runner, a program that it downloads. This one is the
# part of it that works in this process, or in processes of this machine.
LOCAL = {"direct": "FnApiRunner", "directrunner": "FnApiRunner"}
# How an error of ours reads in one that has come back from a worker, with its traceback.
OURS = re.compile(r"^nbp\.errors\.(\w+): (.*?)(?: \[while running .*)?$", re.MULTILINE)


def open_pipeline(runner: str, options: Sequence[str]) -> Any:
    """An empty `apache_beam.Pipeline` for a runner, checked as far as Beam can before the work.

    options: of Beam and of the runner, as flags. Raises ConfigError where Beam is not installed,
    and for a runner or an option that it does not know.
    """
    try:
        import apache_beam  # pyright: ignore[reportMissingImports]
        from apache_beam.options.pipeline_options import (  # pyright: ignore[reportMissingImports]
            PipelineOptions,
        )
    except ImportError as error:
        raise ConfigError(
            f"--runner {runner} needs Apache Beam ({error}): in the project's folder, pip install "
            "'.[beam]'; docs/data.md has a lock for an environment of its own"
        ) from None

    def refuse_unknown(parser: Any) -> None:
        unknown = parser.parse_known_args(list(options))[1]
        if unknown:
            raise ConfigError(f"neither nbp.prepare nor Beam knows {' '.join(unknown)}")

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            flags = PipelineOptions(list(options))
            flags.get_all_options(add_extra_args_fn=refuse_unknown)
            return apache_beam.Pipeline(LOCAL.get(runner.lower(), runner), flags)
    except SystemExit:  # argparse's, for the value of an option
        why = said.getvalue().splitlines()[-1].partition("error: ")[2]
        raise ConfigError(f"--runner {runner}: {why}") from None
    except NbpError:
        raise
    except (ValueError, ImportError, AttributeError) as error:
        text = " ".join(str(error).split())
        raise ConfigError(f"--runner {runner}: {text}") from None


def run_for_each(pipeline: Any, work: Callable[[int], None], numbers: Sequence[int]) -> None:
    """Calls `work` with each number on some worker; returns when the pipeline has ended.

    work: can be pickled, and may be called twice with the same number, also at the same time.
    Raises what it raised, as far as it is an error of ours, else RestartError.
    """
    import apache_beam  # pyright: ignore[reportMissingImports]

    try:
        _ = (
            pipeline
            | apache_beam.Create(list(numbers))
            | apache_beam.Reshuffle()  # or one worker would have all of them
            | apache_beam.Map(work)
        )
        pipeline.run().wait_until_finish()
    except Exception as error:  # of Beam, of its runner, or of the work, as text
        raise find_cause(error) from error


def find_cause(error: Exception) -> NbpError:
    """The error of ours that ended a pipeline; RestartError for one of Beam's."""
    text = str(error)
    if isinstance(error, NbpError):  # of this process; Beam has added where it was
        text = f"nbp.errors.{type(error).__name__}: {text}"
    found = OURS.findall(text)
    if found:
        kind = getattr(errors, found[-1][0], RestartError)
        return kind(found[-1][1])
    last = (text.strip() or type(error).__name__).splitlines()[-1]
    return RestartError(
        f"the Beam pipeline failed ({last}). Finished shards are kept: run the same command again"
    )
