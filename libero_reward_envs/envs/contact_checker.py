"""Whether bodies touch, as LIBERO's goals ask it at every step."""

from typing import Any

import numpy as np


class ContactChecker:
    """robosuite's `check_contact` with look-ups made once per pair instead of once per contact."""

    def __init__(self, model: Any, data: Any):
        self._model, self._data = model, data
        self._masks: dict[Any, np.ndarray] = {}

    def check_contact(self, geoms_1: Any, geoms_2: Any = None) -> bool:
        """Whether any geom of the first group touches any of the second (or any other at all)."""
        pairs = self._data.contact.geom
        first = self._mask(geoms_1)[pairs]
        if geoms_2 is None:
            return bool(first.any())
        second = self._mask(geoms_2)[pairs]
        return bool(np.any((first[:, 0] & second[:, 1]) | (first[:, 1] & second[:, 0])))

    def _mask(self, geoms: Any) -> np.ndarray:
        if isinstance(geoms, str):
            geoms = [geoms]
        key = tuple(geoms) if isinstance(geoms, (list, tuple, set)) else geoms
        # A model as a key is kept alive, so that no other object can take its identity.
        if key not in self._masks:
            names = key if isinstance(key, tuple) else key.contact_geoms
            mask = np.zeros(self._model.ngeom, bool)
            for name in names:
                mask[self._model.geom(name).id] = True
            self._masks[key] = mask
        return self._masks[key]
