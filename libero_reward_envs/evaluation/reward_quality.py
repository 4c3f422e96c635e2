"""How well a reward tells success from failure on episodes that it was not fitted to."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from libero_reward_envs.data.episodes import Episode, EpisodeDataset
from libero_reward_envs.reward_models import frame_scores
from libero_reward_envs.reward_models.base import RewardModel, check_rewards

Quality = dict[str, float | int | str | None]


@dataclasses.dataclass(frozen=True, eq=False)
class ScoredEpisode:
    """An episode's outcome, and what a reward model makes of it.

    Args:
        success: Whether the task was solved.
        true_return: Sum of the env's own rewards.
        rewards: The model's reward of each step, shape (T,), float32.
    """

    success: bool
    true_return: float
    rewards: np.ndarray

    def __len__(self) -> int:
        """The number of steps T."""
        return len(self.rewards)

    @property
    def predicted_return(self) -> float:
        """The undiscounted sum of the model's rewards."""
        return float(self.rewards.sum(dtype=np.float64))


def split_episodes(
    dataset: Sequence[Episode] | EpisodeDataset, holdout_fraction: float, rng: np.random.Generator
) -> tuple[EpisodeDataset, EpisodeDataset]:
    """Split whole episodes into those to fit and those held out, stratified by success.

    Of each outcome that occurs, both sides get at least one episode; otherwise the held-out share
    is the nearest to `holdout_fraction`.

    Returns:
        The episodes to fit and the held-out ones, views in the order of `dataset`.

    Raises:
        ValueError: If `holdout_fraction` is not between 0 and 1, there is no episode, or only one
            of an outcome.
    """
    if not 0 < holdout_fraction < 1:
        raise ValueError(f"`holdout_fraction` must be in (0, 1), got {holdout_fraction}.")
    if not isinstance(dataset, EpisodeDataset):
        dataset = EpisodeDataset(dataset)
    successes = np.array([summary.success for summary in dataset.summaries()], bool)
    if not len(successes):
        raise ValueError("Expected episodes to split, got an empty dataset.")
    held_out = np.zeros(len(successes), bool)
    for outcome, name in ((True, "successful"), (False, "failed")):
        members = np.flatnonzero(successes == outcome)
        if len(members) == 0:
            continue
        if len(members) == 1:
            raise ValueError(
                f"Expected at least two {name} episodes, one to fit and one to hold out, got one "
                f"among {len(successes)}. Collect more."
            )
        count = int(np.clip(round(holdout_fraction * len(members)), 1, len(members) - 1))
        held_out[rng.permutation(members)[:count]] = True
    return _select(dataset, ~held_out), _select(dataset, held_out)


def score_episodes(
    model: RewardModel, dataset: Sequence[Episode] | EpisodeDataset
) -> list[ScoredEpisode]:
    """Return the model's rewards of each episode.

    Raises:
        ValueError: If an observation is missing, or the model's rewards are not T finite numbers.
    """
    if not isinstance(dataset, EpisodeDataset):
        dataset = EpisodeDataset(dataset)
    scored = []
    for index in range(len(dataset)):
        episode = dataset.read(index, model.observation_keys)
        rewards = check_rewards(model.compute_reward(episode.transitions()), len(episode), model)
        scored.append(ScoredEpisode(episode.success, episode.episode_return, rewards))
    return scored


def judge_reward(model: RewardModel, dataset: Sequence[Episode] | EpisodeDataset) -> Quality:
    """Compare a reward with the true outcome of episodes that it was not fitted to.

    See `judge_scores` for the measures.
    """
    return judge_scores(score_episodes(model, dataset))


def judge_scores(scored: Sequence[ScoredEpisode]) -> Quality:
    """Measure how well predicted rewards agree with success and with the true return.

    An episode that succeeds ends, one that fails runs to its time limit, so the length of an
    episode alone tells them apart, and a reward below zero at every step gets that for free. Four
    groups of measures, each with the same two baselines, keep this in sight:

    - `return_`: of the predicted return as it is, length and all.
    - `mean_`: of the mean predicted reward per step, which an added constant does not change.
    - `matched_`: two episodes are compared over as many steps as the shorter one has. What the
      reward says about length, or any other use of the clock, cancels: a clock gets 0.5 exactly.
    - `clock_`: the return is a monotone function of the number of steps. Whether longer means
      better or worse is chosen on these very episodes, in the clock's favour.
    - `constant_`: every episode has the same return.

    `auroc` and `average_precision` are of success, ties counting half; `spearman` and `pearson` are
    with the true return; `pairwise_accuracy` is the share of pairs with different true returns
    that are ordered correctly. `within_episode_std` is the mean deviation of the reward within an
    episode, and `within_episode_share` the share of all variance that is within episodes: near
    zero, the reward is spread evenly and tells an agent nothing.

    Returns:
        The measures, as JSON would hold them. One that is not defined for these episodes is None,
        and "undefined" says why.

    Raises:
        ValueError: If there is no episode.
    """
    if not scored:
        raise ValueError("Expected episodes to judge the reward on, got none.")
    successes = np.array([episode.success for episode in scored], bool)
    true = np.array([episode.true_return for episode in scored])
    predicted = np.array([episode.predicted_return for episode in scored])
    lengths = np.array([len(episode) for episode in scored])
    means = predicted / lengths
    quality: Quality = {
        "n_episodes": len(scored),
        "n_successes": int(successes.sum()),
        "shortest_steps": int(lengths.min()),
        "longest_steps": int(lengths.max()),
        "return_auroc": compute_auroc(predicted, successes),
        "return_average_precision": compute_average_precision(predicted, successes),
        "return_spearman": compute_spearman(predicted, true),
        "return_pearson": compute_pearson(predicted, true),
        "return_pairwise_accuracy": _pairwise_accuracy(
            np.subtract.outer(predicted, predicted), true
        ),
        "mean_auroc": compute_auroc(means, successes),
        "mean_spearman": compute_spearman(means, true),
        **_judge_matched(scored, successes, true),
        **_judge_baselines(successes, true, lengths),
        **_judge_spread(scored),
    }
    reasons = _reasons(successes, true, quality)
    return {**quality, "undefined": reasons} if reasons else quality


def compute_auroc(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Return `frame_scores.compute_auroc`, or None if the labels are all the same."""
    labels = np.asarray(labels, bool)
    if labels.all() or not labels.any():
        return None
    return frame_scores.compute_auroc(np.asarray(scores), labels)


def compute_average_precision(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Return `frame_scores.compute_average_precision`, or None if no label is true."""
    labels = np.asarray(labels, bool)
    if not labels.any():
        return None
    return frame_scores.compute_average_precision(np.asarray(scores), labels)


def compute_spearman(a: np.ndarray, b: np.ndarray) -> float | None:
    """Return the rank correlation; None if either is constant."""
    from scipy.stats import rankdata

    return compute_pearson(rankdata(a), rankdata(b))


def compute_pearson(a: np.ndarray, b: np.ndarray) -> float | None:
    """Return the correlation; None if either is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.clip(np.corrcoef(a, b)[0, 1], -1.0, 1.0))


def compare_matched(rewards: Sequence[np.ndarray]) -> np.ndarray:
    """Return the differences of returns over as many steps as the shorter of two episodes has.

    Args:
        rewards: Rewards of each of n episodes, shapes (T_i,).

    Returns:
        Entry [i, j] is episode i's sum minus episode j's, shape (n, n).
    """
    lengths = np.array([len(episode) for episode in rewards])
    sums = np.zeros((len(rewards), lengths.max()))
    for row, episode in zip(sums, rewards, strict=True):
        row[: len(episode)] = np.cumsum(episode, dtype=np.float64)
    last = np.minimum.outer(lengths, lengths) - 1
    index = np.arange(len(rewards))
    return sums[index[:, None], last] - sums[index[None, :], last]


def _judge_matched(
    scored: Sequence[ScoredEpisode], successes: np.ndarray, true: np.ndarray
) -> Quality:
    quality: Quality = {}
    clock = [np.full(len(episode), -1.0) for episode in scored]
    for name, rewards in (("", [episode.rewards for episode in scored]), ("clock_", clock)):
        differences = compare_matched(rewards)
        pairs = differences[np.ix_(successes, ~successes)]
        quality[f"{name}matched_auroc"] = _share_above_zero(pairs)
        quality[f"{name}matched_pairwise_accuracy"] = _pairwise_accuracy(differences, true)
    return quality


def _judge_baselines(successes: np.ndarray, true: np.ndarray, lengths: np.ndarray) -> Quality:
    def best(measure: Callable[..., float | None], target: np.ndarray) -> float | None:
        found = [measure(sign * lengths, target) for sign in (-1, 1)]
        return max((value for value in found if value is not None), default=None)

    constant = np.zeros(len(lengths))
    return {
        "clock_auroc": best(compute_auroc, successes),
        "clock_average_precision": best(compute_average_precision, successes),
        "clock_spearman": best(compute_spearman, true),
        "constant_auroc": compute_auroc(constant, successes),
        "constant_average_precision": compute_average_precision(constant, successes),
        "constant_spearman": compute_spearman(constant, true),
    }


def _judge_spread(scored: Sequence[ScoredEpisode]) -> Quality:
    rewards = np.concatenate([episode.rewards for episode in scored]).astype(np.float64)
    within = np.concatenate(
        [episode.rewards.astype(np.float64) - episode.rewards.mean() for episode in scored]
    )
    total_variance = float(rewards.var())
    # Rounding leaves a variance of about 1e-16 of the squared size where all rewards are equal.
    is_constant = total_variance <= 1e-14 * max(float(np.square(rewards).mean()), 1e-300)
    return {
        "within_episode_std": float(np.mean([episode.rewards.std() for episode in scored])),
        "within_episode_share": None
        if is_constant
        else float(np.square(within).mean() / total_variance),
    }


def _pairwise_accuracy(differences: np.ndarray, true: np.ndarray) -> float | None:
    return _share_above_zero(differences[np.subtract.outer(true, true) > 0])


def _share_above_zero(differences: np.ndarray) -> float | None:
    if not differences.size:
        return None
    return float(((differences > 0) + 0.5 * (differences == 0)).mean())


def _reasons(successes: np.ndarray, true: np.ndarray, quality: Quality) -> str:
    reasons = []
    if successes.all() or not successes.any():
        kind = "successes" if successes.all() else "failures"
        reasons.append(f"all {len(successes)} episodes are {kind}")
    if np.ptp(true) == 0:
        reasons.append(f"every true return is {true[0]:g}")
    if quality["within_episode_share"] is None:
        reasons.append("every predicted reward is the same")
    return "; ".join(reasons)


def _select(dataset: EpisodeDataset, chosen: np.ndarray) -> EpisodeDataset:
    flags = iter(chosen.tolist())  # `filter` asks once for each episode, in order
    return dataset.filter(lambda _: next(flags))
