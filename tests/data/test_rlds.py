"""RLDS sets read without TensorFlow, against what TensorFlow Datasets itself reads.

`rlds/liber_o10` is made by the builder of `openvla/modified_libero_rlds` (moojink/
rlds_dataset_builder, 6174b0b) out of made-up episodes; `expected.npz` holds what TensorFlow
Datasets reads from it, pictures but one as SHA-256. `rlds/tfds_features` is made by
`rlds/make_tfds_set.py`, with every kind of feature.
"""

import hashlib
import json
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from libero_reward_envs.data import EpisodeDataset
from libero_reward_envs.data.provenance import Provenance, read_provenance
from libero_reward_envs.data.rlds import RldsSource, is_rlds
from libero_reward_envs.data.rlds.tf_example import parse_example, serialize_example
from libero_reward_envs.data.rlds.tfrecord import iterate_records, write_shard

SETS = Path(__file__).parent / "rlds"
LIBERO, TFDS = SETS / "liber_o10", SETS / "tfds_features"
CAMERAS = {"agentview_image": "image0", "robot0_eye_in_hand_image": "wrist_image0"}


@pytest.fixture(scope="module")
def libero() -> dict[str, np.ndarray]:
    with np.load(LIBERO / "expected.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def tfds() -> dict[str, np.ndarray]:
    with np.load(TFDS / "expected.npz") as file:
        return dict(file)


def change_set(source: Path, folder: Path, change: Any) -> Path:
    """Copy a set into a folder, with every example changed by a function."""
    shutil.copytree(source, folder / "set")
    for shard in (folder / "set").rglob("*.tfrecord-*"):
        records = [change(parse_example(record)) for record in iterate_records(shard)]
        write_shard(shard, [serialize_example(record) for record in records])
    return folder / "set"


def change_json(folder: Path, name: str, change: Any) -> Path:
    (path,) = folder.rglob(name)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return folder


def test_the_published_layout_is_read_as_tensorflow_reads_it(libero) -> None:
    source = RldsSource(LIBERO)
    assert len(source) == 4
    assert source.observation_keys == (*CAMERAS, "state", "joint_state")
    for number, episode in enumerate(EpisodeDataset(source)):
        prefix = f"ep{number}"
        np.testing.assert_array_equal(episode.actions, libero[f"{prefix}/action"])
        np.testing.assert_array_equal(episode.rewards, libero[f"{prefix}/reward"])
        for key in ("state", "joint_state"):
            stored = episode.observations[key]
            np.testing.assert_array_equal(stored[:-1], libero[f"{prefix}/{key}"])
            np.testing.assert_array_equal(stored[-1], stored[-2])
        for key, name in CAMERAS.items():
            images = episode.observations[key]
            assert images.shape == (len(episode) + 1, 256, 256, 3)
            assert images.dtype == np.uint8
            np.testing.assert_array_equal(images[-1], images[-2])
            if f"{prefix}/{name}" in libero:
                np.testing.assert_array_equal(images[0], libero[f"{prefix}/{name}"])
            else:
                digest = hashlib.sha256(images[0].tobytes()).hexdigest()
                assert digest == libero[f"{prefix}/{name}_sha256"]
        assert episode.instruction == libero[f"{prefix}/lang"]
        file_name = str(libero[f"{prefix}/file"])
        assert episode.task == "libero_10/" + file_name.removesuffix("_demo.hdf5")
        assert episode.terminated
        assert episode.success


def test_what_is_known_of_the_published_sets_is_said(tmp_path: Path) -> None:
    known = Provenance(
        "rlds",
        image_size=(256, 256),
        orientation="vla180",
        control_freq_hz=20.0,
        action_convention="delta",
        action_range=(-1.0, 1.0),
        gripper_closed_at=1.0,
        reward_source="last_step",
        success_source="reward",
        final_observation="repeated",
    )
    (summary, *_) = RldsSource(LIBERO).summaries()
    assert read_provenance(summary.metadata) == known
    folder = tmp_path / "libero_10_no_noops"
    shutil.copytree(LIBERO, folder)
    (summary, *_) = RldsSource(folder).summaries()
    provenance = read_provenance(summary.metadata)
    assert provenance is not None
    assert provenance.no_ops_filtered is True
    assert provenance.find_differences(known) == {}


def test_other_sets_keep_their_names_and_nothing_is_supposed_of_them(tmp_path: Path) -> None:
    shutil.copytree(LIBERO, tmp_path / "robot")
    change_json(tmp_path / "robot", "dataset_info.json", lambda info: info.update(name="robot"))
    (tmp_path / "robot/1.0.0/liber_o10-train.tfrecord-00000-of-00001").rename(
        tmp_path / "robot/1.0.0/robot-train.tfrecord-00000-of-00001"
    )
    source = RldsSource(tmp_path / "robot")
    assert source.observation_keys == ("image", "wrist_image", "state", "joint_state")
    episode = source.read(0, ["state"])
    assert episode.task == ""
    assert read_provenance(episode.metadata) == Provenance(
        "rlds", image_size=(256, 256), success_source="reward", final_observation="repeated"
    )
    named = RldsSource(tmp_path / "robot", key_map={"image": "front"})
    assert named.observation_keys == ("front", "wrist_image", "state", "joint_state")


def test_every_kind_of_feature_is_read_as_tensorflow_datasets_reads_it(tfds) -> None:
    source = RldsSource(TFDS)
    assert [len(episode) for episode in EpisodeDataset(source)] == [3, 1, 5]
    for number, episode in enumerate(EpisodeDataset(source)):
        expected = {
            name.removeprefix(f"{number}/steps/observation/"): array
            for name, array in tfds.items()
            if name.startswith(f"{number}/steps/observation/") and not name.endswith("/note")
        }
        assert set(episode.observations) == set(expected)
        for key, array in expected.items():
            stored = episode.observations[key]
            assert stored.dtype == array.dtype, key
            np.testing.assert_array_equal(stored[:-1], array, err_msg=key)
        np.testing.assert_array_equal(episode.actions, tfds[f"{number}/steps/action"])
        texts = tfds[f"{number}/steps/language_instruction"]
        assert {episode.instruction.encode()} == set(texts.tolist())
        assert episode.metadata["seed"] == tfds[f"{number}/episode_metadata/seed"]
        assert episode.metadata["file_path"] == f"/data/{number}.h5"
        provenance = read_provenance(episode.metadata)
        assert provenance == Provenance(
            "rlds", success_source="reward", final_observation="repeated"
        )


@pytest.mark.parametrize(("folder", "key"), [(LIBERO, "image"), (TFDS, "jpeg")])
def test_summaries_are_those_of_the_episodes_and_read_no_image(folder, key, tmp_path) -> None:
    expected = [episode.summary() for episode in EpisodeDataset(RldsSource(folder))]
    shutil.copytree(folder, tmp_path / "set")
    for shard in (tmp_path / "set").rglob("*.tfrecord-*"):
        content = shard.read_bytes()
        for record in iterate_records(shard):
            for image in parse_example(record)[f"steps/observation/{key}"]:
                content = content.replace(bytes(image), bytes(len(image)))
        shard.write_bytes(content)
    source = RldsSource(tmp_path / "set")
    assert source.summaries() == expected
    with pytest.raises(ValueError, match="checksum"):
        source.read(0, ["state"])


def test_single_images_are_found_without_the_rest() -> None:
    for folder, key in ((LIBERO, "robot0_eye_in_hand_image"), (TFDS, "jpeg"), (TFDS, "depth")):
        source = RldsSource(folder)
        for number in range(len(source)):
            images = source.read(number, [key]).observations[key]
            for step in range(len(images) - 1):
                np.testing.assert_array_equal(source.read_image(number, key, step), images[step])
            with pytest.raises(ValueError, match="fewer values"):
                source.read_image(number, key, len(images) - 1)
    with pytest.raises(ValueError, match="no single images 'as_zlib'"):
        RldsSource(TFDS).read_image(0, "as_zlib", 0)


def read_length(source: RldsSource, index: int) -> int:
    return len(source.read(index, ["state"]))


def test_a_source_goes_to_workers_and_takes_no_file_with_it() -> None:
    source = RldsSource(LIBERO)
    lengths = [len(source.read(index)) for index in range(4)]
    assert len(pickle.dumps(source)) < 8000
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert list(pool.map(read_length, [source] * 4, range(4))) == lengths


def test_sets_are_recognised_by_their_files(tmp_path: Path) -> None:
    for folder in (LIBERO, LIBERO / "1.0.0", TFDS):
        assert is_rlds(folder)
    for other in (SETS, SETS / "none", Path(__file__), tmp_path):
        assert not is_rlds(other)
        with pytest.raises(FileNotFoundError, match="No RLDS set"):
            RldsSource(other)
    for version in ("1.0.0", "2.0.0"):
        shutil.copytree(LIBERO / "1.0.0", tmp_path / version)
    assert is_rlds(tmp_path)
    with pytest.raises(ValueError, match=r"several versions: 1.0.0, 2.0.0. Name the folder"):
        RldsSource(tmp_path)
    assert len(RldsSource(tmp_path / "2.0.0")) == 4


def test_actions_beyond_one_are_refused_until_their_range_is_given(tmp_path: Path) -> None:
    def stretch(example: dict[str, Any]) -> dict[str, Any]:
        example["steps/action"] = example["steps/action"] * 2 + 1
        return example

    folder = change_set(TFDS, tmp_path, stretch)
    with pytest.raises(ValueError, match=r"`steps/action`: expected actions in \[-1, 1\].*range="):
        RldsSource(folder).read(0)
    plain = RldsSource(TFDS).read(2)
    for bounds in ((-1, 3), (np.full(3, -1.0), np.full(3, 3.0))):
        scaled = RldsSource(folder, action_range=bounds).read(2)
        np.testing.assert_allclose(scaled.actions, plain.actions, atol=1e-6)
        provenance = read_provenance(scaled.metadata)
        assert provenance is not None
        assert provenance.action_range == (-1.0, 3.0)
    for wrong in ((1, 1), (0, 1, 2), (np.zeros(2), np.ones(2)), "ab"):
        with pytest.raises(ValueError, match="`action_range`"):
            RldsSource(folder, action_range=wrong).read(0)  # pyright: ignore[reportArgumentType]


def test_success_is_not_guessed(tmp_path: Path) -> None:
    def take_rewards(example: dict[str, Any]) -> dict[str, Any]:
        example["steps/reward"] = example["steps/reward"] * 0
        return example

    folder = change_set(TFDS, tmp_path, take_rewards)
    for on_error in ("raise", "skip"):
        with pytest.raises(ValueError, match="Give `assume_success`"):
            RldsSource(folder, on_error=on_error).summaries()
    assert RldsSource(folder, assume_success=True).read(0).success
    failed = RldsSource(folder, assume_success=False).read(0)
    assert (failed.success, failed.episode_return) == (False, 0)
    (tmp_path / "libero").mkdir()
    published = change_set(LIBERO, tmp_path / "libero", take_rewards)
    assert not RldsSource(published).read(0).success  # there, a success has a reward


def test_the_last_step_can_be_an_observation_only() -> None:
    usual = RldsSource(TFDS).read(2)
    trimmed = RldsSource(TFDS, last_step_is_observation=True, assume_success=True).read(2)
    assert len(trimmed) == len(usual) - 1
    np.testing.assert_array_equal(trimmed.actions, usual.actions[:-1])
    np.testing.assert_array_equal(
        trimmed.observations["float64"], usual.observations["float64"][:-1]
    )
    provenance = read_provenance(trimmed.metadata)
    assert provenance is not None
    assert provenance.final_observation == "recorded"
    with pytest.raises(ValueError, match="episode 1: an episode without a step"):
        RldsSource(TFDS, last_step_is_observation=True, assume_success=True).read(1)


def test_other_features_play_other_parts(tmp_path: Path) -> None:
    source = RldsSource(TFDS, action_key="observation/arm/joints", action_range=(-9, 9))
    assert source.read(0).actions.shape == (3, 7)
    with pytest.raises(
        ValueError, match=r"no actions `steps/observation/arm`.*: observation/arm/j"
    ):
        RldsSource(TFDS, action_key="observation/arm")
    with pytest.raises(ValueError, match=r"expected actions .a,. under .*float64.* shape .2, 3."):
        RldsSource(TFDS, action_key="observation/float64")
    assert RldsSource(TFDS, instruction_key="").read(0).instruction == ""
    with pytest.raises(ValueError, match="one instruction an episode, got 'step 0' and others"):
        RldsSource(TFDS, instruction_key="observation/note").read(0)
    with pytest.raises(ValueError, match="no text 'reward'"):
        RldsSource(TFDS, instruction_key="reward")
    with pytest.raises(ValueError, match=r"no observation 'x', it has: any_size"):
        RldsSource(TFDS).read(0, ["x"])
    with pytest.raises(ValueError, match="two observations are to be named 'grey'"):
        RldsSource(TFDS, key_map={"wide": "grey"})


def test_features_of_other_kinds_are_named_and_can_be_left_out(tmp_path: Path) -> None:
    def change(tree: dict[str, Any]) -> None:
        steps = tree["featuresDict"]["features"]["steps"]["sequence"]["feature"]
        observation = steps["featuresDict"]["features"]["observation"]["featuresDict"]["features"]
        observation["sound"] = {"pythonClassName": "a.b.Audio", "audio": {}}
        observation["int8"]["tensor"]["dtype"] = "bfloat16"

    shutil.copytree(TFDS, tmp_path / "set")
    source = RldsSource(change_json(tmp_path / "set", "features.json", change))
    with pytest.raises(ValueError, match=r"`steps/observation/int8`: this is a tensor of bfloat16"):
        source.read(0)
    with pytest.raises(ValueError, match=r"observation/sound`: this is Audio, which is not read"):
        source.read(0, ["sound"])
    assert len(source.read(0, ["jpeg", "grey"])) == 3
    assert len(source.summaries()) == 3
