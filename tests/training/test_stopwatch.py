"""Seconds per part."""

from __future__ import annotations

import time

import pytest
import torch

from slimp.training.stopwatch import Stopwatch, untimed


def test_parts_add_up_also_when_they_fail() -> None:
    clock = Stopwatch(torch.device("cpu"))
    for _ in range(2):
        with clock("sleep"):
            time.sleep(0.01)
    with pytest.raises(KeyError), clock("failed"):
        raise KeyError
    assert 0.02 <= clock.seconds["sleep"] < 1
    assert 0 <= clock.seconds["failed"] < clock.seconds["sleep"]
    with untimed("anything"):
        pass
