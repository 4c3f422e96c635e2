import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from tests.agents.training_makers import STEPS

KILLED = """
import sys
from importlib.util import module_from_spec, spec_from_file_location
import torch
from stable_baselines3.common.callbacks import BaseCallback
from libero_reward_envs.agents.train_reward_model import TrainRewardModel
from libero_reward_envs.agents.training_checkpoints import SaveCheckpoints, resume_training
spec = spec_from_file_location("makers", sys.argv[1])
makers = module_from_spec(spec)
spec.loader.exec_module(makers)

class Tell(BaseCallback):
    def _on_step(self):
        print("at", self.num_timesteps, flush=True)
        return True

torch.set_num_threads(1)
total, folder = int(sys.argv[2]), sys.argv[3]
trainer = makers.make_trainer()
agent = makers.make_sac(trainer)
done = resume_training(agent, folder, trainer)
print("from", done, agent.num_timesteps, agent._n_updates, trainer.n_steps, flush=True)
callbacks = [Tell(), TrainRewardModel(trainer), SaveCheckpoints(folder, 25, trainer)]
agent.learn(total - done, callbacks, reset_num_timesteps=done == 0)
buffer = agent.replay_buffer
finite = all(p.isfinite().all().item() for p in agent.policy.parameters())
lengths = set(buffer.lengths.tolist())
print("end", agent.num_timesteps, agent._n_updates, trainer.n_steps, buffer.pos, finite, lengths)
"""


def test_killed_at_any_moment_and_resumed_it_comes_to_the_end(tmp_path):
    rng, total, reached, lost, resumed = np.random.default_rng(0), 450, 0, [], []
    makers = Path(__file__).with_name("training_makers.py")
    command = [sys.executable, "-c", KILLED, str(makers), str(total), str(tmp_path)]
    for kill in (True, True, True, False):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
            assert run.stdout is not None
            word, *numbers = run.stdout.readline().split()
            done, counted, n_updates, n_steps = map(int, numbers)
            assert word == "from"
            assert done == counted
            assert n_updates == n_steps == max(done - 30, 0)
            lost.append(reached - done)
            resumed.append(done)
            if kill:
                for _ in range(int(rng.integers(30, 110))):
                    run.stdout.readline()
                time.sleep(rng.uniform(0, 0.1))
                run.send_signal(signal.SIGKILL)
            lines = run.stdout.read().splitlines()
        told = [int(line.split()[1]) for line in lines if line.startswith("at ")]
        reached = told[-1] if told else reached
    assert max(lost) <= 25 + 1
    assert sorted(set(resumed)) == resumed
    assert resumed[-1] > 75
    updates = total - 30
    assert lines[-1] == f"end {total} {updates} {updates} {total} True {{{STEPS}}}"
