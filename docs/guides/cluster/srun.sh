#!/bin/bash
#SBATCH --job-name=surgery
#SBATCH --ntasks=4
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=02:00:00
# One search on four tasks: task 0 searches, measures and reports; the others make trials.
# MODEL, TEXTS, OUT and STORAGE come from the environment, for example:
#   STORAGE=postgresql://surgery@db.example/surgery MODEL=/models/my-model \
#     TEXTS=/data/texts.jsonl OUT=/results/search sbatch srun.sh
set -euo pipefail
export MODEL TEXTS OUT STORAGE

# The search goes on when a worker fails, so the other tasks are not killed with it.
srun --kill-on-bad-exit=0 bash -c '
    if [ "$SLURM_PROCID" -eq 0 ]; then
        exec surgery tune "$MODEL" --texts "$TEXTS" --trials 200 --storage "$STORAGE" --out "$OUT"
    fi
    exec surgery worker "$STORAGE" --wait 3600
'
