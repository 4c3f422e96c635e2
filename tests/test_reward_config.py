import pytest

from libero_reward_envs.reward_config import RewardConfig, load_reward_config, parse_reward_config

COLLECT = """
actor:
  anything: [1, 2]
reward:
  group_name: "RewardGroup"
  use_reward_model: False
  collect_data: True
  reward_model:
    image_keys: ["base_camera"]
    image_size: [3, 64, 64]
  data_collection:
    positive_dir: "./reward_data/positive"
    negative_dir: "./reward_data/negative"
    image_keys: ["base_camera"]
    max_positive_trajectories: 500
    max_negative_trajectories: None
"""
USE = """
reward:
  group_name: "RewardGroup"
  use_reward_model: True
  collect_data: False
  reward_model:
    checkpoint_path: "./checkpoints/reward_model.pt"
    image_keys: ["base_camera"]
    image_size: [3, 64, 64]
    hidden_dim: 256
    num_spatial_blocks: 8
    pretrained_encoder_path: "./resnet10_pretrained.pt"
    use_pretrain: True
    freeze_encoder: True
    reward_type: "binary"
"""


def write(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


def test_the_collection_block_of_the_requirement_is_read(tmp_path):
    config = load_reward_config(write(tmp_path, COLLECT))
    assert (config.collect_data, config.use_reward_model) == (True, False)
    collection = config.data_collection
    assert collection.positive_dir == "./reward_data/positive"
    assert collection.negative_dir == "./reward_data/negative"
    assert collection.image_keys == ("base_camera",)
    assert collection.max_positive_trajectories == 500
    assert collection.max_negative_trajectories is None
    assert config.reward_model.image_size == (3, 64, 64)


def test_the_model_block_of_the_requirement_is_read(tmp_path):
    model = load_reward_config(write(tmp_path, USE)).reward_model
    assert model.checkpoint_path == "./checkpoints/reward_model.pt"
    assert (model.hidden_dim, model.num_spatial_blocks) == (256, 8)
    assert model.pretrained_encoder_path == "./resnet10_pretrained.pt"
    assert (model.use_pretrain, model.freeze_encoder, model.reward_type) == (True, True, "binary")


def test_nothing_said_is_none():
    config = parse_reward_config({"reward": None})
    assert config == RewardConfig()
    assert config.reward_model.hidden_dim is None


def test_the_command_line_wins(tmp_path):
    overrides = [
        "reward.collect_data=False",
        "reward.data_collection.max_positive_trajectories=null",
        "reward.reward_model.image_keys=[a, b]",
    ]
    path = write(tmp_path, COLLECT)
    config = load_reward_config(path, overrides)
    assert not config.collect_data
    assert config.data_collection.max_positive_trajectories is None
    assert config.reward_model.image_keys == ("a", "b")
    assert load_reward_config(path).collect_data


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("collect_data", "colect_data", r"`reward\.colect_data`. Did you mean 'collect_data'"),
        ("positive_dir", "folder", r"`reward\.data_collection\.folder`. Known are: positive_dir"),
        ("collect_data: True", "collect_data: 1", "Expected bool .*got 1"),
        (": 500", ": 5.5", "Expected int .*max_positive_trajectories.*5.5"),
        (": 500", ": True", "Expected int"),
        (": 500", ": -1", "at least 0, got -1"),
        ('["base_camera"]\n    max', "base_camera\n    max", "Expected a list .*'base_camera'"),
        ("[3, 64, 64]", "[64, 64]", r"image_size` as \[C, H, W\], got \[64, 64\]"),
        (
            '    positive_dir: "./reward_data/positive"\n',
            "",
            r"data_collection\.positive_dir` is mi",
        ),
        ("reward:", "rewards:", "`reward:` block"),
        ("reward:", "reward: [", "as YAML"),
        ("group_name", "!!python/object/apply:os.system [id]\n  group_name", "as YAML"),
    ],
)
def test_mistakes_are_named(tmp_path, old, new, message):
    assert old in COLLECT
    with pytest.raises(ValueError, match=message):
        load_reward_config(write(tmp_path, COLLECT.replace(old, new, 1)))


def test_a_reward_model_needs_its_checkpoint_and_a_known_type(tmp_path):
    with pytest.raises(ValueError, match=r"reward_model\.checkpoint_path` is missing"):
        load_reward_config(write(tmp_path, USE.replace("checkpoint_path", "#")))
    with pytest.raises(ValueError, match=r"binary, continuous .*'dense'"):
        load_reward_config(write(tmp_path, USE.replace('"binary"', "dense")))


@pytest.mark.parametrize("override", ["collect_data=True", "reward.collect_data", "reward.=1"])
def test_overrides_that_are_none_are_refused(override):
    with pytest.raises(ValueError, match="Expected 'reward"):
        parse_reward_config({"reward": {}}, [override])
