"""The page holds what it shows, says what the numbers allow, and runs nothing from elsewhere."""

import dataclasses
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from libero_reward_envs.evaluation.figures import Series, draw_chart, make_axis
from libero_reward_envs.evaluation.replay import ReplayedEpisode, encode_jpeg, write_video
from libero_reward_envs.evaluation.report import DemoResults, render_report
from libero_reward_envs.evaluation.report_claims import describe_agent, describe_reward, list_limits
from libero_reward_envs.evaluation.reward_quality import ScoredEpisode, judge_scores
from libero_reward_envs.evaluation.success import EpisodeResult, summarize_results

VOID = {"meta", "br", "img", "link", "hr", "image", "path", "rect", "circle"}


class Page(HTMLParser):
    """Texts and addresses of a page; fails on tags that do not match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)


def evaluate(successes: int, n: int) -> dict[str, Any]:
    rows = [
        EpisodeResult(index, index, 100, index < successes, float(index < successes), -90.0)
        for index in range(n)
    ]
    return {
        "summary": dataclasses.asdict(summarize_results(rows)),
        "episodes": [dataclasses.asdict(row) for row in rows],
    }


def make_results(**changes: Any) -> DemoResults:
    scored = [
        ScoredEpisode(success, float(success), np.full(n, -1.0 + 0.5 * success, np.float32))
        for success, n in ((True, 10), (True, 12), (False, 20), (False, 20))
    ]
    picture = encode_jpeg(np.full((16, 16, 3), 128, np.uint8))
    values: dict[str, Any] = {
        "task": "libero_object/pick",
        "instruction": "pick it up",
        "assets": "builtin",
        "config": {
            "arguments": {"task": "libero_object/pick", "sac_steps": 300, "seed": 0},
            "versions": {"mujoco": "3.3.2"},
            "commit": None,
        },
        "times": {"collect": 12.0, "sac": 30.0},
        "quality": {
            "measures": judge_scores(scored),
            "episodes": [
                {
                    "success": episode.success,
                    "steps": len(episode),
                    "true_return": episode.true_return,
                    "predicted_return": episode.predicted_return,
                    "return_at_equal_length": float(episode.rewards[:10].sum()),
                }
                for episode in scored
            ],
            "fitted": {"n_episodes": 6, "n_successes": 3},
        },
        "fit_history": [
            {"step": 10.0, "loss": 0.1, "data_loss": 0.1, "holdout_loss": 0.2},
            {"step": 20.0, "loss": 0.01, "data_loss": 0.01, "holdout_loss": 0.1},
        ],
        "evaluation": {
            "untrained": evaluate(0, 10),
            "sac": evaluate(0, 10),
            "expert": evaluate(10, 10),
        },
        "curves": {
            name: np.array([1.0, 2.0, 3.0])
            for name in ("step", "length", "env_return", "learned_return", "success")
        },
        "replays": [
            ReplayedEpisode(
                name, np.linspace(-1, 0, 30), np.arange(30) > 10, [picture] * 3, b"video", 0.0
            )
            for name in ("success", "failure")
        ],
    }
    return DemoResults(**{**values, **changes})


def test_the_page_is_whole_and_loads_nothing_from_elsewhere() -> None:
    html = render_report(make_results())
    page = Page(html)
    assert page.addresses
    assert all(address.startswith("data:") for address in page.addresses)
    assert page.tags.count("video") == 2
    assert page.tags.count("image") == 6
    assert {"script", "link", "iframe"}.isdisjoint(page.tags)
    assert "@import" not in html
    assert "url(" not in html


def test_the_headline_has_numbers_with_their_intervals() -> None:
    text = Page(render_report(make_results())).text
    assert "10/10" in text
    assert "72 to 100 %" in text
    assert "0 to 28 %" in text


def test_texts_are_escaped() -> None:
    attack = "<script>alert(1)</script>\"'&"
    config = {"arguments": {"task": attack, "sac_steps": 1}, "versions": {}, "commit": attack}
    html = render_report(
        make_results(task=attack, instruction=attack, config=config, no_pictures=attack)
    )
    page = Page(html)
    assert "script" not in page.tags
    assert "<script" not in html
    assert page.text.count("alert(1)") >= 5


def test_builtin_assets_are_never_called_a_benchmark() -> None:
    assert "no LIBERO benchmark numbers" in " ".join(list_limits("builtin"))
    assert "no benchmark numbers" in Page(render_report(make_results())).text
    official = Page(render_report(make_results(assets="official"))).text
    assert "no LIBERO benchmark numbers" not in official


def test_without_pictures_the_page_says_why() -> None:
    replays = [ReplayedEpisode("success", np.zeros(5), np.zeros(5, bool))]
    page = Page(render_report(make_results(replays=replays, no_pictures="no GL backend here")))
    assert "no GL backend here" in page.text
    assert {"video", "image"}.isdisjoint(page.tags)


def test_an_undefined_measure_is_named_and_not_a_number() -> None:
    measures = judge_scores([ScoredEpisode(False, 0.0, np.ones(5, np.float32))])
    quality = {**make_results().quality, "measures": measures}
    page = Page(render_report(make_results(quality=quality)))
    assert "undefined" in page.text
    assert "all 1 episodes are failures" in page.text
    assert "nan" not in page.text.lower().split()


def test_training_that_never_finished_an_episode_still_gives_a_page() -> None:
    nothing = {name: np.zeros(0) for name in make_results().curves}
    assert "0 training episodes" in Page(render_report(make_results(curves=nothing))).text


def test_an_agent_that_never_succeeds_is_not_claimed_to_learn() -> None:
    text = describe_agent(evaluate(0, 10)["summary"], evaluate(0, 10)["summary"], 500)
    assert "did not solve" in text
    assert "neither that the reward is good enough" in text


def test_a_difference_within_the_intervals_is_not_claimed() -> None:
    text = describe_agent(evaluate(0, 10)["summary"], evaluate(2, 10)["summary"], 500)
    assert "does not show that training helped" in text


def test_a_difference_beyond_the_intervals_is_claimed_for_one_seed() -> None:
    text = describe_agent(evaluate(0, 10)["summary"], evaluate(9, 10)["summary"], 500)
    assert "do not overlap" in text
    assert "one seed" in text


def test_a_reward_no_better_than_the_clock_is_not_praised() -> None:
    clock = [
        ScoredEpisode(success, float(success), np.full(n, -1.0, np.float32))
        for success, n in ((True, 10), (False, 30))
    ]
    text = describe_reward(judge_scores(clock))
    assert "does not tell them apart" in text
    assert "is no evidence" in text


def test_a_chart_is_well_formed_and_breaks_lines_at_gaps() -> None:
    line = Series("a & b <c>", [0, 1, 2, 3], [1.0, np.nan, 2.0, 3.0])
    svg, _, legend = draw_chart(
        "t & <u>", [line], make_axis("x", [0, 3]), make_axis("y", [1, 3])
    ).partition("</svg>")
    root = ElementTree.fromstring(svg + "</svg>")
    [path] = [element for element in root if element.get("class", "").startswith("line")]
    assert path.get("d", "").count("M") == 2
    assert "&lt;c&gt;" in legend
    assert "nan" not in svg


@pytest.mark.parametrize(
    "values", [[], [5.0], [0.0, 0.0], [-1e-9, 1e-9], [1e6, 3e6], [-200.5, -3.0]]
)
def test_axes_have_round_ticks_inside_their_range(values: list[float]) -> None:
    axis = make_axis("x", values)
    places = [value for value, _ in axis.ticks]
    assert axis.low < axis.high
    assert 2 <= len(places) <= 12
    assert all(axis.low - 1e-9 <= place <= axis.high + 1e-9 for place in places)
    assert len({text for _, text in axis.ticks}) == len(places)


def test_a_video_plays_back_what_was_written(tmp_path: Any) -> None:
    import imageio.v2

    frames = [np.full((32, 32, 3), value, np.uint8) for value in (0, 120, 240)]
    write_video(tmp_path / "film.mp4", frames, fps=10)
    found = [frame.mean() for frame in imageio.v2.mimread(tmp_path / "film.mp4")]
    np.testing.assert_allclose(found, [0, 120, 240], atol=6)
