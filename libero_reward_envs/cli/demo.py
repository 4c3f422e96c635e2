"""The whole way in minutes: `libero-reward demo --out FOLDER`.

Collects successes and failures in the simulator, fits an RRD reward, judges it on held-out
episodes, trains SAC on it, evaluates by true success, and writes `report.html`. Each stage's result
stays in the folder; the same command goes on where a stopped run was.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from libero_reward_envs.envs.tasks import Task
    from libero_reward_envs.evaluation.report import DemoResults
    from libero_reward_envs.evaluation.run_folder import RunFolder

EPISODES_FILE = "episodes.h5"
REPORT_FILE = "report.html"

# The most that `--quick` allows of each budget: enough to pass through every stage.
QUICK_BUDGET = {"episodes": 8, "rrd_steps": 200, "sac_steps": 600, "eval_episodes": 2, "frames": 4}


@dataclasses.dataclass(frozen=True)
class DemoArgs:
    """Collect episodes, fit a reward, train SAC on it, evaluate, and write a report."""

    out: Path = Path("runs/demo")
    """Folder of the run."""
    task: str = "libero_object/pick_up_the_alphabet_soup_and_place_it_in_the_basket"
    """Suite and name of a task that has a scripted expert."""
    assets: str = "builtin"
    """Object models: "builtin" needs no download, "official" are LIBERO's, or a folder."""
    episode_steps: int = 160
    """Step limit of an episode. The suites' own limits are longer; the expert needs about 100."""
    episodes: int = 60
    """Episodes to collect."""
    success_fraction: float = 0.5
    """Share of them that are successes."""
    holdout_fraction: float = 0.4
    """Share of them that are held out, to judge the reward."""
    rrd_steps: int = 2500
    """Steps of the reward's optimiser; 4 episodes x 64 steps each."""
    sac_steps: int = 4000
    """Steps of SAC in the environment."""
    eval_episodes: int = 10
    """Evaluation episodes of each policy."""
    frames: int = 6
    """Pictures of each of two episodes in the report; 0 for no pictures and no video."""
    seed: int = 0
    """Of collection, split, reward and agent."""
    quick: bool = False
    """Cap every budget for a run of a minute, which shows that all works and nothing more."""
    overwrite: bool = False
    """Delete the results of a run with other arguments in the same folder."""


def main(args: DemoArgs) -> None:
    """Run the stages whose results are not there yet, then write and print the report."""
    import libero_reward_envs  # noqa: F401  (first of all: it keeps torch and software GL apart)
    from libero_reward_envs.envs.tasks import find_task
    from libero_reward_envs.evaluation.report import render_report
    from libero_reward_envs.evaluation.run_folder import RunFolder

    args = apply_budget(args)
    task = find_task(task=args.task)
    run = RunFolder(args.out)
    run.begin(_arguments_that_matter(args), overwrite=args.overwrite)
    run_stages(run, args, task)
    results = load_results(run, args, task)
    run.write_bytes(REPORT_FILE, render_report(results).encode())
    print_summary(run, results)


def apply_budget(args: DemoArgs) -> DemoArgs:
    """Return the arguments with `--quick` put into numbers.

    Raises:
        ValueError: If a budget is too small for its stage.
    """
    if args.quick:
        capped = {name: min(getattr(args, name), most) for name, most in QUICK_BUDGET.items()}
        args = dataclasses.replace(args, **capped)
    least = {
        "episode_steps": 1,
        "episodes": 4,
        "rrd_steps": 1,
        "sac_steps": 1,
        "eval_episodes": 1,
        "frames": 0,
    }
    for name, smallest in least.items():
        if getattr(args, name) < smallest:
            raise ValueError(f"`{name}` must be at least {smallest}, got {getattr(args, name)}.")
    return args


def run_stages(run: "RunFolder", args: DemoArgs, task: "Task") -> None:
    """Run each stage whose result is not in the folder."""
    from libero_reward_envs.agents import demo, demo_pictures
    from libero_reward_envs.agents.collection import collect_episodes
    from libero_reward_envs.data import load_episodes

    run.register(
        EPISODES_FILE,
        EPISODES_FILE + ".pending",
        demo.REWARD_FOLDER,
        demo.QUALITY_FILE,
        demo.AGENT_FOLDER,
        demo.EVALUATION_FILE,
        demo_pictures.PICTURES_FOLDER,
        REPORT_FILE,
    )
    env_arguments: dict[str, Any] = {"task": task.id, "assets": args.assets}
    limit: dict[str, Any] = {"max_episode_steps": args.episode_steps}
    with run.timed("collect"):
        collect_episodes(
            task,
            args.episodes,
            run / EPISODES_FILE,
            success_fraction=args.success_fraction,
            seed=args.seed,
            assets=args.assets,
            **limit,
        )
    dataset = load_episodes(run / EPISODES_FILE)
    split = {"holdout_fraction": args.holdout_fraction, "seed": args.seed}
    if not run.has(demo.QUALITY_FILE):
        with run.timed("reward"):
            demo.fit_reward(run, dataset, n_steps=args.rrd_steps, **split)
    train, holdout = demo.split_again(dataset, **split)
    if not run.has(demo.AGENT_FOLDER):
        successes = train.filter(lambda summary: summary.success)
        with run.timed("sac"):
            demo.train_agent(
                run,
                successes,
                {**env_arguments, **limit},
                total_timesteps=args.sac_steps,
                seed=args.seed,
            )
    if not run.has(demo.EVALUATION_FILE):
        with run.timed("evaluate"):
            demo.evaluate_agents(
                run,
                {**env_arguments, **limit},
                task_id=task.id,
                n_episodes=args.eval_episodes,
                seed=args.seed,
            )
    if not run.has(demo_pictures.PICTURES_FOLDER):
        with run.timed("pictures"):
            demo_pictures.draw_episodes(
                run, holdout, demo.load_reward(run), env_arguments, n_pictures=args.frames
            )


def load_results(run: "RunFolder", args: DemoArgs, task: "Task") -> "DemoResults":
    """Read what the stages wrote."""
    from libero_reward_envs.agents import demo, demo_pictures
    from libero_reward_envs.agents.curves import read_curves
    from libero_reward_envs.envs.assets import resolve_assets
    from libero_reward_envs.evaluation.report import DemoResults
    from libero_reward_envs.evaluation.run_folder import CONFIG_FILE

    replays, no_pictures = demo_pictures.load_episodes_drawn(run)
    return DemoResults(
        task=task.id,
        instruction=task.instruction,
        assets=resolve_assets(args.assets).name,
        config=run.read_json(CONFIG_FILE),
        times=run.times(),
        quality=run.read_json(demo.QUALITY_FILE),
        fit_history=demo.load_reward(run).training["history"],
        evaluation=run.read_json(demo.EVALUATION_FILE),
        curves=read_curves(run / demo.AGENT_FOLDER / demo.CURVES_FILE),
        replays=replays,
        no_pictures=no_pictures,
    )


def print_summary(run: "RunFolder", results: "DemoResults") -> None:
    """Print what was found as two small tables, and where the report is."""
    from libero_reward_envs.evaluation.report_tables import summarize_policies, summarize_reward

    print(f"\n{'Reward on held-out episodes':36}{'learned':>11}{'clock':>11}{'constant':>11}")
    for label, *values in summarize_reward(results.measures):
        print(f"  {label:34}" + "".join(f"{value:>11}" for value in values))
    print(f"\n{'True success':36}{'solved':>11}{'95 %':>15}{'steps':>9}")
    for label, solved, interval, steps, *_ in summarize_policies(results.evaluation):
        print(f"  {label:34}{solved:>11}{interval:>15}{steps:>9}")
    print(f"\nTook {sum(results.times.values()):.0f} s. Report: {run / REPORT_FILE}")


def _arguments_that_matter(args: DemoArgs) -> dict[str, Any]:
    arguments = dataclasses.asdict(args)
    for name in ("out", "quick", "overwrite"):  # the numbers that `quick` stands for are there
        del arguments[name]
    return arguments
