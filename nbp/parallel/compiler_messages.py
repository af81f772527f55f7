# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What compilers of devices say when a program is too large, or when they are the wrong ones.

The wordings are those of XLA and of libtpu, which change from version to version; a complaint in
none of them is still known by its status, RESOURCE_EXHAUSTED.
"""

import re
from importlib import metadata

import jax

from nbp.errors import ConfigError

UNITS = {None: 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"([0-9][0-9,]*(?:\.[0-9]+)?) ?(?:([KMGT])(?:i?B)?\b|bytes\b)"
_USED = rf"used {_SIZE} of [^ ]+ hbm"
# What a program needs, the most telling wording first: all of it, then parts of it.
_NEEDED = (
    rf"total memory required[^(.]*\({_SIZE}\) exceeds",
    rf"total hbm usage >= {_SIZE}",
    rf"program hbm requirement:? {_SIZE}",
    rf"(?:memory required|required memory|requires|needs)[^0-9.;]{{0,60}}{_SIZE}",
    rf"(?:attempting|trying|tried) to (?:reserve|allocate) {_SIZE}",
    rf"allocation of {_SIZE}",
)
_EXCEEDED = rf"exceed(?:s|ed)? [^;\n]*?\bby {_SIZE}"
# Small memories within a chip, of which a kernel may need too much: no sizes of the device.
_OTHER_SPACE = re.compile(r"memory space (?!hbm)\w+|scoped vmem|of [^ ]+ (?:vmem|smem|cmem)", re.I)
EXHAUSTED = "RESOURCE_EXHAUSTED"


def is_exhausted(message: str) -> bool:
    """Whether a compiler says that a program does not fit into the device's memory."""
    return EXHAUSTED in message or "Ran out of memory in memory space" in message


def read_exhausted(message: str, capacity: int = 0) -> int | None:
    """Bytes that a program needs at least, from the compiler's complaint; None if it names none.

    capacity: bytes of a device, of which some wordings tell by how much they are exceeded.
    """
    if not is_exhausted(message):
        return None
    hbm = () if _OTHER_SPACE.search(message) else _NEEDED
    for wording in (_USED, *hbm):
        if found := re.search(wording, message, re.I):
            return _read_size(found[1], found[2])
    if hbm and capacity and (found := re.search(_EXCEEDED, message, re.I)):
        return capacity + _read_size(found[1], found[2])
    return None


def _read_size(number: str, unit: str | None) -> int:
    return int(float(number.replace(",", "")) * UNITS[unit.upper() if unit else None])


def describe_installation() -> str:
    """How the compiler of TPUs is installed that goes with this JAX; a TPU is not needed."""
    return f'pip install "jax[tpu]=={jax.__version__}"'


def find_wanted() -> str:
    """The version of libtpu that goes with this JAX, e.g. `0.0.42.*`; "" where it does not say."""
    for requirement in metadata.requires("jax") or ():
        if found := re.match(r"libtpu ?\(?==([\w.*]+)", requirement):
            return found[1]
    return ""


def find_libtpu() -> str:
    """The version of the installed libtpu; "" without the package (TPU_LIBRARY_PATH names one)."""
    try:
        return metadata.version("libtpu")
    except metadata.PackageNotFoundError:
        return ""


def explain_mismatch() -> str:
    """One line where the installed libtpu is not the one of this JAX; "" where it is.

    Another one may work, end in an internal error, or end the process.
    """
    wanted, found = find_wanted(), find_libtpu()
    if wanted and f"{found}.".startswith(wanted.removesuffix("*").rstrip(".") + "."):
        return ""
    goes = f", and jax {jax.__version__} goes with {wanted}" if wanted else ""
    return (
        f"Here is libtpu {found or '(no package, named by TPU_LIBRARY_PATH)'}{goes}: "
        f"{describe_installation()}"
    )


def explain_failure(error: Exception) -> ConfigError | None:
    """One line for a failure of the TPU compiler that another libtpu mends; None for all others.

    With the libtpu that belongs to this JAX any failure is a fault of the program or of libtpu.
    """
    mismatch = explain_mismatch()
    if not mismatch and "requires a libtpu version" not in str(error):
        return None
    reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    here = mismatch or f"Here is libtpu {find_libtpu()}: {describe_installation()}"
    return ConfigError(f"the TPU compiler fails: {reason.strip()[:200]} {here}")
