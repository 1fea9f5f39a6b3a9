#!/usr/bin/env bash
# Make the main results of docs/results.md again: constructor defaults and packaged hyperparameters, final checkpoints.
# Results go to the folder OUT, "again" by default. A run that was stopped goes on where it was. Names after the script choose some of them: bash scripts/rerun_results.sh cartpole
set -euo pipefail
cd "$(dirname "$0")/.."
jobs="${JOBS:-2}"
out="${OUT:-again}"
mkdir -p "$out"

evaluate() { # name, environment, agent, steps, seeds and other options
  local name="$1"; shift
  if [ -n "$wanted" ] && [[ " $wanted " != *" ${name%%_*} "* ]]; then return; fi
  python scripts/evaluate.py --env "$1" --agents "$2" --steps "$3" --seeds "$4" --max-points 200 --jobs "$jobs" "${@:5}" --out "$out/$name.json"
}

wanted="$*"
evaluate cartpole_dai_5k CartPole-v1 dai 5000 100-109
evaluate cartpole_dai_default_10k CartPole-v1 dai:default 10000 100-109
evaluate mountaincar_dai_default_10k MountainCar-v0 dai:default 10000 100-109
evaluate acrobot_dai_default_10k Acrobot-v1 dai:default 10000 100-109
evaluate pendulum_dai_5k Pendulum-v1 dai 5000 100-109
evaluate mountaincarcontinuous_dai_default_10k MountainCarContinuous-v0 dai:default 10000 100-109
evaluate mountaincarcontinuous_sparse_dai_default_10k sb3_dai/MountainCarContinuousSparse-v0 dai:default 10000 100-109
evaluate deepsea10_dai sb3_dai/DeepSea10-v0 dai 10000 100-104 --stop-when-solved
evaluate deepsea20_dai sb3_dai/DeepSea20-v0 dai 40000 100-104 --stop-when-solved
evaluate minatar_breakout_dai_100k MinAtar/Breakout-v1 dai 100000 100-104 --register minatar.gym:register_envs
