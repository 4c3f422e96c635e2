from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from libero_reward_envs.data.episodes import Episode
from libero_reward_envs.reward_models.base import Transitions, load_reward_model
from libero_reward_envs.reward_models.checks import check_reward_model
from libero_reward_envs.reward_models.openvla_reward_net import (
    LANGUAGE_KEY,
    VISION_KEY,
    OpenVLARewardNet,
)
from libero_reward_envs.reward_models.rrd import fit_rrd
from libero_reward_envs.reward_models.rrd_model import RRDRewardModel

POOLED = {LANGUAGE_KEY: (5,), VISION_KEY: (6,)}
UNPOOLED = {LANGUAGE_KEY: (3, 5), VISION_KEY: (4, 6)}


def make_transitions(shapes: dict[str, tuple[int, ...]], n: int = 7, seed: int = 0) -> Transitions:
    rng = np.random.default_rng(seed)
    first, second = (
        {key: rng.normal(size=(n, *shape)).astype(np.float32) for key, shape in shapes.items()}
        for _ in range(2)
    )
    actions = rng.uniform(-1, 1, (n, 2)).astype(np.float32)
    return Transitions(first, actions, second, np.zeros(n, bool))


def make_model(shapes: dict[str, tuple[int, ...]], **kwargs: Any) -> RRDRewardModel:
    return RRDRewardModel(shapes, 2, architecture="openvla", hidden_sizes=(8, 8), **kwargs)


def make_episodes(n_episodes: int = 12, n_steps: int = 10) -> list[Episode]:
    """Vision features drift one way in half of the episodes, which are the successes."""
    rng = np.random.default_rng(1)
    episodes = []
    for index in range(n_episodes):
        success = index % 2 == 0
        drift = np.linspace(0, 1 if success else -1, n_steps + 1)[:, None]
        observations = {
            LANGUAGE_KEY: np.ones((n_steps + 1, 5), np.float32),
            VISION_KEY: (drift + 0.1 * rng.normal(size=(n_steps + 1, 6))).astype(np.float32),
        }
        rewards = np.zeros(n_steps)
        rewards[-1] = success
        actions = rng.uniform(-1, 1, (n_steps, 2))
        episodes.append(
            Episode(observations, actions, rewards, terminated=success, success=success)
        )
    return episodes


def test_it_computes_what_the_drawing_says() -> None:
    shapes = {LANGUAGE_KEY: (1,), VISION_KEY: (2,)}
    net = OpenVLARewardNet(shapes, 1, (2,), False, torch.Generator())
    weights = {
        "language.weight": [[2.0]],
        "vision.weight": [[1.0, -1.0]],
        "layers.0.weight": [[1.0, 2, 3, 4, 5], [0.0, 0, 0, 0, -1]],
        "layers.2.weight": [[1.0, 10.0]],
    }
    net.load_state_dict({**net.state_dict(), **{k: torch.tensor(v) for k, v in weights.items()}})
    with torch.no_grad():
        reward = net(
            {LANGUAGE_KEY: torch.tensor([[1.0]]), VISION_KEY: torch.tensor([[3.0, 1.0]])},
            torch.tensor([[0.5]]),
            {LANGUAGE_KEY: torch.tensor([[0.0]]), VISION_KEY: torch.tensor([[1.0, 0.0]])},
        )
    # l = 2, v = 2, l - l' = 2, v - v' = 1: 2 + 2*2 + 3*2 + 4*1 + 5*0.5, and relu(-0.5) = 0.
    assert reward.tolist() == [18.5]


def test_tokens_and_patches_are_averaged() -> None:
    unpooled = make_transitions(UNPOOLED)
    pooled = unpooled._replace(
        observations={key: value.mean(1) for key, value in unpooled.observations.items()},
        next_observations={key: value.mean(1) for key, value in unpooled.next_observations.items()},
    )
    rewards = make_model(UNPOOLED).compute_reward(unpooled)
    np.testing.assert_allclose(rewards, make_model(POOLED).compute_reward(pooled), atol=1e-6)


def test_rows_that_fill_up_an_instruction_do_not_count() -> None:
    short = make_transitions(UNPOOLED)
    padded = [
        {**side, LANGUAGE_KEY: np.pad(side[LANGUAGE_KEY], ((0, 0), (0, 4), (0, 0)))}
        for side in (short.observations, short.next_observations)
    ]
    longer = short._replace(observations=padded[0], next_observations=padded[1])
    rewards = make_model({**UNPOOLED, LANGUAGE_KEY: (7, 5)}).compute_reward(longer)
    np.testing.assert_allclose(rewards, make_model(UNPOOLED).compute_reward(short), atol=1e-6)


def test_it_is_a_reward_model(tmp_path: Path) -> None:
    check_reward_model(make_model(POOLED, reward_offset=0.5), make_transitions(POOLED), tmp_path)


def test_a_saved_model_is_the_same_network(tmp_path: Path) -> None:
    model = make_model(UNPOOLED, seed=3)
    model.save_pretrained(tmp_path)
    loaded = load_reward_model(tmp_path)
    assert isinstance(loaded, RRDRewardModel)
    assert isinstance(loaded.network, OpenVLARewardNet)
    transitions = make_transitions(UNPOOLED)
    np.testing.assert_array_equal(
        loaded.compute_reward(transitions), model.compute_reward(transitions)
    )


@pytest.mark.parametrize(
    "method",
    [
        {},
        {"bias_correction": True},
        {"variance_weight": 0.5},
        {"steps_per_episode": None},
        {"scale": "return"},
    ],
    ids=["rrd", "bias corrected", "variance weight", "L-RD", "return scale"],
)
def test_every_loss_trains_it(method: dict[str, Any]) -> None:
    episodes = make_episodes()
    model = fit_rrd(
        episodes,
        observation_keys=(LANGUAGE_KEY, VISION_KEY),
        architecture="openvla",
        hidden_sizes=(16, 16),
        n_steps=300,
        **{"steps_per_episode": 5, "learning_rate": 3e-3, **method},
    )
    sums = [model.compute_reward(episode.transitions()).sum() for episode in make_episodes()]
    assert min(sums[::2]) > max(sums[1::2])


def test_features_that_never_vary_do_not_become_loud() -> None:
    net = make_model(POOLED).network
    states = torch.randn(50, 11, generator=torch.Generator().manual_seed(0))
    states[:, :5] = 0.25  # one instruction
    states[:, 5] *= 1e-6  # a dead channel beside channels that vary
    net.set_normalization(states, 0.01)
    assert net.state_std[:5].tolist() == [1.0] * 5
    assert net.state_std[5] > 0.005
    torch.testing.assert_close(net.state_std[6:], states[:, 6:].std(0, correction=0))


def test_other_observations_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Expected the observations 'openvla/language' and"):
        make_model({VISION_KEY: (6,), "state": (3,)})


def test_a_network_without_hidden_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one hidden layer"):
        RRDRewardModel(POOLED, 2, architecture="openvla", hidden_sizes=())


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(ValueError, match="Choose one of: mlp, openvla"):
        RRDRewardModel(POOLED, 2, architecture="mpl")
