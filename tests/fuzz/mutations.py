# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Strategies that damage files: bits, lengths, numbers, tokens that parsers stumble over."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

# What is special to some parser: of text, numbers, JSON, pickles, zip files, video containers.
TEXTS = (
    *("", " ", "\n", "\r", "\r\n", "\t", "\0", "\ufeff", "\u2028", "\x85", "\x1b[31m", "\x7f"),
    *('"', '""', "'", ",", ";", "|", "\\", "/", "//", "..", "../../x", "~", "~x", "$X", "${X}"),
    *(
        "-",
        "--",
        "-1",
        "+1",
        "0",
        "00",
        "1_0",
        "٣",
        "１",
        "1e999",
        "-1e999",
        "nan",
        "inf",
        "1e-400",
    ),
    *("4294967296", "9223372036854775808", "-9223372036854775809", "9" * 5000, "0x10", "1.", ".5"),
    *("None", "True", "true", "[]", "{}", "()", "[" * 500, "{" * 500, "(" * 500, '{"a":' * 400),
    *("e\u0301", "é", "İ", "ß", "ﬁ", "\u202e", "😀", "\udcff", "\ud800", "a" * 2000, "," * 2000),
    *("train", "val", "test", "label", "youtube_id", "time_start", "split", ".avi", "%s", "{0}"),
    *("__class__", "__proto__", "lambda: 0", "__import__('os')", "1 if", "a.b.c", "a=b", "=", ":"),
)
BYTES = (
    *(b"\0", b"\xff", b"\x80", b"\xc0\x80", b"\xed\xa0\x80", b"\xff\xfe", b"\xfe\xff", b"\0" * 64),
    *(b"\xff\xfe\0\0", b"\0\0\xfe\xff", b"\xef\xbb\xbf", b"\xff" * 64, b"PK\3\4", b"PK\1\2"),
    *(b"PK\5\6", b"\x80\2", b"\x80\4", b".", b"R", b"cos\nsystem\n", b"(", b"t", b"\x85", b"Q"),
    *(b"moov", b"mdat", b"stts", b"stsz", b"ftyp", b"elst", b"\x1a\x45\xdf\xa3", b"GIF89a"),
    *(b"\x47", b"\0\0\0\1", b"\0\0\1", b"NUMPY", b"\x93NUMPY\1\0", b"null", b"[[[[", b'"shape":'),
)
NUMBERS = (0, 1, 2, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63, -1)


@dataclass(frozen=True)
class Edit:
    """One change at a share of the length, 0 to 1."""

    kind: str
    place: float
    value: bytes = b""
    length: int = 0

    def apply(self, data: bytes) -> bytes:
        at = int(self.place * len(data))
        before, after = data[:at], data[at:]
        if self.kind == "cut":
            return before
        if self.kind == "behead":
            return after
        if self.kind == "insert":
            return before + self.value + after
        if self.kind == "replace":
            return before + self.value + after[len(self.value) :]
        if self.kind == "drop":
            return before + after[self.length :]
        if self.kind == "repeat":
            return before + after[: self.length] * 3 + after[self.length :]
        if self.kind == "swap":
            return (
                before
                + after[self.length : 2 * self.length]
                + after[: self.length]
                + after[2 * self.length :]
            )
        assert self.kind == "flip"
        changed = bytearray(data)
        if changed:
            changed[at % len(changed)] ^= self.value[0]
        return bytes(changed)


PLACES = st.one_of(
    st.floats(0, 1), st.floats(0, 0.05), st.floats(0.95, 1), st.sampled_from((0.0, 0.5, 1.0))
)


def _pack(number: int, code: str) -> bytes:
    size = struct.calcsize(code)
    return (number % 2 ** (8 * size)).to_bytes(size, "big" if code[0] == ">" else "little")


def values(tokens: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Bytes to put in: numbers of all widths, tokens of the format and of others, noise."""
    codes = st.sampled_from(("<B", "<H", ">H", "<I", ">I", "<Q", ">Q"))
    return st.one_of(
        st.builds(_pack, st.sampled_from(NUMBERS), codes),
        st.sampled_from([*BYTES, *tokens, *(t.encode("utf8", "surrogatepass") for t in TEXTS)]),
        st.binary(min_size=1, max_size=16),
    )


def edits(tokens: Sequence[bytes] = ()) -> st.SearchStrategy[Edit]:
    bit = st.sampled_from([bytes([1 << n]) for n in range(8)] + [b"\xff"])
    length = st.sampled_from((1, 2, 4, 8, 16, 64, 256, 1000))
    value = values(tokens)
    return st.one_of(
        st.builds(Edit, st.just("flip"), PLACES, bit),
        st.builds(Edit, st.sampled_from(("insert", "replace", "replace")), PLACES, value),
        st.builds(Edit, st.sampled_from(("drop", "repeat", "swap")), PLACES, length=length),
        st.builds(Edit, st.sampled_from(("cut", "behead")), PLACES),
    )


def damaged(
    files: Sequence[bytes], tokens: Sequence[bytes] = (), *, most: int = 8
) -> st.SearchStrategy[bytes]:
    """One of the files after up to `most` edits."""

    def apply(data: bytes, changes: list[Edit]) -> bytes:
        for change in changes:
            data = change.apply(data)
        return data

    return st.builds(
        apply, st.sampled_from(list(files)), st.lists(edits(tokens), min_size=1, max_size=most)
    )


def texts(alphabet: Sequence[str] = ()) -> st.SearchStrategy[str]:
    """Short texts with what is special in them."""
    noise = st.lists(st.integers(0, 0x10FFFF).map(chr), max_size=5).map("".join)
    part = st.one_of(st.sampled_from([*TEXTS, *alphabet]), noise)
    return st.lists(part, max_size=4).map("".join)
