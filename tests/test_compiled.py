# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Where compiled programs are kept."""

import pwd
from pathlib import Path
from typing import Any

import jax
import pytest

from nbp import runtime
from nbp.runtime import find_folder, keep_compiled


def find_cache() -> str | None:
    config: Any = jax.config
    return config.jax_compilation_cache_dir


@pytest.fixture
def unset(monkeypatch, tmp_path):
    before = find_cache()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    jax.config.update("jax_compilation_cache_dir", None)
    yield tmp_path / "cache"
    jax.config.update("jax_enable_compilation_cache", True)
    jax.config.update("jax_compilation_cache_dir", before)


def test_they_are_kept_in_the_users_cache(unset):
    keep_compiled()
    folder = find_folder()
    assert folder is not None
    assert find_cache() == str(folder)
    assert folder.is_relative_to(unset)
    assert folder.is_dir()


def test_a_chosen_folder_stays(unset, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    keep_compiled()
    assert find_cache() == str(tmp_path / "mine")
    assert not unset.exists()


def test_nothing_is_kept_against_the_users_will(unset):
    jax.config.update("jax_enable_compilation_cache", False)
    keep_compiled()
    assert find_cache() is None


def test_a_folder_that_cannot_be_written_is_done_without(unset, monkeypatch):
    monkeypatch.setattr(runtime, "find_folder", lambda: Path("/proc"))  # not even by root
    keep_compiled()
    assert find_cache() is None


@pytest.mark.parametrize("home", [None, "", "relative"])
def test_a_user_without_a_home_does_without(unset, monkeypatch, home):
    def fail(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/none")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", fail)
    if home is not None:
        monkeypatch.setenv("HOME", home)
    keep_compiled()
    assert find_folder() is None
    assert find_cache() is None
    monkeypatch.setenv("XDG_CACHE_HOME", str(unset))
    assert str(find_folder()).startswith(str(unset))


def test_a_folder_that_cannot_be_made_is_done_without(unset):
    unset.write_text("a file in its place")
    keep_compiled()
    assert find_cache() is None
