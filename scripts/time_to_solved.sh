#!/usr/bin/env bash
# Seconds from the start of training until ten deterministic episodes average so much, looked at every 1,000 environment steps
# and off the clock. DAI has the constructor's defaults, its peer RL Zoo's hyperparameters and budget. Each run is a process of
# its own on one thread, and the two agents take turns. Leave the machine alone meanwhile.
#
#     bash scripts/time_to_solved.sh CartPole-v1 MountainCar-v0 Acrobot-v1 Pendulum-v1
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

for env in "$@"; do
  case "$env" in
    CartPole-v1) solved=475 dai_steps=10000 peer=dqn peer_steps=50000 ;;
    MountainCar-v0) solved=-110 dai_steps=10000 peer=dqn peer_steps=120000 ;;
    Acrobot-v1) solved=-100 dai_steps=10000 peer=dqn peer_steps=100000 ;;
    Pendulum-v1) solved=-200 dai_steps=5000 peer=sac peer_steps=20000 ;;
    *) echo "no threshold for $env" >&2; exit 1 ;;
  esac
  run() { # NAME AGENT STEPS SEED
    python scripts/evaluate.py --env "$env" --agents "$2" --steps "$3" --seeds "$4-$4" --solved "$solved" --look-every 1000 \
      --episodes 10 --jobs 1 --max-points 50 --out "$work/$env.$1.$4.json"
  }
  for seed in 100 101 102 103 104; do
    run dai dai:default "$dai_steps" "$seed"
    run peer "$peer" "$peer_steps" "$seed"
  done
  python - "docs/results/time_to_solved_$(echo "${env%-v*}" | tr '[:upper:]' '[:lower:]').json" "$work/$env".{dai,peer}.*.json <<'EOF'
import json
import sys
from pathlib import Path

runs = [run for path in sys.argv[2:] for run in json.loads(Path(path).read_text())]
Path(sys.argv[1]).write_text("[\n" + ",\n".join(map(json.dumps, runs)) + "\n]\n")
EOF
done
python scripts/report.py table docs/results/time_to_solved_*.json
