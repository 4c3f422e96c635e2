"""Actions as tokens of the language model: 256 bins at the end of its vocabulary."""

import numpy as np


class ActionTokenizer:
    """Turns numbers in [-1, 1] into token ids and back, as Kim et al. (2024), "OpenVLA", sec. 3.2.

    Edges e_0 ... e_{b-1} divide [-1, 1] evenly, b = `n_bins`. A number x in [e_{d-1}, e_d) has the
    id `vocab_size` - d: larger numbers have smaller ids. An id stands for the middle of its bin; b
    edges make b - 1 bins, so that 1, which lies on the last edge, shares the last middle.

    Args:
        vocab_size: Ids of the text tokenizer without padding: a checkpoint's
            `text_config.vocab_size - pad_to_multiple_of`.
        n_bins: Number of edges, a checkpoint's `n_action_bins`.

    Raises:
        ValueError: If there are fewer than two edges, or more than ids.

    Example:
        >>> tokenizer = ActionTokenizer()
        >>> tokenizer.encode(np.array([-1.0, 0.0, 1.0])).tolist()
        [31999, 31872, 31744]
        >>> tokenizer.decode(np.array([31872])).tolist()
        [0.0]
    """

    def __init__(self, vocab_size: int = 32000, n_bins: int = 256) -> None:
        if not 2 <= n_bins <= vocab_size:
            raise ValueError(
                f"`n_bins` must be from 2 to `vocab_size`, got {n_bins} and {vocab_size}."
            )
        self.vocab_size = vocab_size
        self.n_bins = n_bins
        self.bins = np.linspace(-1.0, 1.0, n_bins)
        self.bin_centers = (self.bins[:-1] + self.bins[1:]) / 2.0

    @property
    def begin_id(self) -> int:
        """The largest id below those of actions."""
        return self.vocab_size - self.n_bins - 1

    def encode(self, actions: np.ndarray) -> np.ndarray:
        """Return token ids, int64, of the actions' shape.

        Args:
            actions: Any shape, floats; what lies outside [-1, 1] is clipped, NaN counts as 1.
        """
        return self.vocab_size - np.digitize(np.clip(actions, -1.0, 1.0), self.bins)

    def decode(self, token_ids: np.ndarray) -> np.ndarray:
        """Return the middles of the bins, float64, of the ids' shape.

        Args:
            token_ids: Any shape, integers; ids of no action become the nearest bin's.
        """
        bins = self.vocab_size - np.asarray(token_ids, np.int64) - 1
        return self.bin_centers[np.clip(bins, 0, self.n_bins - 2)]

    def is_action(self, token_ids: np.ndarray) -> np.ndarray:
        """Return which ids are those of actions, bool, of the ids' shape."""
        token_ids = np.asarray(token_ids)
        return (token_ids > self.begin_id) & (token_ids < self.vocab_size)
