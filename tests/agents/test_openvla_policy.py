"""OpenVLA as an agent: one row and a batch, chunks, conventions, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import libero_reward_envs.agents.openvla_policy as policy_module
from libero_reward_envs.agents.openvla_policy import OpenVLAPolicy
from libero_reward_envs.data.orientations import ORIENTATIONS, turn_images
from libero_reward_envs.envs.libero_env import LiberoEnv
from libero_reward_envs.openvla.checkpoint_files import TINY_OPENVLA, find_checkpoint
from libero_reward_envs.openvla.oft import ActionHead, ProprioProjector
from libero_reward_envs.openvla.policy_images import prepare_policy_images
from libero_reward_envs.openvla.policy_inputs import read_libero_proprio
from libero_reward_envs.openvla.prompt import make_prompt

TOLD = "pick up the milk and place it in the basket"
OTHER = "turn on the stove"


def draw_images(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 64, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def policy() -> OpenVLAPolicy:
    return OpenVLAPolicy.from_pretrained(
        TINY_OPENVLA, unnorm_key="libero_object", instruction=TOLD, device="cpu"
    )


@pytest.fixture
def tiny_copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(find_checkpoint(TINY_OPENVLA), tmp_path / "tiny"))


@pytest.fixture
def oft_folder(tiny_copy: Path) -> Path:
    """The tiny model with an action head and a projector for the robot's state."""
    torch.manual_seed(0)
    for name, part in (
        ("action_head", ActionHead(32, 7)),
        ("proprio_projector", ProprioProjector(8, 32)),
    ):
        for value in part.parameters():
            value.data = torch.randn_like(value)
        state = {f"module.{key}": value for key, value in part.state_dict().items()}
        torch.save(state, tiny_copy / f"{name}--5_checkpoint.pt")
    path = tiny_copy / "dataset_statistics.json"
    stored = json.loads(path.read_text())
    ends = {"mean": 0.0, "std": 1.0, "min": -2.0, "max": 2.0, "q01": -2.0, "q99": 2.0}
    stored["libero_object"]["proprio"] = {name: [value] * 8 for name, value in ends.items()}
    path.write_text(json.dumps(stored))
    return tiny_copy


def test_one_observation_and_a_batch_give_the_same(policy: OpenVLAPolicy) -> None:
    images = draw_images(3)
    batch, state = policy.predict({"agentview_image": images}, instruction=[TOLD, OTHER, TOLD])
    assert state is None
    assert batch.shape == (3, 7)
    assert batch.dtype == np.float32
    for image, told, expected in zip(images, (TOLD, OTHER, TOLD), batch, strict=True):
        alone, _ = policy.predict({"agentview_image": image}, instruction=told)
        assert alone.shape == (7,)
        np.testing.assert_array_equal(alone, expected)
    bare, _ = policy.predict(images[0])
    np.testing.assert_array_equal(bare, batch[0])
    assert not np.array_equal(policy.predict(images[1])[0], batch[1])


def test_actions_are_those_of_the_published_way(policy: OpenVLAPolicy) -> None:
    image = draw_images(1)
    action, _ = policy.predict({"agentview_image": image})
    picture = prepare_policy_images(turn_images(image, "upright", "raw"), orientation="raw")
    batch = policy.processor(make_prompt(TOLD), picture)
    expected = policy.model.predict_action(
        batch["input_ids"], batch["pixel_values"], "libero_object"
    )
    np.testing.assert_allclose(action[:, :6], np.clip(expected[:, :6], -1, 1), atol=1e-7)
    assert action[0, 6] == -np.sign(2 * expected[0, 6] - 1)
    assert abs(action[0, 6]) == 1


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_orientation_of_the_env_makes_no_difference(
    policy: OpenVLAPolicy, orientation: str
) -> None:
    image = draw_images(1)
    expected, _ = policy.predict(image)
    other = OpenVLAPolicy.from_pretrained(
        TINY_OPENVLA, unnorm_key="libero_object", orientation=orientation, instruction=TOLD
    )
    found, _ = other.predict(turn_images(image, "upright", orientation))
    np.testing.assert_array_equal(found, expected)


def test_every_camera_counts(make_env: Callable[..., LiberoEnv]) -> None:
    keys = ("agentview_image", "robot0_eye_in_hand_image")
    policy = OpenVLAPolicy.from_pretrained(
        TINY_OPENVLA, unnorm_key="libero_object", image_keys=keys, instruction=TOLD
    )
    images = {key: draw_images(1, seed) for seed, key in enumerate(keys)}
    before, _ = policy.predict(images)
    for key in keys:
        changed = {**images, key: draw_images(1, 9)}
        assert not np.array_equal(policy.predict(changed)[0], before)
    with pytest.raises(ValueError, match=r"robot0_eye_in_hand_image missing.*image_keys"):
        policy.predict({"agentview_image": images["agentview_image"]})


def test_chunks_are_used_up_for_each_environment_apart(
    oft_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = OpenVLAPolicy.from_pretrained(oft_folder, unnorm_key="libero_object", instruction=TOLD)
    assert policy.chunk_size == 8
    asked: list[int] = []
    predict_chunk: Any = policy_module.predict_chunk

    def count(model: Any, parts: Any, ids: Any, *rest: Any, **options: Any) -> Any:
        asked.append(len(ids))
        return predict_chunk(model, parts, ids, *rest, **options)

    monkeypatch.setattr(policy_module, "predict_chunk", count)
    rng = np.random.default_rng(0)

    def observe() -> dict[str, np.ndarray]:
        proprio = rng.uniform(-2, 2, (2, 8)).astype(np.float32)
        return {
            "agentview_image": rng.integers(0, 256, (2, 64, 64, 3), np.uint8),
            "proprio": proprio,
        }

    first = observe()
    actions = [policy.predict(first)[0]] + [policy.predict(observe())[0] for _ in range(7)]
    assert asked == [2]
    assert len(np.unique(np.stack(actions)[:, 0], axis=0)) > 1
    policy.predict(observe())
    assert asked == [2, 2]
    again, _ = policy.predict(first, episode_start=np.array([True, False]))
    assert asked == [2, 2, 1]
    np.testing.assert_allclose(again[0], actions[0][0], atol=1e-5)
    policy.reset([1])
    again, _ = policy.predict(first)
    np.testing.assert_allclose(again[1], actions[0][1], atol=1e-5)
    policy.reset()
    moved = {**first, "proprio": first["proprio"] + 0.5}
    assert not np.allclose(policy.predict(moved)[0], actions[0], atol=1e-4)


def test_the_robots_state_is_read_from_liberos(make_env: Callable[..., LiberoEnv]) -> None:
    env = make_env()
    state, _ = env.reset(seed=0)
    proprio = read_libero_proprio(state)
    parts = {part.name: state[part.slice] for part in env.state_layout}
    np.testing.assert_array_equal(proprio[:3], parts["robot0_eef_pos"])
    np.testing.assert_array_equal(proprio[6:], parts["robot0_gripper_qpos"])
    assert np.pi - 0.2 < np.linalg.norm(proprio[3:6]) < np.pi + 0.2  # it points down
    with pytest.raises(ValueError, match="at least"):
        read_libero_proprio(state[:10])


def test_an_adapter_changes_actions_and_brings_its_statistics(tmp_path: Path) -> None:
    from libero_reward_envs.agents.openvla_adapters import add_adapters, save_adapters
    from libero_reward_envs.openvla.modeling import OpenVLAForActionPrediction

    model = OpenVLAForActionPrediction.from_pretrained(TINY_OPENVLA, dtype="float32")
    stored = {"mine": dict((model.norm_stats or {})["libero_object"])}
    adapted = add_adapters(model, r=4, base_name=TINY_OPENVLA)
    draw = torch.Generator().manual_seed(0)
    for name, value in adapted.named_parameters():
        if "lora_B" in name:
            value.data = 0.3 * torch.randn(value.shape, generator=draw)
    save_adapters(adapted, tmp_path / "adapter")
    (tmp_path / "adapter" / "dataset_statistics.json").write_text(json.dumps(stored))
    plain = OpenVLAPolicy.from_pretrained(
        TINY_OPENVLA, unnorm_key="libero_object", instruction=TOLD
    )
    named = OpenVLAPolicy.from_pretrained(
        TINY_OPENVLA, adapter=tmp_path / "adapter", instruction=TOLD
    )
    alone = OpenVLAPolicy.from_pretrained(tmp_path / "adapter", instruction=TOLD)
    assert named.unnorm_key == alone.unnorm_key == "mine"
    assert named.fingerprint == alone.fingerprint != plain.fingerprint
    images = draw_images(4)
    np.testing.assert_array_equal(named.predict(images)[0], alone.predict(images)[0])
    assert not np.array_equal(named.predict(images)[0], plain.predict(images)[0])


def test_what_cannot_be_used_is_refused(policy: OpenVLAPolicy, tiny_copy: Path) -> None:
    with pytest.raises(ValueError, match="Nearest: libero_object"):
        OpenVLAPolicy.from_pretrained(TINY_OPENVLA, unnorm_key="libero_objects")
    with pytest.raises(ValueError, match="Say by `unnorm_key`"):
        OpenVLAPolicy.from_pretrained(TINY_OPENVLA)
    with pytest.raises(ValueError, match="`quantization` must be"):
        OpenVLAPolicy.from_pretrained(TINY_OPENVLA, unnorm_key="libero_object", quantization="2bit")
    with pytest.raises(ValueError, match="Unknown orientation"):
        OpenVLAPolicy.from_pretrained(TINY_OPENVLA, orientation="sideways")
    with pytest.raises(ValueError, match="dtype uint8"):
        policy.predict({"agentview_image": np.zeros((8, 8, 3), np.float32)})
    with pytest.raises(ValueError, match="Expected an instruction for each of 2"):
        policy.predict(draw_images(2), instruction=[TOLD])
    for path in (tiny_copy / "dataset_statistics.json", tiny_copy / "config.json"):
        fields = json.loads(path.read_text())
        fields.pop("norm_stats", None)
        path.write_text(json.dumps({} if "statistics" in path.name else fields))
    with pytest.raises(ValueError, match="its actions have no unit"):
        OpenVLAPolicy.from_pretrained(tiny_copy)


def test_a_model_that_sees_nothing_is_refused(tiny_copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(tiny_copy / "model.safetensors")
    weights["projector.fc3.weight"].zero_()
    save_file(weights, tiny_copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match="images"):
        OpenVLAPolicy.from_pretrained(tiny_copy, unnorm_key="libero_object")


def test_settings_can_be_stored(policy: OpenVLAPolicy, oft_folder: Path) -> None:
    settings = json.loads(json.dumps(policy.settings))
    assert settings["unnorm_key"] == "libero_object"
    assert settings["crop_area"] == 0.9
    assert settings["chunk_size"] == 1
    other = OpenVLAPolicy.from_pretrained(
        oft_folder, unnorm_key="libero_object", center_crop=False
    ).settings
    assert (other["action_head"], other["n_proprio"], other["crop_area"]) == ("l1", 8, None)
    assert other["checkpoint_fingerprint"] != settings["checkpoint_fingerprint"]


def test_what_fine_tuning_noted_holds_unless_something_else_is_given(tiny_copy: Path) -> None:
    keys = ["robot0_eye_in_hand_image", "agentview_image"]
    notes = {"image_keys": keys, "center_crop": False, "crop_area": None, "unnorm_key": "libero_10"}
    (tiny_copy / "openvla_policy.json").write_text(json.dumps({**notes, "gripper": "none"}))
    noted = OpenVLAPolicy.from_pretrained(tiny_copy).settings
    for name in ("image_keys", "crop_area", "unnorm_key"):
        assert noted[name] == notes[name]
    assert (noted["gripper"], noted["jpeg"]) == ("none", True)
    given = OpenVLAPolicy.from_pretrained(
        tiny_copy, unnorm_key="libero_goal", center_crop=True, image_keys=keys[:1], gripper="libero"
    ).settings
    assert (given["unnorm_key"], given["crop_area"], given["gripper"]) == (
        "libero_goal",
        0.9,
        "libero",
    )
    assert given["image_keys"] == keys[:1]
    (tiny_copy / "openvla_policy.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        OpenVLAPolicy.from_pretrained(tiny_copy)
