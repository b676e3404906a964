#!/usr/bin/env bash
# A fine-tuning as a Slurm job that goes on after its time limit, a preemption or a crash:
#
#     sbatch --export=ALL,DATA=data/my-voice,OUTPUT=runs/my-voice docs/slurm.sh --epochs 30
#
# What stands behind the script is given to the recipe.
#
#SBATCH --job-name=xtts
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=32G
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --output=slurm-%j.txt
#SBATCH --open-mode=append
# Without "B:" it goes to what srun has started and not to this shell. From then on there are so many seconds, or up to
# a minute more, to end the step in hand and write a checkpoint.
#SBATCH --signal=TERM@180

: "${PYTHON:=.venv/bin/python}"
: "${RECIPE:=recipes/train_two_phase.py}"
: "${DATA:=data/my-voice}"
: "${OUTPUT:=runs}" # of this job alone: `--resume auto` takes the newest run in it
: "${RETRIES:=1}"   # times to try once more, perhaps on another node, when `run` has given up

# Left over from the shell that submitted the job. srun sets SLURM_PROCID, to 0 for its only task.
unset RANK LOCAL_RANK WORLD_SIZE

# A preemption and the time limit itself send SIGTERM to this shell as well; when it ends, its steps are killed.
trap : TERM

# A step does not inherit --cpus-per-task.
srun --ntasks=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
    "$PYTHON" -m xtts_gatekeeper run -- \
    "$PYTHON" "$RECIPE" --data "$DATA" --output "$OUTPUT" --resume auto "$@"
code=$?

case $code in
143) why="it was told to end" ;; # by SIGTERM, and is saved
1) # what was requeued for its time limit is not to be counted: one line for each crash
    mkdir -p "$OUTPUT" && echo "$SLURM_JOB_ID $(date)" >>"$OUTPUT/crashes-$SLURM_JOB_ID.txt"
    (($(wc -l <"$OUTPUT/crashes-$SLURM_JOB_ID.txt") <= RETRIES)) && why="it crashed, and may fare better elsewhere" ;;
esac
# A job that is being cancelled is not RUNNING any more, and is not to come back.
if [ -n "${why:-}" ] && [ "$(squeue --noheader --format=%T --jobs="$SLURM_JOB_ID")" = RUNNING ]; then
    echo "requeued: $why"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
