#!/bin/bash
#SBATCH --job-name=surgery
#SBATCH --array=0-3
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --time=02:00:00
#SBATCH --requeue
# The same as srun.sh as an array job: tasks start when there is room, and a task that is
# preempted is started again by itself.
set -euo pipefail

if [ "$SLURM_ARRAY_TASK_ID" -eq 0 ]; then
    exec surgery tune "$MODEL" --texts "$TEXTS" --trials 200 --storage "$STORAGE" --out "$OUT"
fi
exec surgery worker "$STORAGE" --wait 3600
