"""The action that a step was made of, where it is not the one that was given."""

from collections.abc import Mapping
from typing import Any

import numpy as np

DATASET_ACTION_KEY = "dataset_action"  # in the info of `LiberoOffline-v0`


def get_taken_action(action: np.ndarray, info: Mapping[str, Any]) -> np.ndarray:
    """Return the recorded action if the info has one, else the action given.

    A replayed dataset takes any action and returns the recorded transition; what learns from the
    transition must see the action that led to it.
    """
    return info.get(DATASET_ACTION_KEY, action)
