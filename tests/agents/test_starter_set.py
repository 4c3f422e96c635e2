import pytest

from libero_reward_envs.agents import starter_set as module
from libero_reward_envs.agents.experts import expert_tasks
from libero_reward_envs.agents.starter_set import collect_starter_set
from libero_reward_envs.cli.main import main
from libero_reward_envs.data import load_episodes


def test_a_starter_set_is_balanced_and_goes_on(tmp_path, monkeypatch, capsys):
    # Two tasks that end soon stand for the ten of a suite.
    chosen = [task for task in expert_tasks() if task.suite == "libero_90"]
    assert len(chosen) == 2
    words = ["collect", "--suite", "libero_90", "--preset", "starter", "--out", str(tmp_path / "s")]
    words += ["--assets", "builtin", "--max-episode-steps", "150"]
    monkeypatch.setattr(module, "expert_tasks", lambda: chosen[:1])
    main(words)
    monkeypatch.setattr(module, "expert_tasks", lambda: chosen)
    main(words)
    assert "8 episodes, 4 successes and 4 failures" in capsys.readouterr().out
    summaries = load_episodes(tmp_path / "s").summaries()
    for task in chosen:
        outcomes = [summary.success for summary in summaries if summary.task == task.id]
        assert sorted(outcomes) == [False, False, True, True]


def test_what_cannot_be_collected_is_refused(tmp_path, capsys):
    with pytest.raises(ValueError, match=r"libero_10.* has a scripted expert. Choose one of:"):
        collect_starter_set("libero_10", tmp_path)
    with pytest.raises(SystemExit):
        main(["collect", "--preset", "starter", "--out", str(tmp_path)])
    assert "Expected --suite and --out" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["collect", "--out", str(tmp_path)])
    assert "Expected --task, or --preset starter" in capsys.readouterr().err
