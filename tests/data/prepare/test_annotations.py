# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Lists as the data sets ship them, on trees of empty files: nothing is decoded here."""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from nbp.data.prepare.annotations import Item, list_folder, list_kinetics, list_ucf101, ucf_group
from nbp.data.prompts import load_prompts
from nbp.errors import ConfigError, DataError


def touch(root: Path, names: Iterable[str]) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def write_lists(folder: Path, **texts: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        stem, _, suffix = name.rpartition("_")
        (folder / f"{stem}.{suffix}").write_text(text)
    return folder


UCF = [
    "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi",
    "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi",
    "HandstandPushups/v_HandStandPushups_g01_c01.avi",
    "YoYo/v_YoYo_g25_c05.avi",
]


@pytest.mark.parametrize("top", ["", "UCF-101/"])
def test_ucf101_official_lists(tmp_path, top):
    videos = touch(tmp_path / "videos", [top + name for name in UCF])
    lists = write_lists(
        tmp_path / "ucfTrainTestlist",
        trainlist02_txt=f"{UCF[1]} 1\n{UCF[3]} 101\n\nYoYo/v_YoYo_g24_c01.avi 101\n",
        testlist02_txt=f"{UCF[0]}\n",
    )
    for folder in (lists, tmp_path):  # the folder of the lists, or the one above it
        listing = list_ucf101(videos, folder, split=2)
        assert listing.labels == tuple(load_prompts())
        assert listing.splits == ("train", "test")
        assert listing.items == (
            Item(top + UCF[1], "train", 0),
            Item(top + UCF[3], "train", 100),
            Item(top + UCF[0], "test", 0),
        )
        assert listing.missing == (Item("YoYo/v_YoYo_g24_c01.avi", "train", 100),)
        assert listing.unlisted == (top + UCF[2],)


def test_ucf101_flat_reencoded_files_and_the_tab_format(tmp_path):
    """The class is the folder that the list names; the label column is ignored."""
    names = [Path(name).with_suffix(".mp4").name for name in UCF]
    videos = touch(tmp_path / "videos", names)
    lists = write_lists(
        tmp_path / "lists",
        ucf_train_txt=f"{UCF[0]}\t77\n{UCF[2]}\t3\n",
        ucf_val_txt=f"{UCF[3]}\t0\n",
    )
    listing = list_ucf101(videos, lists, split=1)
    ids = {name: number for number, name in enumerate(load_prompts())}
    assert listing.items == (
        Item(names[0], "train", ids["ApplyEyeMakeup"]),
        Item(names[2], "train", ids["HandstandPushups"]),
        Item(names[3], "test", ids["YoYo"]),
    )


def test_ucf101_faults(tmp_path):
    videos = touch(tmp_path / "videos", UCF)
    with pytest.raises(ConfigError, match="splits 1, 2 and 3"):
        list_ucf101(videos, videos, split=4)
    with pytest.raises(DataError, match=r"no trainlist03\.txt .*--annotations"):
        list_ucf101(videos, videos, split=3)
    lists = write_lists(tmp_path / "a", trainlist01_txt="Cooking/a.avi 1\n", testlist01_txt="")
    with pytest.raises(DataError, match=r"trainlist01\.txt, line 1: 'Cooking/a\.avi' is in none"):
        list_ucf101(videos, lists, split=1)
    lists = write_lists(tmp_path / "e", trainlist01_txt=f"{UCF[0]} 1\n", testlist01_txt="\n \n")
    with pytest.raises(DataError, match=r"testlist01\.txt: no clip in the list"):
        list_ucf101(videos, lists, split=1)
    lists = write_lists(tmp_path / "c", trainlist01_txt="YoYo/v_Archery_g01_c01.avi 1\n")
    with pytest.raises(DataError, match=r"line 1: the folder of .* is of another class than its"):
        list_ucf101(videos, lists, split=1)
    gone = "YoYo/v_YoYo_g01_c01.avi 1\n"
    lists = write_lists(tmp_path / "d", trainlist01_txt=f"{UCF[0]} 1\n", testlist01_txt=gone)
    with pytest.raises(DataError, match=r"none of the files listed for the split test is there"):
        list_ucf101(videos, lists, split=1)
    lists = write_lists(tmp_path / "b", trainlist01_txt=gone, testlist01_txt=gone)
    with pytest.raises(DataError, match=r"none of the 2 listed files is among the 4 video files"):
        list_ucf101(videos, lists, split=1)
    with pytest.raises(DataError, match="no video files"):
        list_ucf101(touch(tmp_path / "empty", ["a.txt"]), lists, split=1)


def test_names_alone_do_not_match_in_other_folders(tmp_path):
    """clip.avi of one class must not stand in for the missing clip.avi of another."""
    videos = touch(tmp_path / "v", ["YoYo/clip.avi", "sub/Archery/clip.avi"])
    text = "YoYo/clip.avi 1\nArchery/clip.mp4 2\nHammering/clip.avi 3\n"
    lists = write_lists(tmp_path / "l", trainlist01_txt=text, testlist01_txt="YoYo/clip.avi\n")
    listing = list_ucf101(videos, lists, split=1)
    found = [item.path for item in listing.items if item.split == "train"]
    assert found == ["YoYo/clip.avi", "sub/Archery/clip.avi"]
    assert [item.path for item in listing.missing] == ["Hammering/clip.avi"]


def test_groups():
    assert ucf_group("a/v_Apply_g08_c01.avi") == ("Apply", "g08")
    assert ucf_group("v_HandStandPushups_g01_c02.mp4") == ("HandStandPushups", "g01")
    assert ucf_group("ID_000001_000011.mp4") is None


IDS = ["abcdefghij1", "-bcdefghij2", "_bcdefghij3", "abc_efg-ij4"]


def kinetics_csv(rows: Iterable[tuple[str, str, int]]) -> str:
    lines = [f"{label},{name},{start},{start + 10},train" for label, name, start in rows]
    return "\n".join(["label,youtube_id,time_start,time_end,split", *lines]) + "\n"


def test_kinetics_csv_with_flat_files(tmp_path):
    """Files with and without their times; the start tells clips of one video apart."""
    videos = touch(
        tmp_path / "v",
        [
            f"train/{IDS[0]}_000010_000020.mp4",
            f"train/{IDS[0]}_000050_000060.mp4",
            f"train/{IDS[1]}.mp4",
            f"val/{IDS[2]}_000001_000011.mkv",
            "val/other.mp4",
        ],
    )
    lists = write_lists(
        tmp_path / "l",
        train_csv=kinetics_csv(
            [("yoga", IDS[0], 50), ("air drumming", IDS[1], 7), ("yoga", IDS[3], 0)]
        ),
        validate_csv=f"label,youtube_id,time_start,time_end\nyoga,{IDS[2]},1,11\n",
    )
    listing = list_kinetics(videos, lists)
    assert listing.labels == ("air drumming", "yoga")
    assert listing.splits == ("train", "validation")
    assert listing.items == (
        Item(f"train/{IDS[0]}_000050_000060.mp4", "train", 1),
        Item(f"train/{IDS[1]}.mp4", "train", 0),
        Item(f"val/{IDS[2]}_000001_000011.mkv", "validation", 1),
    )
    assert listing.missing == (Item(f"{IDS[3]}_000000", "train", 1),)
    assert listing.unlisted == (f"train/{IDS[0]}_000010_000020.mp4", "val/other.mp4")


def test_kinetics_same_id_in_two_splits(tmp_path):
    videos = touch(tmp_path / "v", [f"{part}/{IDS[0]}.mp4" for part in ("train", "test")])
    row = f"yoga,{IDS[0]},,\n"
    head = "label,youtube_id,time_start,time_end\n"
    lists = write_lists(tmp_path / "l", k600_train_csv=head + row, k600_test_csv=head + row)
    listing = list_kinetics(videos, lists)
    assert [(i.split, i.path[:5]) for i in listing.items] == [("train", "train"), ("test", "test/")]


def test_kinetics_folders_without_lists(tmp_path):
    names = [f"train/yoga/{IDS[0]}.mp4", f"val/dancing/{IDS[1]}.mp4"]
    listing = list_kinetics(touch(tmp_path / "v", names), None)
    assert listing.labels == ("dancing", "yoga")
    assert [(item.split, item.label) for item in listing.items] == [("train", 1), ("validation", 0)]
    with pytest.raises(DataError, match="neither in train/, val/ nor test/"):
        list_kinetics(touch(tmp_path / "w", [f"yoga/{IDS[0]}.mp4"]), None)


def test_kinetics_txt_lists(tmp_path):
    """REFERENCE 5.2: the parent folder is the split's, so the class is the label column."""
    videos = touch(tmp_path / "v", [f"val/{IDS[0]}.mp4", f"val/{IDS[1]}.mp4", f"a/{IDS[2]}.mp4"])
    text = f"val/{IDS[0]}.mp4\t7\nval/{IDS[1]}.mp4\t12\nval/gone0000000.mp4\t7\n"
    lists = write_lists(tmp_path / "l", k600_val_txt=text)
    listing = list_kinetics(videos, lists)
    assert listing.labels == ("7", "12")
    assert listing.splits == ("validation",)
    assert [item.label for item in listing.items] == [0, 1]
    assert [item.path for item in listing.missing] == ["val/gone0000000.mp4"]
    assert listing.unlisted == (f"a/{IDS[2]}.mp4",)


@pytest.mark.parametrize(
    "text, message",
    [
        ("label,id\nyoga,x\n", "no column youtube_id; it has label, id"),
        (f"label,youtube_id\nyoga,{IDS[0]}\n", "line 2: no split"),
        (f"label,youtube_id,time_start,split\nyoga,{IDS[0]},soon,train\n", "time_start 'soon'"),
    ],
)
def test_kinetics_faults(tmp_path, text, message):
    videos = touch(tmp_path / "v", [f"{IDS[0]}.mp4"])
    with pytest.raises(DataError, match=message):
        list_kinetics(videos, write_lists(tmp_path / "l", all_csv=text))
    with pytest.raises(DataError, match="neither csv nor txt"):
        list_kinetics(videos, tmp_path / "v")


def test_folder_split_is_by_path(tmp_path):
    names = [f"c{n % 3}/clip{n}.mp4" for n in range(60)]
    listing = list_folder(touch(tmp_path / "v", names), validation=0.25)
    assert listing.labels == ("c0", "c1", "c2")
    for item in listing.items:
        digest = hashlib.sha256(item.path.encode()).digest()
        held_out = int.from_bytes(digest[:8], "big") / 2**64 < 0.25
        assert item.split == ("validation" if held_out else "train")
        assert item.label == int(item.path[1])
    assert [i.split for i in listing.items] == sorted(i.split for i in listing.items)
    assert list_folder(tmp_path / "v", validation=0.0).splits == ("train",)
    with pytest.raises(ConfigError, match="share of the files"):
        list_folder(tmp_path / "v", validation=1.0)


def test_a_folder_that_cannot_be_listed_is_reported(tmp_path, monkeypatch):
    import os

    touch(tmp_path / "v", ["a/1.mp4", "b/2.mp4"])
    scan = os.scandir

    def refuse(folder):
        if str(folder).endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    listing = list_folder(tmp_path / "v", validation=0.0)
    assert [item.path for item in listing.items] == ["a/1.mp4"]
    assert [(e.reason, e.detail) for e in listing.unreadable] == [
        ("unreadable", "Permission denied")
    ]


def remarks(listing):
    return [(r.heading, r.path, r.split, r.label) for r in listing.remarks]


def kinetics(tmp_path, files, **texts):
    head = "label,youtube_id,time_start,time_end\n"
    texts = {name: text if "," not in text else head + text for name, text in texts.items()}
    return list_kinetics(touch(tmp_path / "v", files), write_lists(tmp_path / "l", **texts))


def test_a_list_without_classes_is_left_out_and_no_class_is_made_up(tmp_path):
    videos = touch(tmp_path / "v", [f"{p}/{i}.mp4" for p, i in zip("abc", IDS, strict=False)])
    bare = f"youtube_id,time_start\n{IDS[2]},7\ngone0000000,3\n"
    lists = write_lists(
        tmp_path / "l", train_csv=kinetics_csv([("yoga", IDS[0], 1)]), test_csv=bare
    )
    listing = list_kinetics(videos, lists)
    assert (listing.labels, listing.splits) == (("yoga",), ("train",))
    assert remarks(listing) == [("no label", f"{lists}/test.csv", "test", "")]
    assert listing.unlisted == (f"b/{IDS[1]}.mp4",)
    (lists / "train.csv").unlink()
    with pytest.raises(DataError, match=r"test\.csv: no class is told for any clip.*nbp\.prepare"):
        list_kinetics(videos, lists)


@pytest.mark.parametrize("text", ["a/x.mp4\t1\na/y.mp4\t2\nval/z.mp4\n", "val/z.mp4\n"])
def test_txt_lists_without_classes(tmp_path, text):
    videos = touch(tmp_path / "v", ["a/x.mp4", "a/y.mp4", "val/z.mp4"])
    with pytest.raises(DataError, match=r"no label, though other lines|no class is told"):
        list_kinetics(videos, write_lists(tmp_path / "l", val_txt=text))


def test_split_folders_without_classes_are_left_out(tmp_path):
    names = ["train/yoga/a.mp4", "val/yoga/b.mp4", "val/stray.mp4", "test/c.webm"]
    listing = list_kinetics(touch(tmp_path / "v", names), None)
    assert (listing.labels, listing.splits) == (("yoga",), ("train", "validation"))
    assert remarks(listing) == [
        ("no label", "test/", "test", ""),
        ("no label", "val/", "validation", ""),
    ]
    assert listing.unlisted == ()


@pytest.mark.parametrize(
    "other",
    ["air_drumming", "Air Drumming", "air  drumming", "AIR_DRUMMING", "air\u00a0drumming",
     "\uff41ir drumming"],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["csv", "folders", "split folders"])
def test_spellings_of_a_class_over_splits_are_one_class_with_that_of_train(tmp_path, other, kind):
    if kind == "csv":
        files = [f"{name}_000001_000011.mp4" for name in IDS[:2]]
        text = {"train_csv": f"air drumming,{IDS[0]},1,11\n", "val_csv": f"{other},{IDS[1]},1,11\n"}
        listing = kinetics(tmp_path, files, **text)
    else:
        videos = touch(tmp_path / "v", [f"Val/{other}/b.mp4", "train/air drumming/a.mp4"])
        listing = (
            list_kinetics(videos, None)
            if kind == "folders"
            else list_folder(videos, validation=0.1)
        )
    assert listing.labels == ("air drumming",)
    assert [(item.split, item.label) for item in listing.items] == [("train", 0), ("validation", 0)]
    assert remarks(listing) == [("class spelled twice", other, "", "air drumming")]


def test_composed_and_decomposed_names_are_one_class(tmp_path):
    listing = list_kinetics(
        touch(tmp_path / "v", ["train/U\u0308bung/a.mp4", "val/\u00dcbung/b.mp4"]), None
    )
    assert listing.labels == ("U\u0308bung",)


def test_classes_of_one_split_are_named(tmp_path):
    names = ["train/a/1.mp4", "train/b/2.mp4", "val/b/3.mp4", "val/c/4.mp4"]
    listing = list_kinetics(touch(tmp_path / "v", names), None)
    assert listing.labels == ("a", "b", "c")
    assert remarks(listing) == [
        ("class in one split", "a", "train", "a"),
        ("class in one split", "c", "validation", "c"),
    ]


def test_folders_of_one_tree_stay_classes_as_in_training_and_are_named(tmp_path):
    listing = list_folder(touch(tmp_path / "v", ["a b/1.mp4", "a_b/2.mp4"]), validation=0.0)
    assert listing.labels == ("a b", "a_b")
    assert remarks(listing) == [("class spelled twice", "a_b", "", "a_b")]


def test_a_file_listed_with_two_classes_counts_for_the_first_one(tmp_path):
    clip = f"{IDS[0]}_000001_000011.mp4"
    rows = f"yoga,{IDS[0]},1,11\ndancing,{IDS[0]},1,11\nyoga,{IDS[0]},1,11\n"
    listing = kinetics(tmp_path, [clip, "x.mp4"], train_csv=rows)
    assert listing.items == (Item(clip, "train", 1),)
    assert listing.labels == ("dancing", "yoga")
    assert remarks(listing) == [("two labels", clip, "train", "dancing")]
    detail = listing.remarks[0].detail
    assert "line 3; " in detail
    assert "line 2 says 'yoga'" in detail


def test_the_class_of_train_counts_where_another_split_says_another(tmp_path):
    clips = [f"{name}_000001_000011.mp4" for name in IDS[:2]]
    listing = kinetics(
        tmp_path,
        clips,
        test_csv=f"dancing,{IDS[0]},1,11\nyoga,{IDS[1]},1,11\n",
        train_csv=f"yoga,{IDS[0]},1,11\n",
    )
    assert [(i.path, i.split) for i in listing.items] == [(clips[0], "train"), (clips[1], "test")]
    assert ("two labels", clips[0], "test", "dancing") in remarks(listing)


def test_a_file_that_may_be_two_listed_clips_is_none_of_them(tmp_path):
    rows = f"yoga,{IDS[0]},1,11\nyoga,{IDS[0]},50,60\nyoga,{IDS[1]},1,11\n"
    listing = kinetics(tmp_path, [f"{IDS[0]}.mp4", f"{IDS[1]}.mp4"], train_csv=rows)
    assert [item.path for item in listing.items] == [f"{IDS[1]}.mp4"]
    assert [r.heading for r in listing.remarks] == ["ambiguous", "ambiguous"]
    assert listing.remarks[0].detail.endswith(
        f"{IDS[0]}.mp4 may be {IDS[0]}_000001, {IDS[0]}_000050"
    )
    assert listing.missing == ()
    assert listing.unlisted == ()


def test_a_namesake_is_missing_whether_or_not_its_own_class_is_listed(tmp_path):
    videos = touch(tmp_path / "v", ["dancing/video_00001.mp4", "running/video_00002.mp4"])
    text = "running/video_00001.mp4\t1\nrunning/video_00002.mp4\t1\n"
    for more in ("", "dancing/video_00001.mp4\t0\n"):
        listing = list_kinetics(videos, write_lists(tmp_path / "l", train_txt=text + more))
        assert [item.path for item in listing.missing] == ["running/video_00001.mp4"]
        assert len(listing.items) == 1 + bool(more)


def test_a_clip_in_another_split_folder_is_found_once(tmp_path):
    """Kinetics-600 moved clips of Kinetics-400; a list of the other split has the older claim."""
    files = [f"val/{name}_000001_000011.mp4" for name in IDS[:2]]
    train = f"yoga,{IDS[0]},1,11\nyoga,{IDS[1]},1,11\n"
    listing = kinetics(tmp_path, files, train_csv=train, val_csv=f"yoga,{IDS[1]},1,11\n")
    assert [(i.path, i.split) for i in listing.items] == [
        (files[0], "train"),
        (files[1], "validation"),
    ]
    assert [item.path for item in listing.missing] == [f"{IDS[1]}_000001"]


def test_a_split_of_which_nothing_is_there(tmp_path):
    with pytest.raises(DataError, match="none of the files listed for the split validation"):
        kinetics(
            tmp_path,
            [f"{IDS[0]}.mp4"],
            train_csv=f"yoga,{IDS[0]},1,11\n",
            val_csv=f"yoga,{IDS[1]},1,11\n",
        )


@pytest.mark.parametrize(
    "names",
    [
        ["train/run/a.mp4", "train/walk/b.mp4", "val/run/c.mp4", "val/walk/d.mp4"],
        ["Training/run/a.mp4", "VALIDATION/Run/c.mp4", "testing/run/e.mp4"],
        ["train/a.mp4", "test/b.mp4"],
    ],
)
def test_folders_named_after_splits_are_splits_where_the_classes_are_the_same(tmp_path, names):
    listing = list_folder(touch(tmp_path / "videos", names), validation=0.1)
    assert listing.splits[0] == "train"
    assert len(listing.splits) == len({n[:3] for n in names})
    for item in listing.items:
        top, *rest = item.path.split("/")
        assert item.split[:3] == top.lower()[:3]
        assert listing.labels[item.label] == (rest[0].lower() if rest[1:] else "videos")
    classes = list_folder(tmp_path / "videos", validation=0.0, split_folders="no").labels
    assert {name.lower()[:3] for name in classes} == {name.lower()[:3] for name in names}


@pytest.mark.parametrize(
    "names",
    [
        ["train/run/a.mp4", "val/walk/b.mp4"],
        ["train/run/a.mp4", "train/walk/b.mp4"],
        ["train/a.mp4", "test/run/b.mp4"],
        ["val/a.mp4", "test/b.mp4"],
    ],
)
def test_folders_named_after_splits_are_asked_for_where_it_cannot_be_told(tmp_path, names):
    videos = touch(tmp_path / "v", names)
    with pytest.raises(ConfigError, match="are they splits .*--split_folders yes, or .* no") as e:
        list_folder(videos, validation=0.0)
    assert "\n" not in str(e.value)
    assert list_folder(videos, validation=0.0, split_folders="no").splits == ("train",)
    if any(name.startswith("train/") for name in names):
        assert list_folder(videos, validation=0.0, split_folders="yes").splits[0] == "train"


@pytest.mark.parametrize("names", [["train/a.mp4", "car/b.mp4"], ["train/a.mp4", "b.mp4"]])
def test_a_class_of_trains_is_a_class(tmp_path, names):
    videos = touch(tmp_path / "v", names)
    assert "train" in list_folder(videos, validation=0.0).labels
    with pytest.raises(ConfigError, match="--split_folders yes: '(car/)?b.mp4' is neither in"):
        list_folder(videos, validation=0.0, split_folders="yes")


def test_a_share_that_leaves_a_split_empty_names_one_that_works(tmp_path):
    for count in range(1, 9):
        videos = touch(tmp_path / f"v{count}", [f"{n}.mp4" for n in range(count)])
        for share in (0.001, 0.1, 0.999):
            try:
                listing = list_folder(videos, validation=share)
                assert {item.split for item in listing.items} == set(listing.splits)
            except DataError as error:
                remedies = [float(x) for x in re.findall(r"--validation ([0-9.]+) \(", str(error))]
                assert remedies[-1] == 0
                for remedy in remedies:
                    found = list_folder(videos, validation=remedy)
                    assert {item.split for item in found.items} == set(found.splits)


def test_hidden_and_system_entries_are_counted(tmp_path):
    names = ["a/1.mp4", "@eaDir/x.mp4/SYNO.mp4", "a/.DS_Store", "a/._1.mp4", "lost+found/2.mp4"]
    listing = list_folder(touch(tmp_path / "v", names), validation=0.0)
    assert (listing.labels, listing.skipped) == (("a",), 4)


def test_the_split_of_a_path_is_that_of_the_top_or_the_nearest_folder(tmp_path):
    names = ["data/test/k600/train/yoga/a.mp4", "val/train/b.mp4", "x/val/yoga/c.mp4"]
    text = "/data/test/k600/train/yoga/a.mp4\nval/train/b.mp4\tyoga\nx/val/yoga/c.mp4\n"
    listing = list_kinetics(touch(tmp_path / "v", names), write_lists(tmp_path / "l", a_txt=text))
    assert [(i.path, i.split) for i in listing.items] == [
        (names[0], "train"),
        (names[1], "validation"),
        (names[2], "validation"),
    ]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_ucf101_lists_with_a_byte_order_mark(tmp_path, encoding):
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    for name, text in (("train", f"{UCF[0]} 1\r\n{UCF[3]} 101\r\n"), ("test", f"{UCF[1]}\r\n")):
        (lists / f"{name}list01.txt").write_bytes(text.encode(encoding))
    listing = list_ucf101(touch(tmp_path / "v", UCF), tmp_path, split=1)
    assert [item.path for item in listing.items] == [UCF[0], UCF[3], UCF[1]]
    assert listing.missing == ()
