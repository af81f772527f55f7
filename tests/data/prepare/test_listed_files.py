# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Which file a list means: never a namesake, and none where several fit."""

import unicodedata

import pytest

from nbp.data.prepare.list_rows import Row
from nbp.data.prepare.listed_files import Files

ID = "-bc_efghij1"


def find(files, path, label="yoga", split="train", labels=("yoga", "dancing")):
    return Files(files, labels).find(path, split=split, label=label)


@pytest.mark.parametrize(
    "name", ["video_00001", "video_0001", "clip", f"{ID}", "camera_0001_000000_000010"]
)
@pytest.mark.parametrize(
    "place",
    ["dancing/{}.mp4", "train/dancing/{}.mp4", "val/yoga/{}.mp4", "test/{}.mp4", "other/{}.mp4"],
)
def test_a_namesake_in_the_folder_of_another_class_or_split_is_not_taken(name, place):
    files = [place.format(name), "yoga/else.mp4"]
    assert find(files, f"train/yoga/{name}.avi") == ()


@pytest.mark.parametrize("listed", ["yoga/x.avi", "train/yoga/x.avi", "any/train/yoga/x.avi"])
@pytest.mark.parametrize("place", ["yoga/x.mp4", "train/yoga/x.webm", "top/yoga/x.avi"])
def test_the_folder_of_the_class_is_enough(listed, place):
    assert find([place, "dancing/x.mp4"], listed) == (place,)


def test_flattened_copies_are_found_where_the_name_tells_clips_apart():
    clip = f"{ID}_000010_000020"
    for place in (f"{clip}.mp4", f"train/{clip}.mkv"):
        assert find([place], f"train/yoga/{clip}.mp4") == (place,)
    assert find(["clip.mp4"], "yoga/clip.mp4") == ()
    assert find(["any/v_YoYo_g01_c01.mp4"], "YoYo/v_YoYo_g01_c01.avi") == (
        "any/v_YoYo_g01_c01.mp4",
    )


def test_of_several_that_fit_none_is_taken_unless_one_fits_better():
    two = ["x/yoga/a.mp4", "y/yoga/a.mp4"]
    assert find(two, "yoga/a.mp4") == tuple(two)
    assert find(two, "y/yoga/a.avi") == ("y/yoga/a.mp4",)
    assert find(["yoga/a.mp4", "yoga/a.avi"], "yoga/a.mkv") == ("yoga/a.mp4", "yoga/a.avi")
    assert find(["x/yoga/a.mp4", "x/yoga/a.avi"], "yoga/a.avi") == ("x/yoga/a.avi",)
    assert find(["1/a.mp4", "2/a.mp4"], "a.mp4") == ("1/a.mp4", "2/a.mp4")
    copies = ["p/v_YoYo_g01_c01.avi", "q/v_YoYo_g01_c01.avi"]
    assert find(copies, "YoYo/v_YoYo_g01_c01.avi") == tuple(copies)


def test_decomposed_letters_of_a_file_system_are_the_same_name():
    listed = "yoga/Übung é.mp4"
    place = unicodedata.normalize("NFD", listed)
    assert place != listed
    assert find([place], listed) == (place,)
    assert find([place], listed.replace("mp4", "avi")) == (place,)


def clip(files, *, start=59, end=69, label="yoga", split="train", youtube=ID):
    row = Row(f"{youtube}_{start}", split, label, "train.csv, line 2", youtube, start, end)
    return Files(files, ("yoga", "dancing")).find_clip(row)


@pytest.mark.parametrize(
    "name", ["{}_59_69", "{}_000059_000069", "{}_059_069", "{}_59.0_69.0", "{}_0000059_0000069"]
)
def test_times_in_names_are_numbers_padded_or_not(name):
    place = f"train/{name.format(ID)}.mp4"
    assert clip([place, f"train/{ID}_590_600.mp4", f"train/{ID}_5_15.mp4"]) == (place,)
    assert clip([place], start=5, end=15) == ()


def test_a_clip_is_that_of_its_seconds_split_and_class():
    timed, bare = f"{ID}_000059_000069.mp4", f"{ID}.mp4"
    assert clip([bare, timed]) == (timed,)
    assert clip([f"val/{bare}", f"train/{bare}"]) == (f"train/{bare}",)
    assert clip([f"val/{bare}"]) == ()
    assert clip([f"yoga/{bare}", f"dancing/{bare}"]) == (f"yoga/{bare}",)
    assert clip([f"dancing/{bare}"]) == ()
    assert clip([f"part1/{bare}"]) == (f"part1/{bare}",)
    assert clip([f"part1/{bare}", f"part2/{bare}"]) == (f"part1/{bare}", f"part2/{bare}")
    assert clip([f"{ID}_59_64.mp4", f"{ID}_59_69.mp4"]) == (f"{ID}_59_69.mp4",)


def test_ids_that_end_like_times_are_ids_too():
    assert clip(["abcdef_1_22.mp4"], youtube="abcdef_1_22") == ("abcdef_1_22.mp4",)


def test_a_clip_moved_to_another_split_is_found_by_id_and_seconds_alone():
    place = f"val/{ID}_59_69.mp4"
    row = Row("x", "train", "yoga", "", ID, 59, 69)
    assert Files([place], ()).find_elsewhere(row, set()) == (place,)
    assert Files([place], ()).find_elsewhere(row, {place}) == ()
    assert Files([place, f"test/{ID}_59_69.avi"], ()).find_elsewhere(row, set()) == ()
    assert Files([f"val/{ID}.mp4"], ()).find_elsewhere(row, set()) == ()
