import pytest
import yaml

from libero_reward_envs.agent_config import (
    TrainAgentConfig,
    describe_config,
    load_agent_config,
    parse_agent_config,
)

# The blocks of the requirement, letter by letter.
STAGE_1 = """
reward:
  group_name: "RewardGroup"
  use_reward_model: False  # Disabled during data collection
  collect_data: True  # Enable data collection
  reward_model:
    # These settings are not used during data collection, but should match actor settings
    image_keys: ["base_camera"]
    image_size: [3, 64, 64]
  data_collection:
    # Directory to save positive trajectories (success_once=1 or any success_frame>=0.5)
    positive_dir: "./reward_data/positive"
    # Directory to save negative trajectories (success_once=0 and all success_frame<0.5)
    negative_dir: "./reward_data/negative"
    # Image keys to collect (must match actor.model.image_keys)
    image_keys: ["base_camera"]
    # Maximum number of trajectories to save (None = unlimited)
    max_positive_trajectories: 500
    max_negative_trajectories: 500
"""
STAGE_3 = """
reward:
  group_name: "RewardGroup"
  use_reward_model: True  # Enable reward model
  collect_data: False  # Disable data collection during policy training
  reward_model:
    # Path to trained reward model checkpoint
    checkpoint_path: "./checkpoints/reward_model.pt"
    # Image keys to use (must match actor.model.image_keys)
    image_keys: ["base_camera"]
    # Image size [C, H, W] (must match actor.model.image_size)
    image_size: [3, 64, 64]
    # Hidden dimension for classifier (must match training config)
    hidden_dim: 256
    # Number of spatial blocks for pooling (must match training config)
    num_spatial_blocks: 8
    # Path to pretrained ResNet10 encoder weights (optional, used during model creation)
    pretrained_encoder_path: "./resnet10_pretrained.pt"
    # Whether to use pretrained encoder (must match training config)
    use_pretrain: True
    # Whether to freeze encoder weights (typically True)
    freeze_encoder: True
    # Reward type: "binary" (0 or 1) or "continuous" (probability)
    reward_type: "binary"
"""
FULL = """
env: {id: Libero-v0, suite: libero_object, task: 0, obs_type: pixels, cameras: [agentview],
      image_size: 64, n_envs: 2, max_episode_steps: 200}
agent: {algorithm: PPO, policy: MultiInputPolicy, total_timesteps: 20000, seed: 3, n_steps: 64,
        learning_rate: 1e-4, device: cpu}
reward:
  reward_model: {mode: success, env_weight: 2, success_window: [1, 2], success_threshold: 0.8}
evaluation: {episodes: 0}
checkpoints: {save_freq: None, keep: 3}
out: runs/x
"""


def load(tmp_path, text, *overrides):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return load_agent_config(path, overrides)


def test_the_requirements_first_stage_is_understood(tmp_path):
    config = load(tmp_path, STAGE_1)
    assert (config.reward.collect_data, config.reward.use_reward_model) == (True, False)
    assert config.reward.data_collection.max_positive_trajectories == 500
    assert config.reward.data_collection.image_keys == ("base_camera",)
    assert config.env.id == "Libero-v0"


def test_the_requirements_command_turns_the_first_stage_into_the_third(tmp_path):
    config = load(
        tmp_path,
        STAGE_1,
        "reward.use_reward_model=True",
        "reward.collect_data=False",
        "reward.reward_model.checkpoint_path=./checkpoints/reward_model.pt",
    )
    assert (config.reward.collect_data, config.reward.use_reward_model) == (False, True)
    assert config.reward.reward_model.checkpoint_path == "./checkpoints/reward_model.pt"


def test_the_requirements_third_stage_is_understood(tmp_path):
    model = load(tmp_path, STAGE_3).reward.reward_model
    assert (model.hidden_dim, model.num_spatial_blocks, model.reward_type) == (256, 8, "binary")
    assert (model.use_pretrain, model.freeze_encoder, model.mode) == (True, True, "replace")
    assert model.gamma is None  # the agent's


def test_a_whole_file_is_understood(tmp_path):
    config = load(tmp_path, FULL, "agent.total_timesteps=2000", "env.task=1", "out=runs/y")
    assert (config.env.n_envs, config.env.subprocesses) == (2, None)
    assert config.env.arguments["task"] == 1
    assert config.env.arguments["cameras"] == ["agentview"]
    assert (config.agent.algorithm, config.agent.total_timesteps) == ("PPO", 2000)
    assert config.agent.hyperparameters == {"n_steps": 64, "learning_rate": 1e-4}
    assert config.reward.reward_model.env_weight == 2.0
    assert config.reward.reward_model.success_window == (1, 2)
    assert (config.checkpoints.save_freq, config.checkpoints.keep) == (None, 3)
    assert config.out == "runs/y"


@pytest.mark.parametrize("text", [STAGE_1, STAGE_3, FULL])
def test_what_is_written_out_reads_back_as_the_same(tmp_path, text):
    config = load(tmp_path, text)
    again = load(tmp_path, yaml.safe_dump(describe_config(config)))
    assert again == config


def test_the_discount_is_the_agents():
    assert parse_agent_config({}).agent.gamma == 0.99
    assert parse_agent_config({"agent": {"gamma": 0.9}}).agent.gamma == 0.9
    assert parse_agent_config(None) == TrainAgentConfig()


def test_an_id_may_name_the_module_that_registers_it(tmp_path):
    known = load(tmp_path, FULL, "env.id=libero_reward_envs:Libero-v0")
    assert known.env.id == "libero_reward_envs:Libero-v0"
    with pytest.raises(ValueError, match=r"Unknown key `env\.tsk`"):
        load(tmp_path, FULL, "env.id=libero_reward_envs:Libero-v0", "env.tsk=1")
    with pytest.raises(ImportError, match="nowhere"):
        load(tmp_path, FULL, "env.id=nowhere:Libero-v0")
    other = {"env": {"id": "Pendulum-v1", "g": 9.8}, "agent": {"policy": "MlpPolicy"}}
    assert parse_agent_config(other).env.arguments == {"g": 9.8}
    with pytest.raises(ValueError, match=r"Unknown key `env\.suite`"):
        parse_agent_config(other, ["env.suite=libero_goal"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("env.tsk=1", r"Unknown key `env\.tsk`\. Did you mean 'task'"),
        ("env.seed=1", r"Unknown key `env\.seed`"),
        ("env.id=Nowhere-v0", r"Unknown environment 'Nowhere-v0'"),
        ("env.n_envs=0", r"`env\.n_envs` must be at least 1"),
        ("agent.algorithm=DQN", r"one of SAC, PPO for `agent\.algorithm`, got 'DQN'"),
        ("agent.buffer_sise=10", r"Unknown key `agent\.buffer_sise`"),
        ("agent.n_step=10", r"Did you mean 'n_steps'"),
        ("agent.env=1", r"Unknown key `agent\.env`"),
        ("agent.rollout_buffer_class=x", r"Unknown key `agent\.rollout"),
        ("agent.total_timesteps=0", r"`agent\.total_timesteps` must be at least 1"),
        ("agent.total_timesteps=1.5", r"Expected int for `agent\.total_timesteps`"),
        ("agent.hyperparameters={a: 1}", r"Unknown key `agent\.hyperparameters`"),
        ("reward.reward_model.mod=mix", r"Did you mean 'mode'"),
        ("reward.reward_model.mode=best", "one of replace, mix, terminal, success, difference"),
        ("reward.reward_model.gamma=2", r"`reward\.reward_model\.gamma` must be in \[0, 1\]"),
        ("reward.reward_model.success_window=[3, 2]", r"as \[k, n\]"),
        ("reward.reward_model.step_cost=.inf", "must be finite"),
        ("reward.use_reward_model=True", r"reward_model\.checkpoint_path` is missing"),
        ("evaluation.episodes=-1", r"`evaluation\.episodes` must be at least 0"),
        ("checkpoints.save_freq=0", r"`checkpoints\.save_freq` must be at least 1"),
        ("rewards.use_reward_model=True", "First may come: env, agent, reward"),
    ],
)
def test_mistakes_are_named(tmp_path, override, message):
    with pytest.raises(ValueError, match=message):
        load(tmp_path, FULL, override)


def test_an_unknown_block_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"Unknown key `rewards`\. Did you mean 'reward'"):
        load(tmp_path, FULL.replace("reward:", "rewards:"))
