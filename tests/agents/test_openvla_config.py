from pathlib import Path

import pytest
import yaml

from libero_reward_envs.agents.openvla_config import (
    FinetuneConfig,
    describe_finetune_config,
    load_finetune_config,
    parse_finetune_config,
)

EXAMPLES = Path(__file__).parents[2] / "examples" / "openvla_policy"


def test_the_first_published_file_is_understood_as_printed() -> None:
    config, notes = load_finetune_config(EXAMPLES / "openvla.yaml", ["model=tiny-random-openvla"])
    assert config.model == "tiny-random-openvla"
    assert (config.lora_r, config.lora_alpha, config.lora_dropout) == (16, 32, 0.1)
    assert (config.training_mode, config.use_quantization) == ("lora", False)
    assert (config.max_length, config.action_dim, config.camera_names) == (2048, 14, ("primary",))
    told = [note.split("`")[1] for note in notes]
    assert told == [
        *("name", "module_path", "config_class", "model_class"),
        *("pretrained_config.is_pretrained", "config_params.state_dim"),
    ]


def test_the_second_published_file_is_understood_as_printed() -> None:
    config, notes = load_finetune_config(EXAMPLES / "robot_openvla.yaml")
    assert config.model == "openvla/openvla-7b"
    assert (config.training_mode, config.lora_r, config.lora_alpha) == ("lora", 32, 64)
    assert (config.num_epochs, config.batch_size, config.checkpoint_every) == (300, 16, 50)
    assert (config.peak_learning_rate, config.dtype) == (5e-4, "bfloat16")
    assert (config.image_aug, config.augment_crop_ratio) == (True, 0.9)
    assert notes == []


def test_less_memory_as_the_second_one_advises() -> None:
    document = {
        "dataloader": {"batch_size": 8},
        "training": {"num_epochs": 1, "gradient_accumulate_every": 2},
    }
    config, _ = parse_finetune_config(document)
    assert (config.batch_size, config.gradient_accumulate_every) == (8, 2)
    with pytest.raises(
        ValueError, match=r"`dataloader.batch_size` is 8 and `training.batch_size` is 16"
    ):
        parse_finetune_config({**document, "training": {"batch_size": 16}})


def test_later_values_win_under_any_of_their_names() -> None:
    document = {"config_params": {"lora_r": 16, "camera_names": ["primary"]}}
    overrides = ["lora_rank=8", "training.batch_size=4", "camera_names=[primary,wrist]", "lora_r=2"]
    config, _ = parse_finetune_config(document, [*overrides, "data=a.h5", "report_to=[]"])
    assert (config.lora_r, config.batch_size) == (2, 4)
    assert config.camera_names == ("primary", "wrist")
    assert (config.data, config.report_to) == (("a.h5",), ())


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"lora_rnak": 8}, "Unknown key `lora_rnak`. Did you mean 'lora_rank'"),
        ({"training": {"bacth_size": 8}}, "`training.bacth_size`. Did you mean 'batch_size'"),
        ({"use_quantization": True, "training_mode": "full"}, "cannot be trained"),
        ({"model": {"use_lora": False}, "use_quantization": True}, "cannot be trained"),
        ({"max_steps": 5, "num_epochs": 1}, "one of `max_steps` and `num_epochs`"),
        ({"training_mode": "qlora"}, "one of lora, full"),
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
        ({"batch_size": "8"}, "Expected int for `batch_size`"),
        ({"lora_dropout": 1.0}, r"`lora_dropout` must be in \[0, 1\)"),
        ({"learning_rate": 0}, "`learning_rate` must be above 0"),
        ({"report_to": ["wanbd"]}, "from tensorboard, wandb, trackio, got 'wanbd'"),
        ({"augment_crop_ratio": 1.5}, "augment_crop_ratio"),
        ({"orientation": "sideways"}, "upright, raw, vla180"),
        (["a"], "Expected a mapping"),
    ],
)
def test_what_cannot_be_followed_is_refused(document: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_finetune_config(document)


def test_the_written_settings_are_read_again() -> None:
    config, _ = parse_finetune_config({"data": ["a", "b"], "num_epochs": 2, "report_to": []})
    text = yaml.safe_dump(describe_finetune_config(config))
    assert parse_finetune_config(yaml.safe_load(text)) == (config, [])


def test_the_learning_rate_follows_the_mode() -> None:
    assert FinetuneConfig().peak_learning_rate == 5e-4
    assert FinetuneConfig(training_mode="full").peak_learning_rate == 2e-5
