# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Texts that users write, in the encodings in which editors save them, and names on one line."""

import os

import pytest

from nbp.errors import DataError
from nbp.files import escape_label, escape_name, read_json, read_lines, read_text

# All that str.splitlines takes for the end of a line, and a newline is not.
BREAKS = "\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
def test_every_byte_order_mark_is_understood_and_dropped(tmp_path, encoding):
    text = "Übung 3\r\nдва\n日本語"
    mark = "\ufeff" if encoding.endswith(("le", "be")) else ""  # the others write their own
    (tmp_path / "a.txt").write_bytes((mark + text).encode(encoding))
    assert read_text(tmp_path / "a.txt") == text
    assert read_lines(tmp_path / "a.txt") == ["Übung 3", "два", "日本語"]


@pytest.mark.parametrize("char", BREAKS)
def test_only_a_newline_ends_a_line(tmp_path, char):
    (tmp_path / "a.txt").write_text(f"a{char}b\nc\r\n\nd", encoding="utf8", newline="")
    assert read_lines(tmp_path / "a.txt") == [f"a{char}b", "c", "", "d"]
    (tmp_path / "a.txt").write_bytes(b"")
    assert read_lines(tmp_path / "a.txt") == []


@pytest.mark.parametrize(
    "data, message",
    [
        (b"a\nb\xe9\n", r"a\.txt, line 2: byte 4 \(0xe9\) is not UTF-8"),
        (b"\xef\xbb\xbfa\n\xff", r"a\.txt, line 2: byte 6 \(0xff\) is not UTF-8"),
        ("\ufeffa\nb".encode("utf-16-le")[:-1], r"line 2: byte 7 \(0x62\) is not UTF-16-LE"),
        (b"\xff\xfe\x00\xd8a\x00", r"line 1: byte 3 \(0x00\) is not UTF-16-LE"),
        (b"a\nb\0c", r"line 2: byte 4 is NUL"),
        ("a\nb".encode("utf-16-le"), r"line 1: byte 2 is NUL.*Save the file as UTF-8"),
    ],
)
def test_what_is_no_text_is_named_by_line_and_byte(tmp_path, data, message):
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        read_text(tmp_path / "a.txt")
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_are_one_line(tmp_path):
    for path in (tmp_path, tmp_path / "nope"):
        with pytest.raises(DataError, match="cannot be read"):
            read_text(path)


@pytest.mark.parametrize("char", [*BREAKS, "\n", "\x00", "\x1b", "\x7f", os.fsdecode(b"\xe9")])
def test_names_of_any_bytes_are_shown_on_one_line(char):
    shown = escape_name(f"Übung{char}3")
    assert shown.encode()
    assert shown.splitlines() == [shown]
    assert shown.isprintable()
    assert shown.startswith("Übung\\")
    assert shown.endswith("3")


def test_escaped_labels_stay_different_for_a_reader_that_strips():
    names = ["a", " a", "a ", "a\u3000", "\u2028a", "a\r", "a\\r", "a\\\\r", "a\n", "\\", " ", "é"]
    names += [os.fsdecode(b"\xe9"), "\\xe9", "\\udce9"]
    shown = [escape_label(name) for name in names]
    assert len({text.strip() for text in shown}) == len(names)
    assert all(text.strip() and "\n" not in text and "\r" not in text for text in shown)
    assert escape_label("Übung 3_x") == "Übung 3_x"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"null",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 5000,
        b"\xed\xa0\x80",
    ],
    ids=range(9),
)
def test_whatever_is_no_json_of_the_kind_is_a_value_error(tmp_path, data):
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(ValueError) as caught:
        read_json(path)
    assert "\n" not in str(caught.value)
    path.write_text('{"a": [1]}')
    assert read_json(path) == {"a": [1]}
