import dataclasses

import numpy as np
import pytest

from libero_reward_envs.data import EpisodeDataset
from libero_reward_envs.data.inspection import (
    describe_episodes,
    draw_contact_sheet,
    format_table,
    save_picture,
)
from tests.data.episode_makers import make_episode


def describe(*episodes):
    return describe_episodes(EpisodeDataset(list(episodes)))


def test_a_table_tells_what_is_there():
    first = make_episode(0, 3, orientation="raw", image_size=(4, 6))
    second = dataclasses.replace(make_episode(1, 5), success=False, terminated=False)
    rows = describe(first, second)
    table = dict(rows)
    assert table["episodes"] == "2"
    assert table["steps"] == "8, a episode 3 to 5, median 4"
    assert table["successes"] == "1 of 2; 1 terminated"
    assert table["returns"] == "1 to 1, median 1"
    assert ("", "1 x do 0") in rows
    assert table["provenance"] == "not said by 1 of 2 episodes"
    assert table["  orientation"] == "raw"
    assert table["  gripper_closed_at"] == "not known"
    assert table["  agentview_image"].startswith("(4, 6, 3) uint8, ")
    assert table["  steps without movement"] == "0.0%"
    assert table["  gripper values"] == "-1, 1"
    assert "orientation" in format_table(rows)


def test_steps_without_movement_are_counted():
    episode = make_episode(0, 4)
    actions = episode.actions.copy()
    actions[1, :6] = 0
    table = dict(describe(dataclasses.replace(episode, actions=actions)))
    assert table["  steps without movement"] == "25.0%"


def test_an_empty_set_is_described_and_not_drawn():
    empty = EpisodeDataset([])
    assert describe_episodes(empty) == [("episodes", "0")]
    with pytest.raises(ValueError, match="at least one episode"):
        draw_contact_sheet(empty)


def test_a_contact_sheet_shows_first_and_last_frames_upright(tmp_path):
    episode = make_episode(0, 9, orientation="raw")
    sheet = draw_contact_sheet(EpisodeDataset([episode]), n_frames=3, size=4)
    assert sheet.size == (3 * (6 + 2), 4 + 14)
    pixels = np.asarray(sheet)[14:]
    images = episode.observations["agentview_image"][:, ::-1]
    np.testing.assert_array_equal(pixels[:, :6], images[0])
    np.testing.assert_array_equal(pixels[:, 16:22], images[-1])
    save_picture(sheet, tmp_path / "new" / "sheet.png")
    assert (tmp_path / "new" / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_images_that_are_not_there_are_named():
    dataset = EpisodeDataset([make_episode()])
    with pytest.raises(ValueError, match=r"wrist_image.*got: agentview_image"):
        draw_contact_sheet(dataset, image_key="wrist_image")
