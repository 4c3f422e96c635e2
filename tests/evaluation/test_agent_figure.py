"""The figure of an agent's training."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from libero_reward_envs.evaluation.agent_figure import draw_agent_training

N = 60


def make_episodes(n: int = N, **changes: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    success = (np.arange(n) > n / 2).astype(float)
    model = 10 * rng.random(n)
    episodes = {
        "step": 100.0 * np.arange(1, n + 1),
        "env": np.zeros(n),
        "length": np.full(n, 100.0),
        "env_return": success,
        "model_return": model,
        "total_return": model - 1,
        "changed_steps": np.full(n, 100.0),
        "success": success,
        "predicted_success": np.ones(n),
    }
    return {**episodes, **{name: np.full(n, value) for name, value in changes.items()}}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The axis and the label of each curve."""
    seen: list[tuple[str, str]] = []
    original = Axes.legend

    def legend(self: Axes, *args: Any, **kwargs: Any) -> Any:
        seen.extend((self.get_ylabel(), str(line.get_label())) for line in self.get_lines())
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Axes, "legend", legend)
    return seen


def test_true_and_learned_returns_have_plots_of_their_own(tmp_path: Path, drawn) -> None:
    draw_agent_training(tmp_path / "curves.png", make_episodes(), "SAC")
    assert drawn == [
        ("episodes with success, %", "true"),
        ("episodes with success, %", "seen by the model"),
        ("true return of an episode", "the env's own reward"),
        ("learned return of an episode", "reward model"),
        ("return for the agent", "after mode and weights"),
    ]
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size[0] > 2 * picture.size[1]
        assert np.asarray(picture).std() > 10


def test_what_is_not_known_is_not_drawn(tmp_path: Path, drawn) -> None:
    episodes = make_episodes(model_return=np.nan, predicted_success=np.nan)
    draw_agent_training(tmp_path / "curves.png", episodes, "PPO")
    assert [label for _, label in drawn] == ["true", "the env's own reward"]


def test_a_reward_that_is_the_models_is_drawn_once(tmp_path: Path, drawn) -> None:
    draw_agent_training(tmp_path / "curves.png", make_episodes(model_return=1, total_return=1), "A")
    assert [label for _, label in drawn][2:] == ["the env's own reward", "reward model"]


@pytest.mark.parametrize("n", [0, 1])
def test_hardly_any_episodes_are_drawn_too(tmp_path: Path, n: int) -> None:
    draw_agent_training(tmp_path / "curves.png", make_episodes(n), "PPO")
    assert (tmp_path / "curves.png").stat().st_size > 5_000
