# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What a compiled program does, read off it without running it.

Operations are counted in the program before it is divided among devices (its jaxpr), where every
loop has a known length. Collectives and memory traffic are read off the compiled text (HLO) of one
device; there a loop's length is the constant that its condition compares with.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

# Bytes on the wire of a device, of `size` bytes of result among n devices, in a ring.
WIRE = {
    "all-gather": lambda size, n: size * (n - 1) / n,
    "all-reduce": lambda size, n: 2 * size * (n - 1) / n,
    "reduce-scatter": lambda size, n: size * (n - 1),
    "all-to-all": lambda size, n: size * (n - 1) / n,
    "collective-permute": lambda size, _: size,
}
BITS = {"pred": 8, "bf16": 16, "f8e4m3fn": 8, "f8e5m2": 8, "s4": 4, "u4": 4, "c64": 64, "c128": 128}
# What moves no data of its own.
FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional"),
    *("call", "after-all", "partition-id", "replica-id", "async-start", "async-update"),
}


def count_flops(jaxpr: Any) -> float:
    """Floating-point operations of the matmuls and convolutions of a jaxpr, on all devices."""
    total = 0.0
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    used = {id(x) for x in (*jaxpr.outvars, *(x for eqn in jaxpr.eqns for x in eqn.invars))}
    for eqn in jaxpr.eqns:
        name, params = eqn.primitive.name, eqn.params
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            shape = eqn.invars[0].aval.shape
            inner = math.prod(shape[axis] for axis in contracted)
            total += 2.0 * math.prod(eqn.outvars[0].aval.shape) * inner
        elif name == "conv_general_dilated":
            kernel, numbers = eqn.invars[1].aval.shape, params["dimension_numbers"]
            inner = math.prod(kernel) / kernel[numbers.rhs_spec[0]]
            total += 2.0 * math.prod(eqn.outvars[0].aval.shape) * inner
        elif name == "cond":
            total += max(count_flops(branch) for branch in params["branches"])
        elif name == "pallas_call":
            # JAX leaves it to the compiler to remove one whose results nobody wants.
            wanted = any(id(x) in used for x in eqn.outvars)
            total += _count_kernel(params) if wanted else 0.0
        else:
            repeats = params["length"] if name == "scan" else 1
            if name == "shard_map":  # its body is what one device does
                key = next(key for key in params if key.endswith("manual_axes"))  # by JAX's version
                repeats = math.prod(params["mesh"].shape[axis] for axis in params[key])
            total += repeats * sum(count_flops(inner) for inner in _inner_jaxprs(params))
    return total


def _count_kernel(params: dict[str, Any]) -> float:
    """What a kernel says of itself, else its program at every place of its grid, at most."""
    if (estimate := params.get("cost_estimate")) is not None:
        return float(estimate.flops)
    places = math.prod(params["grid_mapping"].grid)
    return places * sum(count_flops(inner) for inner in _inner_jaxprs(params))


def _inner_jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if hasattr(getattr(item, "jaxpr", item), "eqns"):
                yield item


@dataclass(frozen=True)
class Instruction:
    """`name = type opcode(rest`, within a computation; `operands` are the names in `rest`."""

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    rest: str


@dataclass(frozen=True)
class Collective:
    """A collective operation of one device.

    Attributes:
        kind: "all-gather" and so on.
        bytes: size of its result, for a reduce-scatter too.
        group: devices that take part together.
        repeats: how often it happens in a run of the program.
        source: where in the model it comes from (the compiler's `op_name`).
    """

    kind: str
    bytes: int
    group: int
    repeats: int
    source: str

    @property
    def wire_bytes(self) -> float:
        """Bytes that a device sends, in all repeats, if the devices form a ring."""
        return float(self.repeats * WIRE[self.kind](self.bytes, self.group))


_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*)$")
_CALLED = re.compile(
    r"(body|condition|calls|to_apply|branch_computations|called_computations)="
    r"(\{[^}]*\}|%?[\w.\-]+)"
)
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")


class Program:
    """The compiled text of one device, taken apart."""

    def __init__(self, text: str, devices: int) -> None:
        self.computations: dict[str, list[Instruction]] = {}
        self.devices = devices
        entry, current = "", None
        for line in text.splitlines():
            if header := _HEADER.match(line):
                current = self.computations.setdefault(header[2], [])
                entry = header[2] if header[1] else entry
            elif current is not None and (found := _INSTRUCTION.match(line)):
                operands = tuple(re.findall(r"%([\w.\-]+)", found[4].partition("), ")[0]))
                current.append(Instruction(found[1], found[2], found[3], operands, found[4]))
        self.repeats = self._count_repeats(entry)

    def _count_repeats(self, entry: str) -> dict[str, int]:
        """How often each computation runs; those inside a fusion count with it."""
        repeats = dict.fromkeys(self.computations, 0)

        def visit(name: str, times: int) -> None:
            repeats[name] += times
            for instruction in self.computations.get(name, ()):
                length = self._find_length(instruction) if instruction.opcode == "while" else 1
                for role, called in _CALLED.findall(instruction.rest):
                    for inner in re.findall(r"[\w.\-]+", called):
                        if inner in self.computations and role != "to_apply":
                            visit(inner, times * length)

        visit(entry, 1)
        return repeats

    def _find_length(self, loop: Instruction) -> int:
        """Iterations of a `while`: what its condition compares with; 1 where that is not a number.

        Loops of JAX count from 0 in steps of 1.
        """
        known = re.search(r"known_trip_count\D*(\d+)", loop.rest)
        if known:
            return int(known[1])
        condition = re.search(r"condition=%?([\w.\-]+)", loop.rest)
        inside = self.computations[condition[1]] if condition else []
        limits = [re.match(r"(\d+)\)", i.rest) for i in inside if i.opcode == "constant"]
        numbers = [int(limit[1]) for limit in limits if limit]
        return max(numbers, default=1)

    def collectives(self) -> list[Collective]:
        """Each collective once: parts that overlap with work have the channel of the rest."""
        found: dict[Any, Collective] = {}
        for name, instructions in self.computations.items():
            for instruction in instructions if self.repeats[name] else ():
                kind = instruction.opcode.removesuffix("-start")
                if kind not in WIRE:
                    continue
                group = self._find_group(instruction.rest)
                source = re.search(r'op_name="([^"]*)"', instruction.rest)
                channel = re.search(r"channel_id=(\d+)", instruction.rest)
                size = _result_bytes(instruction, group)
                one = Collective(kind, size, group, self.repeats[name], source[1] if source else "")
                key = (kind, channel[1]) if channel else (name, instruction.name)
                if group > 1 and (key not in found or found[key].repeats < one.repeats):
                    found[key] = one
        return list(found.values())

    def _find_group(self, rest: str) -> int:
        """Devices in a replica group, in any of the three notations."""
        if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
            return len(listed[1].split(","))
        if numbered := re.search(r"replica_groups=\[(\d+),(\d+)\]<=", rest):
            return int(numbered[2])
        if meshed := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", rest):
            sizes = dict(re.findall(r"'(\w+)'=(\d+)", meshed[1]))
            return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", meshed[2]))
        return 2 if "source_target_pairs" in rest else self.devices

    def memory_traffic(self) -> float:
        """Bytes that a device reads from and writes to its main memory, roughly.

        What a fusion reads only in slices counts as these slices, and what lies in the chip's own
        memory not at all.
        """
        fused = {
            inner
            for instructions in self.computations.values()
            for instruction in instructions
            if instruction.opcode == "fusion"
            for role, inner in re.findall(r"(calls)=%?([\w.\-]+)", instruction.rest)
        }
        total = 0.0
        for name, instructions in self.computations.items():
            if name in fused or not self.repeats[name]:
                continue
            types = {i.name: i.type for i in instructions}
            moved = sum(self._moved_bytes(i, types) for i in instructions)
            total += self.repeats[name] * moved
        return total

    def _moved_bytes(self, instruction: Instruction, types: dict[str, str]) -> float:
        if instruction.opcode in FREE or instruction.opcode.endswith("-done"):
            return 0.0
        if instruction.opcode in ("dynamic-slice", "slice", "gather"):
            return 2.0 * measure(instruction.type)
        if instruction.opcode == "dynamic-update-slice":
            return 2.0 * measure(types.get(instruction.operands[1], ""))
        reads = [measure(types.get(operand, "")) for operand in instruction.operands]
        writes = measure(instruction.type)
        called = re.search(r"calls=%?([\w.\-]+)", instruction.rest)
        if instruction.opcode == "fusion" and called and called[1] in self.computations:
            inside = self.computations[called[1]]
            reads, writes = _fusion_traffic(inside, reads, writes)
        return float(sum(reads) + writes)


def _fusion_traffic(
    inside: list[Instruction], reads: list[int], writes: int
) -> tuple[list[int], int]:
    """Reads and writes of a fusion, with slices in place of whole arrays."""
    order = [i for i in inside if i.opcode == "parameter"]
    for parameter in order:
        index = re.match(r"(\d+)\)", parameter.rest)
        position = int(index[1]) if index else len(reads)
        users = [i for i in inside if parameter.name in i.operands]
        if position >= len(reads) or not users or not reads[position]:
            continue
        if all(i.opcode in ("dynamic-slice", "slice", "gather") for i in users):
            reads[position] = min(reads[position], sum(measure(i.type) for i in users))
        elif all(
            i.opcode == "dynamic-update-slice" and i.operands[0] == parameter.name for i in users
        ):
            reads[position] = 0  # written in place
    types = {i.name: i.type for i in inside}
    root = inside[-1]
    if root.opcode == "dynamic-update-slice" and writes:
        writes = measure(types.get(root.operands[1], ""))
    return reads, writes


def measure(text: str) -> int:
    """Bytes of the arrays in a type that lie in main memory (not in a space `S(n)` of the chip)."""
    total = 0
    for kind, dims, layout in _ARRAY.findall(text):
        if re.search(r"S\([1-9]\d*\)", layout):
            continue
        total += _array_bytes(kind, dims)
    return total


def _array_bytes(kind: str, dims: str) -> int:
    digits = re.search(r"\d+$", kind)
    bits = BITS.get(kind, int(digits[0]) if digits else 0)
    return math.prod(int(n) for n in dims.split(",") if n) * bits // 8


def _result_bytes(instruction: Instruction, group: int) -> int:
    """Size of a collective's result, wherever it lies; a `-start` lists its input as well."""
    total = sum(_array_bytes(kind, dims) for kind, dims, _ in _ARRAY.findall(instruction.type))
    if instruction.opcode == "all-gather-start":
        return total * group // (group + 1)
    if instruction.opcode == "collective-permute-start":
        return total // 2
    return total


def sum_collectives(collectives: list[Collective]) -> dict[str, dict[str, Any]]:
    """By kind: how many in the program and in a run, bytes on the wire, largest result in bytes."""
    table: dict[str, dict[str, Any]] = {}
    for kind in WIRE:
        rows = [c for c in collectives if c.kind == kind]
        if rows:
            table[kind] = {
                "count": len(rows),
                "runs": sum(c.repeats for c in rows),
                "wire_bytes": round(sum(c.wire_bytes for c in rows)),
                "largest_bytes": max(c.bytes for c in rows),
            }
    return table


def measure_program(compiled: Any, devices: int) -> tuple[dict[str, int], Program]:
    """Bytes that one device needs, by purpose, and the program itself."""
    memory = compiled.memory_analysis()
    sizes = {
        "arguments": memory.argument_size_in_bytes,
        "outputs": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "code": memory.generated_code_size_in_bytes,
        "host": memory.host_temp_size_in_bytes,
    }
    sizes["peak"] = sum(sizes[name] for name in ("arguments", "outputs", "temporaries", "code"))
    return sizes, Program(compiled.as_text(), devices)


def abstract(tree: Any, shardings: Any) -> Any:
    """Shapes with shardings, to lower a program for devices that are not here."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        shardings,
    )


def round_up(value: int, multiple: int) -> int:
    """The least multiple that is not below `value`."""
    return int(np.ceil(value / multiple)) * multiple
