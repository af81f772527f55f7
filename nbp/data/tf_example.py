# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""`tf.train.Example`, the message that records of TFDS consist of, without TensorFlow."""

import threading
from typing import Any

_LOCK = threading.Lock()
_CLASSES: list[Any] = []


def find_example_class() -> Any:
    """The class of the message; imported late, it comes with all of TFDS (a second).

    While TFDS is imported, it replaces the import statement of the whole process by one that gives
    placeholders, and another thread that imports anything gets one. So sources call this when they
    are made or unpickled, before there are threads.
    """
    with _LOCK:
        if not _CLASSES:
            from tensorflow_datasets.proto import tf_example_pb2

            _CLASSES.append(vars(tf_example_pb2)["Example"])
        return _CLASSES[0]
