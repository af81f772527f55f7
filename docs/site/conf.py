# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Settings of Sphinx for docs/site/build.py; nothing on the pages comes from a network."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

import nbp  # noqa: E402

project = "NBP"
author = "The NBP Authors"
copyright = "2026 The NBP Authors"
version = release = nbp.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "docstrings"]
myst_heading_anchors = 4  # `page.md#a-heading`, as code hosts have them

default_role = "code"
autodoc_default_options = {"members": True, "special-members": "__call__"}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
maximum_signature_line_length = 88
python_display_short_literal_types = True
add_module_names = False
smartquotes = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"NBP {version}"
html_copy_source = False
html_show_sphinx = False
html_show_search_summary = False  # they would be fetched, which browsers refuse from disk
