#!/usr/bin/env bash
# Seconds from the start of a run, compiling included, until ten deterministic episodes average so much. Looked at every 1,000
# environment steps, off the clock. DAI has the constructor's defaults; peers have RL Zoo's hyperparameters and budgets.
# One run after the other, each on one thread: leave the machine alone meanwhile.
#
#     bash scripts/time_to_solved.sh CartPole-v1 MountainCar-v0 Acrobot-v1 Pendulum-v1
set -euo pipefail
cd "$(dirname "$0")/.."

for env in "$@"; do
  case "$env" in
    CartPole-v1) solved=475 dai_steps=10000 peer=dqn peer_steps=50000 ;;
    MountainCar-v0) solved=-110 dai_steps=10000 peer=dqn peer_steps=120000 ;;
    Acrobot-v1) solved=-100 dai_steps=10000 peer=dqn peer_steps=100000 ;;
    Pendulum-v1) solved=-200 dai_steps=5000 peer=sac peer_steps=20000 ;;
    *) echo "no threshold for $env" >&2; exit 1 ;;
  esac
  name="docs/results/time_to_solved_$(echo "${env%-v*}" | tr '[:upper:]' '[:lower:]')"
  shared=(--env "$env" --solved "$solved" --look-every 1000 --episodes 10 --seeds "${SEEDS:-100-104}" --jobs 1 --max-points 50)
  python scripts/evaluate.py --agents dai:default --params compile=True --steps "$dai_steps" "${shared[@]}" --out "${name}_dai.json"
  python scripts/evaluate.py --agents "$peer" --steps "$peer_steps" "${shared[@]}" --out "${name}_$peer.json"
done
python scripts/report.py table docs/results/time_to_solved_*.json
