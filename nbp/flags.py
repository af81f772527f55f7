# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Flags of the commands: numbers that have a range, help with examples, mistakes in one line.

    parser = Parser("nbp.sample", main.__doc__, examples=("--workdir runs/quickstart --num 4",))
    parser.add_argument("--num", type=COUNT)
    parser.add_argument("--top_p", type=Real(0.0, 1.0, above=True))

A number is written in ASCII digits: Python's `1_000`, digits of other scripts, `nan`, `inf` and
spaces are none.
"""

import argparse
import contextlib
import difflib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from nbp.errors import ConfigError
from nbp.ranges import Checkpoint

MOST = 2**31 - 1  # what an index of 32 bits can count
SEEDS = 2**32  # `jax.random.key` takes a seed modulo this, so larger ones would repeat smaller ones
LONGEST = 40  # characters of a number; no flag has use for more

_WHOLE = re.compile(r"[+-]?[0-9]+")
_REAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


class Help(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the examples, and adds to each flag the default that it has."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        shown = action.option_strings and action.default not in (None, "", False, [], ())
        if not shown or action.default == argparse.SUPPRESS or "default" in text:
            return text
        return f"{text}; default %(default)s".removeprefix("; ")


class Parser(argparse.ArgumentParser):
    """Raises ConfigError for a wrong value, which `run_main` makes one line and exit code 2 of.

    Missing flags end as ever: with the usage, and exit code 2 too.

    module: of the command, `python -m MODULE`, or `nbp COMMAND` from the console script.
    description: the docstring of the command; its paragraph "python -m ..." is left out, since
    argparse writes one. examples: arguments that make sense as they stand; a long one may have line
    breaks. overrides: the command takes --config.KEY=VALUE as well, for all keys ("all") or for
    those of some sections (their names).
    """

    console = False  # whether commands are called as `nbp COMMAND`

    def __init__(
        self,
        module: str,
        description: str | None = None,
        *,
        examples: Sequence[str] = (),
        overrides: str = "",
    ) -> None:
        command = module.replace("nbp.", "nbp ", 1) if self.console else f"python -m {module}"
        self.examples = tuple(f"{command} {text}" for text in examples)
        self.overrides = overrides
        super().__init__(
            prog=command,
            description=_leave_out_usage(description or ""),
            epilog=_describe_examples(self.examples, overrides=overrides),
            formatter_class=Help,
        )

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # pyright: ignore
        # No shell can give one, a caller of `main` can; no place has such a name.
        if wrong := next((text for text in args or () if "\0" in text), None):
            raise ConfigError(f"the argument {_quote(wrong)} holds a NUL character; leave it out")
        found, rest = super().parse_known_args(args, namespace)
        for name, value in vars(found).items():  # a shell expands no ~ in --flag=~/place
            if isinstance(value, Path) and value.parts[:1] and value.parts[0].startswith("~"):
                with contextlib.suppress(RuntimeError):  # no such user, no home
                    setattr(found, name, value.expanduser())
        return found, rest

    def parse_options(self, options: Mapping[str, Any]) -> argparse.Namespace:
        """Keywords of a call as the flags of the same names: the same ranges and errors.

        None stands for a flag that is not given, True and False for one without a value. Raises
        ConfigError, also for a keyword that no flag has.
        """
        known = {action.dest: action for action in self._actions if action.dest != "help"}
        words = []
        for name, value in options.items():
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(known)}"
                raise ConfigError(f"no option {_quote(name)}; {hint}")
            if known[name].nargs == 0 and isinstance(value, bool):
                words += [f"--{name}"] if value else []
            elif isinstance(value, list | tuple) and known[name].nargs is not None:
                words += [f"--{name}", *map(str, value)]
            elif value is not None:
                words.append(f"--{name}={value}")
        return self.parse_args(words)

    def error(self, message: str) -> NoReturn:
        if not message.startswith("argument "):
            super().error(message)
        if message.endswith("expected one argument"):  # `-x` was taken for a flag
            message += "; a value that begins with - is written with =, as in --label=-x"
        raise ConfigError(message.removeprefix("argument "))


@dataclass(frozen=True)
class Whole:
    """A whole number from `low` to `high`; the `type` of a flag. Raises ArgumentTypeError."""

    low: int = 0
    high: int = MOST

    def __call__(self, text: str) -> int:
        if not _WHOLE.fullmatch(text) or len(text) > LONGEST:
            raise argparse.ArgumentTypeError(f"{_quote(text)} is not {self}")
        number = int(text)
        if not self.low <= number <= self.high:
            raise argparse.ArgumentTypeError(f"{text} is not {self}")
        return number

    def __str__(self) -> str:
        return f"a whole number from {self.low} to {self.high}"


@dataclass(frozen=True)
class Real:
    """A finite number from `low` to `high`; `above` leaves out the low end, `below` the high one.

    The `type` of a flag. Raises ArgumentTypeError.
    """

    low: float
    high: float
    above: bool = False
    below: bool = False

    def __call__(self, text: str) -> float:
        if not _REAL.fullmatch(text) or len(text) > LONGEST:
            raise argparse.ArgumentTypeError(f"{_quote(text)} is not {self}")
        number = float(text)
        over = number > self.low if self.above else number >= self.low
        under = number < self.high if self.below else number <= self.high
        if not (over and under):
            raise argparse.ArgumentTypeError(f"{text} is not {self}")
        return number

    def __str__(self) -> str:
        low = f"above {self.low:g}" if self.above else f"from {self.low:g}"
        return f"a number {low} {'to below' if self.below else 'to'} {self.high:g}"


COUNT = Whole(1)  # things to make, of which there is at least one
NATURAL = Whole(0)  # a number of things that may be none, or an index
SEED = Whole(0, SEEDS - 1)
SHARE = Real(0.0, 1.0)  # a probability or a part of a whole


def add_checkpoint_flag(add: Callable[..., Any], *, of: str) -> None:
    """The flag that chooses a checkpoint. add: `add_argument` of a parser or group; of: whose."""
    text = f"step of {of}, best by train.STAGE.keep_best, or latest, the default"
    add("--checkpoint", type=read_checkpoint, metavar="STEP", help=text)


def read_checkpoint(text: str) -> Checkpoint | None:
    """A step or `best`; None, the newest, for `latest`."""
    if text in ("best", "latest"):
        return "best" if text == "best" else None
    try:
        return NATURAL(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, nor best or latest") from None


def _leave_out_usage(text: str) -> str:
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(p for p in paragraphs if not p.lstrip().startswith("python -m "))


def _describe_examples(examples: Sequence[str], *, overrides: str) -> str:
    """The end of a command's help."""
    parts = []
    if overrides == "all":
        parts.append(
            "Every key (nbp/config/schema.py) can be given as --config.KEY=VALUE,\n"
            "for example --config.seed=1 or --config.data.root=DIR."
        )
    elif overrides:
        names = overrides.split()
        parts.append(
            f"Keys of {' and '.join(names)} in the configuration (nbp/config/schema.py) can be "
            f"given as\n--config.{names[0]}.KEY=VALUE."
        )
    if examples:
        lines = [line for text in examples for line in text.replace("\n", " \\\n    ").split("\n")]
        title = "examples" if len(examples) > 1 else "example"
        parts.append(f"{title}:\n" + "\n".join(f"  {line}" for line in lines))
    return "\n\n".join(parts)


def _quote(text: str) -> str:
    """The text in quotation marks, shortened."""
    return repr(text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}...")
