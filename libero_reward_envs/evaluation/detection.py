"""How well a success classifier finds the moment of success, and what it takes for one."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from libero_reward_envs.data.episodes import Episode, EpisodeDataset
from libero_reward_envs.data.hdf5_frames import SUCCESS_KEY
from libero_reward_envs.evaluation.reward_quality import compute_auroc, compute_average_precision
from libero_reward_envs.evaluation.success import wilson_interval
from libero_reward_envs.reward_models.success_window import SuccessWindow

Detection = dict[str, Any]  # as JSON would hold it


class ProbabilityModel(Protocol):
    """A model that tells success from an image, such as `ClassifierRewardModel`."""

    observation_keys: tuple[str, ...]

    def compute_probability(self, images: dict[str, np.ndarray]) -> np.ndarray:
        """Return the probability of success of each row, shape (n,)."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class JudgedEpisode:
    """What is true of the T steps of an episode, and what a classifier makes of them.

    Args:
        probabilities: Of success after each step, shape (T,).
        labels: Whether the task was solved then, shape (T,), bool.
        kind: What acted, such as "expert"; "" if it is not known.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    kind: str = ""

    @property
    def success(self) -> bool:
        """Whether the task was solved at any step."""
        return bool(self.labels.any())

    @property
    def first_success(self) -> int | None:
        """The first step with success, from 0; None if there is none."""
        return int(self.labels.argmax()) if self.success else None

    def find_trigger(self, threshold: float, k: int = 2, n: int = 3) -> int | None:
        """Return the first step at which k of the last n probabilities are above the threshold.

        The comparison is that of `ClassifierRewardModel`'s binary reward, in single precision.
        """
        window = SuccessWindow(1, k, n)
        above = self.probabilities.astype(np.float32) > np.float32(threshold)
        return next((step for step, is_one in enumerate(above) if window.add(is_one)[0]), None)


def judge_episodes(
    model: ProbabilityModel, dataset: Sequence[Episode] | EpisodeDataset
) -> list[JudgedEpisode]:
    """Let a classifier judge the observation after each step of episodes, one episode at a time.

    The truth is the observation "is_success" where there is one, else the rewards, 0 or 1.

    Raises:
        ValueError: If images are missing or do not fit the model, or there is no truth.
    """
    if not isinstance(dataset, EpisodeDataset):
        dataset = EpisodeDataset(dataset)
    judged = []
    for index in range(len(dataset)):
        episode = _read(dataset, index, model.observation_keys)
        images = {key: episode.observations[key][1:] for key in model.observation_keys}
        labels = _find_labels(episode, index)
        kind = str(episode.metadata.get("policy", ""))
        judged.append(JudgedEpisode(model.compute_probability(images), labels, kind))
    return judged


def measure_detection(
    judged: Sequence[JudgedEpisode],
    threshold: float,
    k: int = 2,
    n: int = 3,
    *,
    within_steps: int = 5,
) -> Detection:
    """Measure frames and events: an event is k of the last n frames above the threshold.

    An episode triggers once, at its first event. With s the first step of true success and t that
    of the event, both from 0, the delay is t - s. A negative delay is a false trigger too, of an
    episode that succeeded later; what comes after it is not looked at, as it would be in use.

    - `average_precision`, `auroc`: of single frames; label 1 is success at this very frame.
    - `false_positive_rate`, `recall`: of single frames, at the threshold.
    - `false_trigger_share`: of the failed episodes, those with an event; with the ends of its
      Wilson interval at 95 %, as for `detected_share`.
    - `early_share`: of the successes, those with an event before true success.
    - `detected_share`: those with an event at true success, or at most `within_steps` later.
    - `late_share`: those with a later event. `missed_share`: those with none. The four add up to 1.
    - `near_share`: those with an event at most `within_steps` before or after true success, with
      its Wilson interval; the early ones among them are in `early_share` too.
    - `median_delay_steps`, `max_delay_steps`: of the events not before true success.
    - `max_lead_steps`: by how many steps the earliest early event comes before true success.
    - `false_triggers`, `early`, `late`, `missed`: positions in `judged`.

    What does not occur is None.

    Args:
        judged: Episodes that the model was neither trained nor calibrated on.
        threshold: Probability.
        k: See `SuccessWindow`.
        n: See there.
        within_steps: Largest delay that counts as detected.

    Raises:
        ValueError: If there is no episode, or the window is not one.
    """
    if not judged:
        raise ValueError("Expected episodes to measure detection on, got none.")
    delays: dict[int, int | None] = {}
    false_triggers: list[int] = []
    for number, episode in enumerate(judged):
        trigger, first = episode.find_trigger(threshold, k, n), episode.first_success
        if first is not None:
            delays[number] = None if trigger is None else trigger - first
        elif trigger is not None:
            false_triggers.append(number)
    n_failed = len(judged) - len(delays)
    return {
        "n_episodes": len(judged),
        "n_failed": n_failed,
        "n_successes": len(delays),
        **_measure_frames(judged, threshold),
        **_share("false_trigger", len(false_triggers), n_failed),
        **_measure_delays(delays, within_steps),
        "false_triggers": false_triggers,
    }


def _measure_frames(judged: Sequence[JudgedEpisode], threshold: float) -> Detection:
    scores = np.concatenate([episode.probabilities for episode in judged])
    labels = np.concatenate([episode.labels for episode in judged])
    above = scores.astype(np.float32) > np.float32(threshold)
    return {
        "n_frames": len(labels),
        "n_positive_frames": int(labels.sum()),
        "average_precision": compute_average_precision(scores, labels),
        "auroc": compute_auroc(scores, labels),
        "false_positive_rate": None if labels.all() else float(above[~labels].mean()),
        "recall": float(above[labels].mean()) if labels.any() else None,
    }


def _measure_delays(delays: dict[int, int | None], within_steps: int) -> Detection:
    early = [number for number, delay in delays.items() if delay is not None and delay < 0]
    late = [n for n, delay in delays.items() if delay is not None and delay > within_steps]
    missed = [number for number, delay in delays.items() if delay is None]
    n_found = len(delays) - len(early) - len(late) - len(missed)
    counts = {"early": len(early), "detected": n_found, "late": len(late), "missed": len(missed)}
    not_early = [delay for delay in delays.values() if delay is not None and delay >= 0]
    leads = [-delay for delay in delays.values() if delay is not None and delay < 0]
    shares = {f"{name}_share": c / len(delays) if delays else None for name, c in counts.items()}
    return {
        **shares,
        **_share("detected", n_found, len(delays)),
        **_share("near", n_found + sum(lead <= within_steps for lead in leads), len(delays)),
        "within_steps": within_steps,
        "median_delay_steps": float(np.median(not_early)) if not_early else None,
        "max_delay_steps": max(not_early, default=None),
        "max_lead_steps": max(leads, default=None),
        "early": early,
        "late": late,
        "missed": missed,
    }


def _share(name: str, count: int, n: int) -> Detection:
    low, high = wilson_interval(count, n) if n else (None, None)
    share = count / n if n else None
    return {f"{name}_share": share, f"{name}_low": low, f"{name}_high": high}


def _read(dataset: EpisodeDataset, index: int, keys: tuple[str, ...]) -> Episode:
    """Read images, and the truth where it is an observation of its own."""
    try:
        return dataset.read(index, (*keys, SUCCESS_KEY))
    except ValueError:
        return dataset.read(index, keys)


def _find_labels(episode: Episode, index: int) -> np.ndarray:
    labels = episode.rewards
    if SUCCESS_KEY in episode.observations:
        return episode.observations[SUCCESS_KEY][1:] >= 0.5
    if not np.isin(labels, (0, 1)).all():
        wrong = labels[~np.isin(labels, (0, 1))][0]
        raise ValueError(
            f"Expected rewards of 0 and 1, or an observation {SUCCESS_KEY!r}, in episode {index}, "
            f"got a reward of {wrong:g}. Success must be known at each step."
        )
    return labels == 1
