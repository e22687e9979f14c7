#!/bin/bash
# Many GPUs under Slurm: `sbatch --nodes 4 scripts/slurm.sh flower128 --folder runs/flower128`. One torchrun a node; they meet at the
# first node. A job that is cut off or requeued goes on from its last checkpoint, because the command is the same.
#SBATCH --job-name=fdlib
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=48
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=runs/slurm-%j.log
set -euo pipefail

PYTHON=${PYTHON:-.venv/bin/python}
GPUS=${SLURM_GPUS_ON_NODE:-8}
HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export OMP_NUM_THREADS=$(( ${SLURM_CPUS_PER_TASK:-8} / GPUS > 0 ? ${SLURM_CPUS_PER_TASK:-8} / GPUS : 1 ))

srun "$PYTHON" -m torch.distributed.run \
    --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "$GPUS" --max-restarts 3 \
    --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$HEAD:29500" \
    scripts/train.py "$@" --training.mixed-precision "${PRECISION:-bf16}" --training.compile
