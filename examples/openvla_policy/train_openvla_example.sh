#!/usr/bin/env bash
# Fine-tunes OpenVLA by LoRA on episodes of a scripted expert, merges it, and says where it is:
#
#     bash examples/openvla_policy/train_openvla_example.sh [FOLDER]
#
# As it stands it takes the tiny OpenVLA, whose weights are random, and a few steps: it shows that all
# parts work together and nothing else. The real thing, on a GPU of 80 GB:
#
#     MODEL=openvla/openvla-7b EPISODES=50 SIZE=256 STEPS=20000 BATCH=16 bash ...
#
# On several GPUs: LAUNCH="torchrun --nproc-per-node 8 --no-python" bash ...
set -euo pipefail
MODEL=${MODEL:-tiny-random-openvla}
LAUNCH=${LAUNCH:-}
SIZE=${SIZE:-64}          # pixels of the camera
EPISODES=${EPISODES:-4}   # of the scripted expert
STEPS=${STEPS:-20}        # updates
BATCH=${BATCH:-4}

here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-runs/openvla_policy}
mkdir -p "$folder"
cd "$folder"

# Successes of one task, with images. The same command goes on where a stopped one was.
libero-reward collect --suite libero_object --task 0 --episodes "$EPISODES" --success-fraction 1 \
    --obs-type pixels_state --image-size "$SIZE" --image-key agentview_image --out episodes.h5

# What it takes, before anything is loaded.
libero-reward finetune-openvla --config "$here/openvla.yaml" --model "$MODEL" --batch-size "$BATCH" \
    --estimate-only action_dim=7

$LAUNCH libero-reward finetune-openvla --config "$here/openvla.yaml" --model "$MODEL" \
    --data episodes.h5 --out finetuned --max-steps "$STEPS" --batch-size "$BATCH" \
    --checkpoint-every $((STEPS / 2)) action_dim=7 holdout_fraction=0.25

libero-reward merge-openvla --adapter finetuned/latest --out merged
