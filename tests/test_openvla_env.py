"""`LiberoOpenVLA-v0`, from episodes with images to an agent, with the tiny model."""

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from stable_baselines3 import SAC
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

import libero_reward_envs
from libero_reward_envs.cli.main import main
from libero_reward_envs.data import Episode, EpisodeDataset, EpisodeWriter, load_episodes
from libero_reward_envs.encoders.dataset import encode_dataset
from libero_reward_envs.encoders.openvla_record import RECORD_KEY, load_recorded_encoders
from libero_reward_envs.evaluation.annotation import apply_annotations
from libero_reward_envs.factory import make_vec_env
from libero_reward_envs.openvla.tiny import TINY_OPENVLA
from libero_reward_envs.reward_models.base import Transitions, load_reward_model
from libero_reward_envs.reward_models.feature_classifier import FeatureClassifierRewardModel
from libero_reward_envs.reward_models.openvla_reward_net import LANGUAGE_KEY, VISION_KEY
from libero_reward_envs.reward_models.rrd_model import RRDRewardModel

libero_reward_envs.register_envs()

SIZE = 32
TASK = "libero_object/pick_up_the_alphabet_soup_and_place_it_in_the_basket"
KEYWORDS: dict[str, Any] = {"assets": "builtin", "settle_steps": 2}


def make_episode(seed: int) -> Episode:
    """Successes grow bright at their end; the first half of the seeds are successes."""
    rng = np.random.default_rng(seed)
    n_steps, success = 8, seed % 2 == 0
    images = rng.integers(0, 60, (n_steps + 1, SIZE, SIZE, 3), dtype=np.uint8)
    rewards = np.zeros(n_steps)
    if success:
        images[-2:] += 180
        rewards[-2:] = 1
    return Episode(
        {"agentview_image": images, "state": rng.normal(size=(n_steps + 1, 4)).astype(np.float32)},
        rng.uniform(-1, 1, (n_steps, 7)),
        rewards,
        terminated=False,
        success=success,
        task=TASK,
        instruction="pick up the alphabet soup and place it in the basket",
        metadata={"orientation": "upright"},
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "episodes.h5"
    with EpisodeWriter(path) as writer:
        for seed in range(16):
            writer.append(make_episode(seed))
    return path


def train(data: Path, out: Path, *words: str) -> Path:
    flags = f"--use_openvla_features --openvla_model {TINY_OPENVLA} --openvla_reward_hidden_dim 16"
    schedule = "--steps 30 --rrd_sample_size 4 --rrd_batch_size 16"
    main(
        [
            "train-rrd",
            "--data",
            str(data),
            "--out",
            str(out),
            *f"{flags} {schedule}".split(),
            *words,
        ]
    )
    return out


@pytest.fixture(scope="module")
def rrd(data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(train(data, tmp_path_factory.mktemp("rrd")))


@pytest.fixture(scope="module")
def env(rrd: str):
    env = gym.make("LiberoOpenVLA-v0", suite="libero_object", reward_model=rrd, **KEYWORDS)
    yield env
    env.close()


def test_the_saved_model_says_how_its_features_were_made(rrd: str) -> None:
    model = load_reward_model(rrd)
    assert isinstance(model, RRDRewardModel)
    assert model.architecture == "openvla"
    assert model.hidden_sizes == (16, 16)  # two hidden layers and the one that puts out the reward
    record = model.training[RECORD_KEY]
    assert record["checkpoint"] == TINY_OPENVLA
    assert record["image_sizes"] == {"agentview_image": [SIZE, SIZE]}
    json.dumps(record)


def test_rewards_are_those_of_the_features_of_the_images(env: gym.Env, rrd: str) -> None:
    observation, _ = env.reset(seed=0)
    assert sorted(observation) == [LANGUAGE_KEY, VISION_KEY, "state"]
    model: Any = load_reward_model(rrd)
    env.action_space.seed(0)
    for _ in range(3):
        action = env.action_space.sample()
        following, reward, *_ = env.step(action)
        rows = [
            {key: value[None] for key, value in side.items()} for side in (observation, following)
        ]
        transitions = Transitions(rows[0], action[None], rows[1], np.zeros(1, bool))
        assert reward == model.compute_reward(transitions)[0]
        observation = following


def test_features_online_are_those_of_the_dataset(env: gym.Env, rrd: str) -> None:
    pixels = gym.make(
        "Libero-v0", suite="libero_object", obs_type="pixels", image_size=SIZE, **KEYWORDS
    )
    images, info = pixels.reset(seed=0)
    pixels.close()
    pair = {"agentview_image": np.stack([images["agentview_image"]] * 2)}
    episode = Episode(
        pair, np.zeros((1, 7)), np.zeros(1), terminated=False, success=False,
        instruction=info["instruction"], metadata={"orientation": "upright"},
    )  # fmt: skip
    encoders = load_recorded_encoders(load_reward_model(rrd).training[RECORD_KEY])  # pyright: ignore[reportAttributeAccessIssue]
    [encoded] = encode_dataset(EpisodeDataset([episode]), encoders)
    observation, _ = env.reset(seed=0)
    for key in (LANGUAGE_KEY, VISION_KEY):
        np.testing.assert_array_equal(observation[key], encoded.observations[key][0])
        assert (observation[key] == observation[key].astype(np.float16)).all()  # as if kept on disk


def test_it_passes_the_checks_of_gymnasium_and_stable_baselines3(env: gym.Env) -> None:
    check_env(env.unwrapped, skip_render_check=True)
    check_env_for_sb3(env, warn=False)


def test_the_spec_makes_the_env_again(env: gym.Env, rrd: str) -> None:
    assert env.spec is not None
    spec = EnvSpec.from_json(env.spec.to_json())
    assert spec.kwargs["reward_model"] == rrd
    again = gym.make(spec)
    assert again.observation_space == env.observation_space
    again.close()


def test_sac_trains_on_it(rrd: str) -> None:
    env = gym.make(
        "LiberoOpenVLA-v0", suite="libero_object", reward_model=rrd, max_episode_steps=5, **KEYWORDS
    )
    agent = SAC("MultiInputPolicy", env, learning_starts=5, batch_size=4, buffer_size=50, seed=0)
    agent.learn(12)
    assert agent.replay_buffer is not None
    rewards = agent.replay_buffer.rewards[:12]
    assert len(np.unique(rewards)) > 6
    env.close()


def test_envs_of_a_vector_share_one_model(rrd: str) -> None:
    venv = make_vec_env(
        "Libero-v0",
        2,
        seed=0,
        subprocesses=False,
        suite="libero_object",
        reward_model=rrd,
        **KEYWORDS,
    )
    observations = venv.reset()
    assert isinstance(observations, dict)
    assert observations[VISION_KEY].shape[0] == 2
    _, rewards, _, infos = venv.step(np.zeros((2, 7), np.float32))
    assert [info["reward/model"] for info in infos] == pytest.approx(rewards.tolist())
    venv.close()


@pytest.fixture(scope="module")
def classifier(data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("models") / "classifier"
    flags = f"--use-openvla-features --openvla-model {TINY_OPENVLA} --openvla-reward-hidden-dim 16"
    files = ["--data", str(data), "--output-checkpoint", f"{out}.pt"]
    main(["train-classifier", *files, *f"{flags} --epochs 20 --lr 0.003".split()])
    return str(out)


def test_a_classifier_learns_success_from_features(classifier: str) -> None:
    model = load_reward_model(classifier)
    assert isinstance(model, FeatureClassifierRewardModel)
    assert model.training["quality"]["average_precision"] == 1.0  # brightness tells it
    assert (Path(classifier) / "curves.csv").read_text().count("\n") == 21
    keywords = {"reward_model": classifier, "reward_type": "continuous", **KEYWORDS}
    env = gym.make("LiberoOpenVLA-v0", suite="libero_object", **keywords)
    env.reset(seed=0)
    reward = env.step(np.zeros(7, np.float32))[1]
    assert 0 < float(reward) < 1
    env.close()


def test_features_are_computed_once(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = str(tmp_path / "features")
    train(data, tmp_path / "first", "--feature_cache", cache)
    assert "Features of 144 frames, 144 of them new" in capsys.readouterr().out
    train(data, tmp_path / "second", "--feature_cache", cache)
    assert "Features of 144 frames, 0 of them new" in capsys.readouterr().out
    first, second = (tmp_path / name / "model.safetensors" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task_description", "x"], "without --use-openvla-features"),
        (["--use_openvla_features"], "Expected --openvla-model"),
        (
            ["--use_openvla_features", "--openvla_model", "a", "--openvla_processor", "b"],
            "belong to the weights",
        ),
        (
            ["--use_openvla_features", "--openvla_model", "a", "--observation_keys", "x"],
            "Leave --observation-keys out",
        ),
        (
            ["--use_openvla_features", "--openvla_model", "a", "--openvla_reward_num_layers", "1"],
            "at least 2",
        ),
        (["--use_openvla_features", "--openvla_model", "/nowhere/at/all"], "/nowhere/at/all"),
    ],
)
def test_flags_that_cannot_be_followed_are_refused(
    data: Path, tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["train-rrd", "--data", str(data), "--out", str(tmp_path / "out"), *words])
    assert message in capsys.readouterr().err


def test_a_reward_model_of_another_kind_is_refused() -> None:
    from libero_reward_envs.factory import PRETRAINED_FOLDER

    other = next((PRETRAINED_FOLDER / "rrd").glob("*/*/config.json")).parent
    with pytest.raises(ValueError, match="reads none"):
        gym.make("LiberoOpenVLA-v0", reward_model=str(other))
    with pytest.raises(ValueError, match=r"(?s)Expected a reward model .* --use-openvla-features"):
        gym.make("LiberoOpenVLA-v0")


def test_features_of_another_checkpoint_are_refused(rrd: str, tmp_path: Path) -> None:
    from libero_reward_envs.openvla.tiny import make_tiny_openvla

    make_tiny_openvla(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match="those that the reward model was trained on"):
        gym.make("LiberoOpenVLA-v0", reward_model=rrd, features=str(tmp_path / "other"), **KEYWORDS)


def test_images_of_another_size_are_refused(rrd: str) -> None:
    with pytest.raises(ValueError, match="reward model was trained with image_size=32, got 64"):
        gym.make("LiberoOpenVLA-v0", reward_model=rrd, image_size=64, **KEYWORDS)


def test_several_envs_that_each_load_openvla_are_refused(rrd: str) -> None:
    for name in ("LiberoOpenVLA-v0", "libero_reward_envs:LiberoOpenVLA-v0"):
        for given in (None, rrd):
            with pytest.raises(ValueError, match="the model then runs once on the whole batch"):
                make_vec_env(name, 2, suite="libero_object", reward_model=given, **KEYWORDS)


def test_a_reward_model_may_be_a_torch_module(monkeypatch: pytest.MonkeyPatch) -> None:
    class Module(torch.nn.Module):
        observation_keys = ("state",)

        def compute_reward(self, transitions: Transitions) -> np.ndarray:
            return np.ones(len(transitions.actions), np.float32)

    keywords = {"suite": "libero_object", "subprocesses": False, **KEYWORDS}
    venv = make_vec_env("Libero-v0", 1, seed=0, reward_model=Module(), **keywords)
    venv.reset()
    assert venv.step(np.zeros((1, 7), np.float32))[1].tolist() == [1.0]
    venv.close()
    with pytest.raises(ValueError, match="for a reward model on OpenVLA's features"):
        make_vec_env("Libero-v0", 1, reward_model=Module(), device="cuda", **keywords)


def test_several_frames_of_success_can_be_seen(classifier: str) -> None:
    env = gym.make(
        "LiberoOpenVLA-v0",
        suite="libero_object",
        reward_model=classifier,
        mode="success",
        **KEYWORDS,
    )
    assert env.unwrapped.terminate_on_success is False  # pyright: ignore[reportAttributeAccessIssue]
    env.close()
    with pytest.raises(ValueError, match="the env would end before success is seen"):
        gym.make(
            "LiberoOpenVLA-v0", reward_model=classifier, mode="success", terminate_on_success=True
        )


@pytest.mark.parametrize("mode", ["difference", "potential"])
def test_a_model_of_transitions_scores_no_observations(classifier: str, mode: str) -> None:
    env = gym.make(
        "LiberoOpenVLA-v0", suite="libero_object", reward_model=classifier, mode=mode, **KEYWORDS
    )
    env.reset(seed=0)
    with pytest.raises(ValueError, match="reads the action or the observation before too"):
        env.step(np.zeros(7, np.float32))
    env.close()


def test_annotations_are_the_rewards_of_the_model(data: Path, rrd: str, tmp_path: Path) -> None:
    out = tmp_path / "rewards.safetensors"
    main(["annotate", str(data), "--reward-model", rrd, "--out", str(out)])
    model: Any = load_reward_model(rrd)
    encoders = load_recorded_encoders(model.training[RECORD_KEY])
    encoded = encode_dataset(load_episodes(data), encoders)
    annotated = apply_annotations(encoded, out)
    for index in range(3):
        expected = model.compute_reward(encoded[index].transitions())
        np.testing.assert_allclose(annotated[index].rewards, expected, atol=1e-6)


def test_random_weights_are_named_where_figures_stand(rrd: str) -> None:
    assert "random weights" in (Path(rrd) / "README.md").read_text()
