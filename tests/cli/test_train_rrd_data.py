import re
from collections.abc import Callable
from pathlib import Path

import pytest

from libero_reward_envs.cli.train_rrd_data import (
    check_image_size,
    check_test_episodes,
    read_dataset,
)

WriteEpisodes = Callable[..., Path]
TASKS = ("libero_10/a", "libero_object/b", "libero_90/c")


@pytest.mark.parametrize("env", ["libero-10", "libero_10", "LIBERO-10", "Libero_10"])
def test_a_suite_is_known_in_any_spelling(write_episodes: WriteEpisodes, env: str) -> None:
    dataset = read_dataset(write_episodes(tasks=TASKS), env)
    assert [summary.task for summary in dataset.summaries()] == ["libero_10/a"] * 4


def test_all_suites_are_taken_without_a_name_and_libero_100_is_two(
    write_episodes: WriteEpisodes,
) -> None:
    data = write_episodes(tasks=TASKS)
    assert len(read_dataset(data, None)) == 12
    tasks = {summary.task for summary in read_dataset(data, "LIBERO-100").summaries()}
    assert tasks == {"libero_10/a", "libero_90/c"}


def test_an_unknown_or_absent_suite_is_refused_with_what_there_is(
    write_episodes: WriteEpisodes,
) -> None:
    data = write_episodes(tasks=TASKS)
    held = r"has: libero_10 \(4 episodes\), libero_90 \(4 episodes\), libero_object \(4 episodes\)"
    with pytest.raises(ValueError, match=rf"Unknown suite 'libero-11'.*Choose one of.*{held}"):
        read_dataset(data, "libero-11")
    with pytest.raises(ValueError, match=rf"Expected episodes of libero_goal.*{held}"):
        read_dataset(data, "libero-goal")


def test_episodes_without_a_task_are_kept_with_a_warning(write_episodes: WriteEpisodes) -> None:
    data = write_episodes(tasks=("libero_10/a", "", "libero_goal/b"))
    with pytest.warns(UserWarning, match=r"4 of 12 episodes .* name no task"):
        dataset = read_dataset(data, "libero_10")
    assert {summary.task for summary in dataset.summaries()} == {"libero_10/a", ""}


def test_a_task_without_its_suite_is_found_by_its_name(write_episodes: WriteEpisodes) -> None:
    milk = "pick_up_the_milk_and_place_it_in_the_basket"
    data = write_episodes(tasks=(milk, "something_else"))
    assert {s.task for s in read_dataset(data, "libero_object").summaries()} == {milk}


def test_what_is_no_file_of_episodes_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "libero_10_no_noops" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "libero_10-train.tfrecord-00000-of-00032").write_bytes(b"\0" * 100)
    with pytest.raises(ValueError, match=re.escape(f"the format of {str(folder)!r}. Known are:")):
        read_dataset(folder, "libero-10")
    with pytest.raises(FileNotFoundError, match="No episodes at"):
        read_dataset(tmp_path / "nothing.h5", None)
    (tmp_path / "text.h5").write_text("not HDF5")
    with pytest.raises(ValueError, match=r"Cannot read .*text\.h5"):
        read_dataset(tmp_path / "text.h5", None)


def test_test_episodes_of_other_sizes_are_refused_and_of_other_tasks_named(
    write_episodes: WriteEpisodes,
) -> None:
    train = read_dataset(write_episodes(), None)
    larger = read_dataset(write_episodes("larger.h5", size=4), None)
    with pytest.raises(ValueError, match=r"\(3,\).*got .*\(4,\).* in episode 0 of 'larger'"):
        check_test_episodes(train, larger, ("state",), "larger")
    with pytest.raises(ValueError, match="no observation 'image'"):
        check_test_episodes(train, larger, ("image",), "larger")
    other = read_dataset(write_episodes("other.h5", tasks=("libero_10/b",)), None)
    with pytest.warns(UserWarning, match="libero_10/b, which the reward is not fitted to"):
        check_test_episodes(train, other, ("state",), "other")


def test_image_sizes_are_compared_only_if_images_are_read(
    write_episodes: WriteEpisodes, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = read_dataset(write_episodes(image=36, n_episodes=4), None)
    check_image_size(dataset, ("state", "agentview_image"), 36)
    assert not capsys.readouterr().out
    with pytest.raises(ValueError, match=r"256 x 256.*got 36 x 36 in 'agentview_image'"):
        check_image_size(dataset, ("agentview_image",), 256)
    check_image_size(dataset, ("state",), 256)
    assert "changes nothing" in capsys.readouterr().out
