# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
import pytest

from nbp.errors import ConfigError
from nbp.training.task import Evaluator, Stream, Task
from tests.training.toy import ToyStream, ToyTask


def test_the_toy_follows_the_protocols():
    assert isinstance(ToyTask(), Task)
    assert isinstance(ToyStream(0), Stream)
    assert not isinstance(object(), Task)


def test_an_evaluator_needs_an_interval():
    with pytest.raises(ConfigError, match=r"validation.*interval 0"):
        Evaluator("validation", 0, lambda state: {})
