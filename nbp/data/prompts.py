# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Text prompts of the 101 classes of UCF101 as token ids (REFERENCE 1.3).

The ids are those of the LLaMA tokenizer (32,000 pieces): begin-of-text in front, padding on the
right. They are stored, so that no text tokenizer is needed.
"""

import functools
import json
from collections.abc import Sequence
from importlib import resources

from nbp.errors import ConfigError

LENGTH = 8  # ids per prompt
VOCABULARY = 32_000
PADDING = 2


@functools.cache
def load_prompts() -> dict[str, tuple[str, tuple[int, ...]]]:
    """Text and ids of the prompt of each class, in the order of the class ids."""
    file = resources.files("nbp.data") / "ucf101_prompts.json"
    classes = json.loads(file.read_text(encoding="utf8"))["classes"]
    return {name: (text, tuple(ids)) for name, text, ids in classes}


def find_texts(labels: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """The ids of each label's prompt; a label is a class name (`YoYo`) or its text (`yo yo`).

    Raises ConfigError for other names: their ids would need the text tokenizer.
    """
    known = load_prompts()
    by_text = dict(known.values())
    rows = [known[name][1] if name in known else by_text.get(name) for name in labels]
    unknown = [name for name, ids in zip(labels, rows, strict=True) if ids is None]
    if unknown:
        raise ConfigError(
            f"generator.prompt text: only the {len(known)} class names of UCF101 have prompts, "
            f"not {', '.join(unknown[:4])}. Use generator.prompt=label for other classes."
        )
    return tuple(ids for ids in rows if ids is not None)
