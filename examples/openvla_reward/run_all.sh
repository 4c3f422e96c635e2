#!/usr/bin/env bash
# A reward on OpenVLA's features, from episodes to an agent, a few minutes on two cores:
#
#     bash examples/openvla_reward/run_all.sh [FOLDER]
#
# Everything is written into FOLDER, a new one, runs/openvla_reward by default. As it stands it takes
# the tiny OpenVLA, whose weights are random: it shows that all parts work together and nothing else.
# With a GPU and the real one: MODEL=openvla/openvla-7b EPISODES=200 STEPS=100000 bash ...
set -euo pipefail
MODEL=${MODEL:-tiny-random-openvla}
SIZE=${SIZE:-64}              # pixels of the camera
EPISODES=${EPISODES:-12}      # of the scripted expert, every second one spoilt
REWARD_STEPS=${REWARD_STEPS:-500}
STEPS=${STEPS:-300}           # of the agent
EPISODE_STEPS=${EPISODE_STEPS:-120}

here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-runs/openvla_reward}
if [ -e "$folder" ]; then
    echo "$folder is there already. Choose a new folder." >&2
    exit 1
fi
if [ -d "$MODEL" ]; then MODEL=$(cd "$MODEL" && pwd); fi
mkdir -p "$folder"
cd "$folder"

# Successes and failures, with images.
libero-reward collect --suite libero_object --task 0 --episodes "$EPISODES" \
    --obs-type pixels_state --image-size "$SIZE" --max-episode-steps "$EPISODE_STEPS" \
    --out episodes.h5

# Features once, kept beside the data; train-rrd would also do it by itself.
libero-reward extract-features episodes.h5 --openvla-model "$MODEL" --image-keys agentview_image

# The reward on them.
libero-reward train-rrd --data episodes.h5 --out reward --steps "$REWARD_STEPS" \
    --use-openvla-features --openvla-model "$MODEL" --openvla-image-keys agentview_image

# The agent on the reward.
python "$here/train_sac.py" --reward-model reward --total-timesteps "$STEPS" \
    --max-episode-steps "$EPISODE_STEPS"
