#!/usr/bin/env bash
# Train on one or several machines through torchrun. Start it once on every machine, with its own NODE_RANK.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: [VARIABLE=value ...] scripts/launch_torchrun.sh [options of `steepest fit`]

Starts NPROC_PER_NODE processes on this machine and joins them with those of the other machines.

variables:
  NNODES          machines of the run (1)
  NODE_RANK       number of this machine, 0 to NNODES - 1 (0)
  MASTER_ADDR     address of machine 0, reachable from all (127.0.0.1)
  MASTER_PORT     a free port of machine 0 (29500)
  NPROC_PER_NODE  processes per machine (its GPUs, or 1 where there are none)
  PYTHON          interpreter (python)

examples:
  scripts/launch_torchrun.sh --config digits_mlp
  NNODES=2 NODE_RANK=0 MASTER_ADDR=node0 scripts/launch_torchrun.sh --config digits_mlp   # on node0
  NNODES=2 NODE_RANK=1 MASTER_ADDR=node0 scripts/launch_torchrun.sh --config digits_mlp   # on node1

The run folder must lie on a file system that all machines share, or resuming works from machine 0 only.
TEXT
}

if [[ $# -eq 0 || $1 == -h || $1 == --help ]]; then
  usage
  exit 0
fi

NNODES=${NNODES:-1}
NODE_RANK=${NODE_RANK:-0}
MASTER_ADDR=${MASTER_ADDR:-127.0.0.1}
MASTER_PORT=${MASTER_PORT:-29500}
PYTHON=${PYTHON:-python}
NPROC_PER_NODE=${NPROC_PER_NODE:-$("$PYTHON" -c 'import torch; print(max(1, torch.cuda.device_count()))')}

for name in NNODES NODE_RANK MASTER_PORT NPROC_PER_NODE; do
  if [[ ! ${!name} =~ ^[0-9]+$ ]]; then
    echo "launch_torchrun.sh: error: $name must be a whole number, got '${!name}'" >&2
    exit 2
  fi
done
if ((NODE_RANK >= NNODES)); then
  echo "launch_torchrun.sh: error: NODE_RANK must be in 0 ... $((NNODES - 1)) (NNODES - 1), got $NODE_RANK" >&2
  exit 2
fi

# torchrun reads some of these names itself; it is told by options only.
export -n NNODES NODE_RANK NPROC_PER_NODE
# The options stand last: they win over what the config says about devices.
exec "$PYTHON" -m torch.distributed.run \
  --nnodes "$NNODES" --node-rank "$NODE_RANK" --nproc-per-node "$NPROC_PER_NODE" \
  --master-addr "$MASTER_ADDR" --master-port "$MASTER_PORT" \
  -m steepest fit "$@" \
  --trainer.strategy ddp --trainer.num_nodes "$NNODES" --trainer.devices "$NPROC_PER_NODE"
