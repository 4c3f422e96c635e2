#!/usr/bin/env bash
# Evaluates OpenVLA on LIBERO under the published protocol:
#
#     bash examples/openvla_policy/eval_openvla_example.sh [FOLDER]
#
# Writes a row an episode, success rates with intervals, and a video of a failure into FOLDER,
# runs/openvla_eval by default; the same command goes on where a stopped one was. As it stands it
# takes the tiny OpenVLA, whose weights are random, and one episode: it fails, as it must. What
# train_openvla_example.sh wrote is evaluated by
#
#     MODEL=runs/openvla_policy/merged bash examples/openvla_policy/eval_openvla_example.sh
#
# and a published number is repeated, on a GPU and LIBERO's own object models, by
#
#     MODEL=openvla/openvla-7b-finetuned-libero-object TASKS= TRIALS=50 N_ENVS=8 ASSETS=official bash ...
set -euo pipefail
MODEL=${MODEL:-tiny-random-openvla}
ADAPTER=${ADAPTER:-}              # folder of an adapter, put on the model
QUANTIZATION=${QUANTIZATION:-none} # or 4bit, 8bit
SUITE=${SUITE:-libero_object}
TASKS=${TASKS-0}                  # indices or names; empty for all of the suite
TRIALS=${TRIALS:-1}               # of each task; 50 in the protocol
N_ENVS=${N_ENVS:-1}               # environments in one batch
ASSETS=${ASSETS:-auto}

folder=${1:-runs/openvla_eval}
read -ra tasks <<< "$TASKS"

libero-reward evaluate-openvla --checkpoint "$MODEL" ${ADAPTER:+--adapter "$ADAPTER"} \
    --quantization "$QUANTIZATION" --protocol openvla --suite "$SUITE" \
    ${tasks[@]+--tasks "${tasks[@]}"} --trials "$TRIALS" --n-envs "$N_ENVS" --assets "$ASSETS" \
    --videos 1 --out "$folder"
