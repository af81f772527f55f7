# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Lists of videos, well-formed in every usual way, and malformed: named by file and line."""

import csv
import io

import pytest

from nbp.data.prepare.list_rows import MAX_CELL, Row, read_kinetics, read_paths, read_table
from nbp.errors import DataError

HEAD = "label,youtube_id,time_start,time_end,split"
GOOD = "dancing,aaaaaaaaaaa,10,20,train"


def read_csv(folder, text, **options):
    (folder / "list_train.csv").write_text(text, encoding="utf8", newline="", **options)
    return read_kinetics(folder)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_tables_in_every_encoding_with_a_mark(tmp_path, encoding):
    text = f"{HEAD}\r\nÜbung 3,aaaaaaaaaaa,10,20,val\r\n"
    (tmp_path / "a.csv").write_bytes(text.encode(encoding))
    (row,) = read_kinetics(tmp_path)
    assert (row.label, row.youtube, row.split, row.start, row.end) == (
        *("Übung 3", "aaaaaaaaaaa", "validation"),
        *(10, 20),
    )


def test_cells_are_those_that_the_csv_module_wrote(tmp_path):
    names = ['say "hi", twice', "a,b", "'single'", "déjà vu", "a\u2028b", 'x""y', "plain"]
    text = io.StringIO()
    writer = csv.writer(text)  # with \r\n
    writer.writerows([HEAD.split(","), *([name, "a" * 11, "1", "2.5", "train"] for name in names)])
    assert [row.label for row in read_csv(tmp_path, text.getvalue())] == names


def test_blank_lines_spaces_capital_headers_and_other_columns(tmp_path):
    text = (
        'Split, Label ,"YouTube_ID",time_start,is_cc\n\n,,,,\n'
        'train, "a, b" , bbbbbbbbbbb,7.0,1\n \nvalid,c,ccccccccccc,,\n'
    )
    assert read_csv(tmp_path, text) == [
        Row("bbbbbbbbbbb_000007", "train", "a, b", f"{tmp_path}/list_train.csv, line 4",
            "bbbbbbbbbbb", 7, None),
        Row("ccccccccccc", "validation", "c", f"{tmp_path}/list_train.csv, line 6",
            "ccccccccccc", None, None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "lines, message",
    [
        ([f'"{GOOD}', GOOD], "line 2: a stray quotation mark in field 1"),
        ([f'"{GOOD}', f'"{GOOD}'], "line 2: a stray quotation mark in field 1"),
        ([GOOD, 'b"ad,aaaaaaaaaaa,10,20,train'], "line 3: a stray quotation mark in field 1"),
        ([GOOD, 'bad",aaaaaaaaaaa,10,20,train'], "line 3: a stray quotation mark in field 1"),
        (['"a"b,aaaaaaaaaaa,10,20,train'], "line 2: a stray quotation mark in field 1"),
        (['a,"aaaaaaaaaaa,10', '20",train,x'], "line 2: a stray quotation mark in field 2"),
        ([GOOD + ",x"], "line 2: 6 fields, and the header has 5"),
        (["dancing,aaaaaaaaaaa,10,20"], "line 2: 4 fields, and the header has 5"),
        (["tossing, or salad,aaaaaaaaaaa,10,20,train"], "Is there a comma in a name"),
        ([GOOD.replace(",", ";")], "line 2: 1 fields"),
        ([f"{'x' * (MAX_CELL + 1)},aaaaaaaaaaa,10,20,train"], "line 2: field 1 has 1001 charact"),
        ([f"{'x' * 200_000},aaaaaaaaaaa,10,20,train"], "line 2: field 1 has 200000 characters"),
        ([GOOD.replace("dancing", "dan\0cing")], "line 2: byte 47 is NUL"),
        ([GOOD.replace(",train", ",trian")], "line 2: split 'trian' is none of"),
        ([GOOD.replace("aaaaaaaaaaa", " ")], "line 2: no youtube_id"),
        ([GOOD, GOOD.replace("dancing", "")], "line 3: no label, though other lines"),
    ],
)
def test_malformed_tables_are_one_line_with_file_and_line(tmp_path, lines, message):
    with pytest.raises(DataError, match=message) as caught:
        read_csv(tmp_path, "\n".join([HEAD, *lines]))
    assert str(caught.value).startswith(f"{tmp_path}/list_train.csv, line ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("wrong", [";", "\t", "|"])
def test_another_delimiter_is_named(tmp_path, wrong):
    with pytest.raises(DataError, match="line 1: a (semicolon|tab|bar) separates the fields"):
        read_csv(tmp_path, f"{HEAD}\n{GOOD}\n".replace(",", wrong))


@pytest.mark.parametrize(
    "text",
    ["inf", "-inf", "nan", "-1", "1e3", "1_0", "soon", "٣", "0x10", "1000000", "9" * 400, "1.2.3"],
)
@pytest.mark.parametrize("column", ["time_start", "time_end"])
def test_times_are_plain_numbers_in_a_range(tmp_path, text, column):
    cells = dict(zip(HEAD.split(","), GOOD.split(","), strict=True)) | {column: text}
    with pytest.raises(DataError, match=rf"line 2: {column} .*; allowed: seconds, 0 \.\. below"):
        read_csv(tmp_path, f"{HEAD}\n{','.join(cells.values())}\n")


@pytest.mark.parametrize("end", ["10", "9", "0"])
def test_times_in_reverse(tmp_path, end):
    with pytest.raises(DataError, match="line 2: time_end .* is not after time_start 10"):
        read_csv(tmp_path, f"{HEAD}\n{GOOD.replace('20', end)}\n")


def test_headers_that_cannot_serve(tmp_path):
    for text, message in [
        ("label,id\nyoga,x\n", "no column youtube_id; it has label, id"),
        (f"label,{HEAD}\n", "line 1: the column label is there twice"),
        (f"{HEAD}\n", "no clip in the list"),
        ("", "no clip in the list"),
        (f"{HEAD}\r{GOOD}\r", "line 1: carriage returns without newlines"),
    ]:
        with pytest.raises(DataError, match=message):
            read_csv(tmp_path, text)


def read_txt(folder, text):
    (folder / "a.txt").write_text(text, encoding="utf8", newline="")
    return list(read_paths(folder / "a.txt"))


def test_lines_of_paths(tmp_path):
    text = "\ufeffA/a.avi 1\r\n\nB/b b.avi\t12\nC\\c.avi\n./D/d\u2028.avi 3 \nE/e\r.avi\t x y \n"
    assert read_txt(tmp_path, text) == [
        (1, "A/a.avi", "1"),
        (3, "B/b b.avi", "12"),
        (4, "C/c.avi", ""),
        (5, "D/d\u2028.avi", "3"),
        (6, "E/e\r.avi", "x y"),
    ]


@pytest.mark.parametrize(
    "line, message",
    [
        ("a/b.avi,3", "',' after a path"),
        ("a/b.mp4;3", "';' after a path"),
        ("a/b.avi\t1\t2", "2 tabs"),
        ("x" * 5000, "5000 characters are no path"),
        ("/\t3", "no path"),
    ],
)
def test_malformed_lines_of_paths(tmp_path, line, message):
    with pytest.raises(DataError, match=rf"a\.txt, line 2: {message}"):
        read_txt(tmp_path, f"A/a.avi 1\n{line}\n")


def test_hidden_lists_and_folders_are_no_lists(tmp_path):
    (tmp_path / "._train.csv").write_bytes(b"\0\5\x16\7")
    (tmp_path / "x.csv").mkdir()
    (tmp_path / "TRAIN.CSV").write_text(f"{HEAD}\n{GOOD}\n")
    assert [row.label for row in read_kinetics(tmp_path)] == ["dancing"]
    assert next(read_table(tmp_path / "TRAIN.CSV"))[0] == 2
    with pytest.raises(DataError, match="no such folder"):
        read_kinetics(tmp_path / "TRAIN.CSV")
