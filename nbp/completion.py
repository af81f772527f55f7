# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Prints a script that lets a shell complete commands, flags, their values and configurations.

    source <(nbp completion bash)                                # in ~/.bashrc
    nbp completion zsh > "${fpath[1]}/_nbp"                      # then start zsh again
    nbp completion fish > ~/.config/fish/completions/nbp.fish

The script is whole: pressing Tab starts no Python. Print it anew after an update.

    python -m nbp.completion {bash,zsh,fish}
"""

from nbp.errors import run_command
from nbp.flags import Parser


def make_parser() -> Parser:
    parser = Parser("nbp.completion", __doc__, examples=("bash", "zsh"))
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="whose script is printed")
    return parser


if __name__ == "__main__":
    run_command("nbp.completion", make_parser)


import argparse
import ast
import runpy
import shlex
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from nbp import errors
from nbp.__main__ import COMMANDS, read_summary

SHIPPED = Path(__file__).parent / "shipped"  # as `nbp.config` has it, which imports JAX

Kind = Literal["none", "words", "config", "sweep", "path", "text"]


@dataclass(frozen=True)
class Argument:
    """A flag, or a positional argument (name ""), and what its value may be.

    kind: none (it takes no value), one of `words`, a configuration or a sweep FILE[:VARIANT], a
    path, or a text that cannot be guessed.
    """

    name: str
    text: str
    kind: Kind
    words: tuple[str, ...] = ()


def main(argv: list[str] | None = None) -> None:
    """The command. argv: its arguments; default: those of the process."""
    arguments = make_parser().parse_args(argv)
    write = {"bash": write_bash, "zsh": write_zsh, "fish": write_fish}[arguments.shell]
    print(write({name: list_arguments(load_parser(name)) for name in COMMANDS}), end="")


# What can be completed ---------------------------------------------------------------------------


class _Found(Exception):
    """Carries the parser out of a command's first lines."""


def load_parser(command: str) -> Parser:
    """The parser of a command, from its first lines: what stands behind them is not imported."""

    def stop(module: str, make: Callable[[], Any]) -> NoReturn:
        raise _Found(make)

    kept, errors.run_command = errors.run_command, stop
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of modules that are imported already
            runpy.run_module(f"nbp.{command}", run_name="__main__")
    except _Found as found:
        return found.args[0]()
    finally:
        errors.run_command = kept
    raise AssertionError(f"nbp.{command} does not begin with its flags")


def list_arguments(parser: argparse.ArgumentParser) -> list[Argument]:
    return [
        Argument(max(action.option_strings, key=len, default=""), *_describe(action))
        for action in parser._actions
    ]


def _describe(action: argparse.Action) -> tuple[str, Kind, tuple[str, ...]]:
    text = "" if action.help == argparse.SUPPRESS else (action.help or "").replace("%%", "%")
    if action.nargs == 0:
        return text, "none", ()
    if action.choices:
        return text, "words", tuple(map(str, action.choices))
    if action.metavar == "FILE[:VARIANT]":
        return text, "sweep" if action.dest == "sweep" else "config", ()
    if action.type is Path or action.metavar in ("DIR", "RUN"):
        return text, "path", ()
    return text, "text", ()


def list_configurations(function: str, root: Path = SHIPPED) -> list[str]:
    """Files below `configs` that define the function, each followed by FILE:VARIANT of it.

    The files are read, not run: a variant is a string that the function's argument is compared
    with.
    """
    found = []
    for path in sorted((root / "configs").glob("**/*.py")):
        name = path.relative_to(root).as_posix()
        for node in ast.parse(path.read_bytes()).body:
            if isinstance(node, ast.FunctionDef) and node.name == function:
                variants = dict.fromkeys(filter(None, _list_variants(node)))
                found += [name, *(f"{name}:{variant}" for variant in variants)]
    return found


def _list_variants(function: ast.FunctionDef) -> Iterator[str]:
    names = {argument.arg for argument in function.args.args[:1]}
    for node in ast.walk(function):
        if isinstance(node, ast.Compare) and getattr(node.left, "id", None) in names:
            for part in ast.walk(node):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value


Commands = dict[str, list[Argument]]


def _list_files(kind: Kind) -> list[str]:
    return list_configurations({"config": "get_config", "sweep": "get_sweep"}[kind])


# bash --------------------------------------------------------------------------------------------

BASH = r"""# Completion of nbp in bash: source <(nbp completion bash)
_nbp_arguments() { # COMMAND: its flags into $flags, what it takes without a flag into $kind
    flags="" kind=""
    case $1 in
@ARGUMENTS@
    esac
}

_nbp_value() { # COMMAND FLAG: what the flag takes into $kind, "" for nothing
    kind=""
    case "$1 $2" in
@VALUES@
    esac
}

_nbp() {
    # The shell has cut words at : and =; these are whole.
    local line=${COMP_LINE:0:COMP_POINT}
    local current=${line##*[[:space:]]}
    local -a words
    read -ra words <<<"${line%"$current"}"
    local last=$((${#words[@]} - 1)) command=${words[1]-}
    local flags kind value=$current start="" flag="" found="" cut="" mark
    COMPREPLY=()
    if ((last < 1)); then
        found=$(compgen -W "@COMMANDS@ --help --version" -- "$current")
    else
        case $current in
        --*=*) flag=${current%%=*} value=${current#*=} start="$flag=" ;;
        *) [[ ${words[last]} == -* ]] && flag=${words[last]} ;;
        esac
        [[ -n $flag ]] && _nbp_value "$command" "$flag"
        if [[ -z $kind ]]; then # no value is due
            value=$current start=""
            _nbp_arguments "$command"
            [[ $current == -* || -z $kind ]] && kind="words $flags"
        fi
        case $kind in
        words*) found=$(compgen -W "${kind#words}" -- "$value") ;;
        config) found=$(compgen -W "@CONFIGS@" -- "$value"; compgen -d -S / -- "$value"
            compgen -f -X '!*.py' -- "$value") ;;
        sweep) found=$(compgen -W "@SWEEPS@" -- "$value"; compgen -d -S / -- "$value"
            compgen -f -X '!*.py' -- "$value") ;;
        path) found=$(compgen -f -- "$value"); compopt -o filenames 2>/dev/null ;;
        esac
    fi
    for mark in : =; do # what the shell keeps of the word
        if [[ $COMP_WORDBREAKS == *"$mark"* && $current == *"$mark"* ]]; then
            local before=${current%"${current##*"$mark"}"}
            ((${#before} > ${#cut})) && cut=$before
        fi
    done
    local reply
    while IFS= read -r reply; do
        [[ -n $reply ]] || continue
        [[ $reply == */ ]] && compopt -o nospace 2>/dev/null
        reply=$start$reply
        COMPREPLY+=("${reply#"$cut"}")
    done <<<"$(sort -u <<<"$found")"
}
complete -F _nbp nbp
"""


def write_bash(commands: Commands) -> str:
    """A script for bash 4 and later."""
    arguments, values = [], []
    for command, found in commands.items():
        flags = " ".join(argument.name for argument in found if argument.name)
        kinds = [_name_kind(argument) for argument in found if not argument.name]
        arguments.append(
            f"    {command}) flags={shlex.quote(flags)} kind='{(kinds or [''])[0]}' ;;"
        )
        values += [
            f"    '{command} {argument.name}') kind='{_name_kind(argument)}' ;;"
            for argument in found
            if argument.name and argument.kind != "none"
        ]
    return _fill(BASH, arguments, values)


def _name_kind(argument: Argument) -> str:
    return " ".join((argument.kind, *argument.words))


def _fill(template: str, arguments: Sequence[str], values: Sequence[str] = ()) -> str:
    parts = {
        "ARGUMENTS": "\n".join(arguments),
        "VALUES": "\n".join(values),
        "COMMANDS": " ".join(COMMANDS),
        "CONFIGS": " ".join(_list_files("config")),
        "SWEEPS": " ".join(_list_files("sweep")),
    }
    for name, text in parts.items():
        template = template.replace(f"@{name}@", text)
    return template


# zsh ---------------------------------------------------------------------------------------------

ZSH = r"""#compdef nbp
# Completion of nbp in zsh: nbp completion zsh > "${fpath[1]}/_nbp"
_nbp_config() {
    local -a known=(@CONFIGS@)
    compadd -- $known
    _files -g '*.py'
}
_nbp_sweep() {
    local -a known=(@SWEEPS@)
    compadd -- $known
    _files -g '*.py'
}
_nbp() {
    local -a commands=(
@VALUES@
    )
    if ((CURRENT == 2)); then
        _describe command commands
        return
    fi
    words=("${(@)words[2,-1]}")
    ((CURRENT--))
    case ${words[1]} in
@ARGUMENTS@
    esac
}
if [[ ${funcstack[1]} == _nbp ]]; then _nbp "$@"; else compdef _nbp nbp; fi
"""
ZSH_ACTIONS = {"config": "_nbp_config", "sweep": "_nbp_sweep", "path": "_files", "text": " "}


def write_zsh(commands: Commands) -> str:
    """A function for a folder of zsh's $fpath, or to be sourced."""
    cases = []
    for command, found in commands.items():
        lines = [f"    {command})", "        _arguments \\"]
        lines += [f"            {shlex.quote(_specify(argument))} \\" for argument in found]
        cases += [*lines, "            && return", "        ;;"]
    names = [f"        {shlex.quote(f'{name}:{_plain(read_summary(name))}')}" for name in commands]
    return _fill(ZSH, cases, names)


def _specify(argument: Argument) -> str:
    """As `_arguments` of zsh takes it."""
    text = _plain(argument.text).replace("[", r"\[").replace("]", r"\]")
    if argument.kind == "none":
        return f"{argument.name}[{text}]"
    action = f"({' '.join(argument.words)})" if argument.words else ZSH_ACTIONS[argument.kind]
    if not argument.name:
        return f"*:{text}:{action}"
    return f"{argument.name}=[{text}]:{argument.name[2:]}:{action}"


def _plain(text: str) -> str:
    """Without what the syntax of zsh's lists ends a text with."""
    return text.replace(":", r"\:")


# fish --------------------------------------------------------------------------------------------


def write_fish(commands: Commands) -> str:
    """A file for fish's folder of completions."""
    lines = [
        "# Completion of nbp in fish: nbp completion fish > ~/.config/fish/completions/nbp.fish",
        "complete -c nbp -f",
    ]
    for name in commands:
        text = shlex.quote(read_summary(name))
        lines.append(f"complete -c nbp -n __fish_use_subcommand -a {name} -d {text}")
    files = {kind: " ".join(_list_files(kind)) for kind in ("config", "sweep")}
    for name, found in commands.items():
        for argument in found:
            line = f"complete -c nbp -n '__fish_seen_subcommand_from {name}'"
            line += f" -l {argument.name[2:]}" if argument.name else ""
            words = " ".join(argument.words) or files.get(argument.kind, "")
            words += " (__fish_complete_suffix .py)" * (argument.kind in files)
            line += f" -a '{words}'" if words else ""
            if argument.name and argument.kind != "none":
                line += " -rF" if argument.kind == "path" else " -x"
            elif argument.kind == "path":
                line += " -F"
            lines.append(f"{line} -d {shlex.quote(argument.text)}" if argument.text else line)
    return "\n".join(lines) + "\n"
