"""`convert`, `inspect`, `annotate`: the commands on whole sets of episodes."""

import numpy as np
import pytest
from PIL import Image

from libero_reward_envs.cli.main import main
from libero_reward_envs.data import EpisodeWriter, load_episodes
from libero_reward_envs.data.provenance import read_provenance
from libero_reward_envs.evaluation.annotation import apply_annotations
from libero_reward_envs.reward_models.rrd import RRDRewardModel
from tests.data.episode_makers import make_episode


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "episodes.h5"
    with EpisodeWriter(path) as writer:
        for seed in range(3):
            writer.append(make_episode(seed, 4 + seed, orientation="raw", gripper_closed_at=1.0))
    return path


def fails(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert stop.value.code == 1
    return capsys.readouterr().err


def test_episodes_are_converted_turned_and_gone_on_with(data, tmp_path, capsys):
    out = tmp_path / "upright.h5"
    words = ["convert", str(data), str(out), "--orientation", "upright"]
    words += ["--observation-keys", "agentview_image"]
    main([*words, "--gripper-closed-at", "-1"])
    assert "3 episodes as hdf5, 3 of them written now" in capsys.readouterr().out
    for before, after in zip(load_episodes(data), load_episodes(out), strict=True):
        images = before.observations["agentview_image"]
        np.testing.assert_array_equal(after.observations["agentview_image"], images[:, ::-1])
        assert list(after.observations) == ["agentview_image"]
        np.testing.assert_array_equal(after.actions[:, -1], -before.actions[:, -1])
        provenance = read_provenance(after.metadata)
        assert provenance is not None
        assert (provenance.orientation, provenance.gripper_closed_at) == ("upright", -1.0)
    main([*words, "--gripper-closed-at", "-1"])
    assert "0 of them written now" in capsys.readouterr().out
    assert "was begun with other settings" in fails(capsys, *words)


def test_what_cannot_be_converted_is_told(data, tmp_path, capsys):
    assert "are both" in fails(capsys, "convert", data, data)
    assert "would lie in the source" in fails(capsys, "convert", tmp_path, tmp_path / "out.h5")
    assert "would lie in the source" in fails(capsys, "regenerate", tmp_path, tmp_path / "out.h5")
    words = ("convert", data, tmp_path / "out.h5", "--option", "foo=1")
    assert "unexpected keyword argument 'foo'" in fails(capsys, *words)
    assert "No episodes at" in fails(capsys, "convert", tmp_path / "none.h5", tmp_path / "out.h5")
    words = ("convert", data, tmp_path / "out.h5", "--assume", "colour=red")
    assert "<name>=<value> of a provenance" in fails(capsys, *words)
    unknown = tmp_path / "unknown.h5"
    with EpisodeWriter(unknown) as writer:
        writer.append(make_episode())
    words = ("convert", unknown, tmp_path / "out.h5", "--orientation", "upright")
    assert "Episode 0 does not say its orientation" in fails(capsys, *words)


def test_a_set_is_described_and_drawn(data, capsys):
    main(["inspect", str(data), "--full"])
    table = capsys.readouterr().out
    assert "episodes" in table
    assert "0 of 3 episodes, each read to the end" in table
    with Image.open(data.with_name("episodes.h5.contact_sheet.png")) as picture:
        assert picture.size[1] == 3 * (96 + 14)


def test_the_folder_that_one_stands_in_is_described_and_annotated(data, tmp_path, monkeypatch):
    folder = tmp_path / "set"
    folder.mkdir()
    data.rename(folder / data.name)
    (tmp_path / "set.png").write_bytes(b"a picture of someone else's")
    monkeypatch.chdir(folder)
    main(["inspect", "."])
    assert (tmp_path / "set.png").read_bytes() == b"a picture of someone else's"
    assert (tmp_path / "set.contact_sheet.png").read_bytes().startswith(b"\x89PNG")
    RRDRewardModel({"state": (5,)}, 7, hidden_sizes=(8,)).save_pretrained(tmp_path / "model")
    main(["annotate", ".", "--reward-model", str(tmp_path / "model")])
    assert (tmp_path / "set.rewards.safetensors").exists()


def test_a_conversion_leaves_out_what_only_reading_shows_to_be_damaged(data, tmp_path, capsys):
    content = bytearray(data.read_bytes())
    content[content.index(load_episodes(data)[1].actions.tobytes()) + 5] ^= 1
    data.write_bytes(bytes(content))
    words = ["convert", str(data), str(tmp_path / "out.h5")]
    assert "Cannot read" in fails(capsys, *words)
    for n_written in (1, 0):
        main([*words, "--on-error", "skip"])
        told = capsys.readouterr().out
        assert "Left out: episode 1: " in told
        assert f"2 episodes as hdf5, {n_written} of them" in told


def test_damage_is_found_where_everything_is_read(data, capsys):
    content = bytearray(data.read_bytes())
    actions = load_episodes(data)[1].actions
    content[content.index(actions.tobytes()) + 5] ^= 1
    data.write_bytes(bytes(content))
    main(["inspect", str(data), "--full", "--picture", str(data.with_name("sheet.png"))])
    assert "1 of 3 episodes, each read to the end" in capsys.readouterr().out


def test_learned_rewards_are_written_beside_the_data(data, tmp_path, capsys):
    before = data.read_bytes()
    RRDRewardModel({"state": (5,)}, 7, hidden_sizes=(8,)).save_pretrained(tmp_path / "model")
    main(["annotate", str(data), "--reward-model", str(tmp_path / "model"), "--step-cost", "0.5"])
    out = data.with_name("episodes.h5.rewards.safetensors")
    assert f"Rewards: {out}" in capsys.readouterr().out
    assert data.read_bytes() == before
    learned = apply_annotations(load_episodes(data), out)
    assert any(float(episode.rewards.sum()) != 1.0 for episode in learned)
    message = fails(
        capsys, "annotate", data, "--reward-model", tmp_path / "model", "--reward-type", "binary"
    )
    assert "--reward-type is for classifiers, got RRDRewardModel" in message
