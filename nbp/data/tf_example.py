# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""`tf.train.Example`, the message that records of TFDS consist of, without TensorFlow."""

import threading
from typing import Any

_LOCK = threading.Lock()
_CLASSES: list[Any] = []


def find_example_class() -> Any:
    """The class of the message; imported late, it comes with all of TFDS (a second).

    TFDS imports parts of itself lazily, and two threads that do it at once break that.
    """
    with _LOCK:
        if not _CLASSES:
            from tensorflow_datasets.proto import tf_example_pb2

            _CLASSES.append(vars(tf_example_pb2)["Example"])
        return _CLASSES[0]
