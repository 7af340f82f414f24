#!/usr/bin/env bash
# A training job on a Slurm cluster of GPUs: one process a GPU. JAX reads Slurm's variables by itself.
#
#   bash launch/slurm.sh --nodes=4 --gpus=8 [--time=24:00:00] [--partition=P] [--dry_run] -- \
#       --config=configs/tabletop.py:cofinetune --workdir=/shared/runs/rt2
#
# From a checkout on a file system that all nodes see, with .venv made on one of them:
#   python3 -m venv .venv && .venv/bin/pip install -c launch/constraints.txt -e '.[sim,gpu]'
# A minute before its time is over, or when preempted, the job saves; the same command goes on from there.
# --dry_run prints the batch script.
set -euo pipefail

fail() {
    printf 'slurm.sh: %s\n' "$1" >&2
    exit 2
}

NODES=1 GPUS=8 TIME=24:00:00 PARTITION='' NAME=rt2 DRY_RUN=''
while (($#)); do
    case $1 in
    --nodes=*) NODES=${1#*=} ;;
    --gpus=*) GPUS=${1#*=} ;;
    --time=*) TIME=${1#*=} ;;
    --partition=*) PARTITION=${1#*=} ;;
    --name=*) NAME=${1#*=} ;;
    --dry_run) DRY_RUN=1 ;;
    --) shift && break ;;
    *) fail "unknown argument $1; known: --nodes --gpus --time --partition --name --dry_run --" ;;
    esac
    shift
done
[[ $NODES =~ ^[1-9][0-9]*$ && $GPUS =~ ^[1-9][0-9]*$ ]] || fail '--nodes and --gpus are numbers from 1'
(($# > 0)) || fail 'give the flags of rt2_jax.train after --'

script() {
    cat <<EOF
#!/usr/bin/env bash
#SBATCH --job-name=$NAME
#SBATCH --nodes=$NODES
#SBATCH --ntasks-per-node=$GPUS
#SBATCH --gpus-per-node=$GPUS
#SBATCH --time=$TIME
#SBATCH --signal=TERM@60
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
${PARTITION:+#SBATCH --partition=$PARTITION}
srun --kill-on-bad-exit=1 .venv/bin/python -m rt2_jax.train $(printf '%q ' "$@")
EOF
}

if [[ -n $DRY_RUN ]]; then
    script "$@"
else
    script "$@" | sbatch
fi
