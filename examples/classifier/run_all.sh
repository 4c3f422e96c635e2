#!/usr/bin/env bash
# All three stages at a small size, a few minutes on two cores:
#
#     bash examples/classifier/run_all.sh [FOLDER]
#
# Everything is written into FOLDER, a new one, runs/classifier by default. It shows that all parts
# work together; no agent learns to pick and place in so few steps. Sizes come from these variables.
set -euo pipefail
SIZE=${SIZE:-64}              # pixels
EPISODES=${EPISODES:-24}      # of the scripted expert, every second one spoilt
EPOCHS=${EPOCHS:-6}           # of the classifier
STEPS=${STEPS:-1200}          # of each agent
EPISODE_STEPS=${EPISODE_STEPS:-120}

here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-runs/classifier}
if [ -e "$folder" ]; then
    echo "$folder is there already. Choose a new folder." >&2
    exit 1
fi
mkdir -p "$folder"
cd "$folder"

# Stage 1: successes and failures of scripted policies, and failures of an agent that knows nothing.
libero-reward collect --suite libero_object --task 0 --episodes "$EPISODES" \
    --positive-dir reward_data/positive --negative-dir reward_data/negative \
    --image-key agentview_image --image-size "$SIZE" \
    --max-episode-steps "$EPISODE_STEPS" --expert-noise 0.1 --storage hdf5
libero-reward train-agent --config "$here/collect.yaml" \
    "reward.reward_model.image_size=[3, $SIZE, $SIZE]" \
    "env.max_episode_steps=$EPISODE_STEPS" "agent.n_steps=$EPISODE_STEPS" \
    "agent.total_timesteps=$((2 * EPISODE_STEPS))"

# Stage 2: the classifier.
libero-reward train-classifier \
    --positive-dir reward_data/positive --negative-dir reward_data/negative \
    --output-checkpoint checkpoints/reward_model.pt \
    --image-key agentview_image --image-size 3 "$SIZE" "$SIZE" \
    --epochs "$EPOCHS" --batch-size 64 --lr 3e-4

# Stage 3: both algorithms. Each ends by saying how often it truly succeeds.
small=(env.n_envs=2 "env.max_episode_steps=$EPISODE_STEPS" "agent.total_timesteps=$STEPS"
    evaluation.episodes=2)
libero-reward train-agent --config "$here/train_ppo.yaml" "${small[@]}" "agent.n_steps=$EPISODE_STEPS" \
    "agent.batch_size=$EPISODE_STEPS"
libero-reward train-agent --config "$here/train_sac.yaml" "${small[@]}" agent.learning_starts=100
