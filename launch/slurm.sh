#!/usr/bin/env bash
# A job on a Slurm cluster of GPUs, one process a GPU, that goes on by itself until it is done.
#
#   bash launch/slurm.sh --nodes=4 --gpus=8 --cpus_per_task=12 [--dry_run] -- \
#       --config=configs/tabletop.py:cofinetune --workdir=/shared/runs/rt2
#
# From a checkout on a file system that all nodes see, with .venv made on one of them:
#   python3 -m venv .venv && .venv/bin/pip install -c launch/constraints.txt -e '.[sim,gpu]'
#
# --job            train (default), evaluate or collect; its flags stand after --. Relative paths in
#                  them are from the checkout, wherever this is started. collect runs on one node,
#                  without GPUs
# --nodes --gpus   how many, and GPUs a node (each has a process); --gpus=0: one process, no GPU
# --cpus_per_task  CPU cores of each process, which read and decode the data
# --mem            memory of a node, such as 200G; else what the cluster gives
# --time           time limit, D-HH:MM:SS; the job is requeued and goes on until it is done
# --lead           seconds before that at which SIGTERM asks the job to save
# --requeues       how often it is requeued at most
# --partition --account --qos --constraint --reservation --name   as sbatch has them
# --python         interpreter, else the .venv of this checkout
# --logs           folder of the logs, one a job
# --dry_run        prints the batch script
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

option+=(
    [nodes]=1 [gpus]=8 [cpus_per_task]=1 [mem]='' [time]=24:00:00 [lead]=120 [requeues]=100
    [partition]='' [account]='' [qos]='' [constraint]='' [reservation]='' [name]=rt2
    [python]=$ROOT/.venv/bin/python [logs]=$ROOT/runs/slurm [dry_run]=''
)
parse "$@"
check_job
need_numbers nodes cpus_per_task lead
[[ ${option[gpus]}${option[requeues]} =~ ^[0-9]+$ ]] || fail '--gpus and --requeues are numbers from 0'
module=$(module)
if [[ ${option[job]} == collect ]]; then
    ((option[nodes] == 1)) || fail '--job=collect runs on one node; several jobs with a --seed each share it'
    option[gpus]=0
fi
tasks=$((option[gpus] > 0 ? option[gpus] : 1))
# Slurm takes them from the checkout, but who gave them was elsewhere.
for name in python logs; do
    [[ ${option[$name]} == /* ]] || option[$name]=$PWD/${option[$name]}
done

# Prints a time limit as Slurm has them in seconds.
seconds() {
    local days=0 clock=$1 parts
    [[ $1 =~ ^([0-9]+-)?[0-9]+(:[0-9]+){0,2}$ ]] || fail "--time=$1 is not of the form D-HH:MM:SS"
    if [[ $1 == *-* ]]; then
        days=${1%%-*} clock=${1#*-}
    elif [[ $1 != *:*:* ]]; then
        clock=0:$1 # without days, one number is minutes, and two are minutes and seconds
    fi
    IFS=: read -ra parts <<<"$clock:0:0"
    printf '%d' $(((10#$days * 24 + 10#${parts[0]}) * 3600 + 10#${parts[1]} * 60 + 10#${parts[2]}))
}

limit=$(seconds "${option[time]}")
# Slurm looks once a minute, so SIGTERM may come a minute before its time.
((limit >= option[lead] + 60)) ||
    fail "--time=${option[time]} is too short for --lead=${option[lead]}: SIGTERM could come at the start"

# Prints the options of sbatch that were asked for.
optional() {
    local name
    for name in mem partition account qos constraint reservation; do
        [[ -z ${option[$name]} ]] || printf '#SBATCH --%s=%s\n' "$name" "${option[$name]}"
    done
    ((option[gpus] == 0)) || printf '#SBATCH --gpus-per-node=%s\n' "${option[gpus]}"
}

# A process that stops makes the others stop in the same step, so srun waits for them (--wait) and
# ends with their code; --kill-on-bad-exit would kill those that are still closing their files.
# srun does not take --cpus-per-task from the job since Slurm 22.05.
script() {
    cat <<EOF
#!/usr/bin/env bash
#SBATCH --job-name=${option[name]}
#SBATCH --nodes=${option[nodes]}
#SBATCH --ntasks-per-node=$tasks
#SBATCH --cpus-per-task=${option[cpus_per_task]}
#SBATCH --time=${option[time]}
#SBATCH --signal=TERM@${option[lead]}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --chdir="$ROOT"
#SBATCH --output="${option[logs]}/%x-%j.log"
$(optional)

srun --cpus-per-task=${option[cpus_per_task]} --kill-on-bad-exit=0 --wait=30 \\
    $(printf '%q ' "${option[python]}" -m "$module" "${flags[@]}")
code=\$?
state=\$(squeue --noheader --jobs="\$SLURM_JOB_ID" --format=%T)
case \$code in
$(IFS='|' && printf '%s' "${AGAIN[*]}"))
    if [[ \$state != RUNNING ]]; then
        echo "slurm.sh: code \$code, but the job is \$state: not requeued"
    elif ((\${SLURM_RESTART_COUNT:-0} >= ${option[requeues]})); then
        echo "slurm.sh: code \$code after ${option[requeues]} requeues: not requeued"
    else
        echo "slurm.sh: stopped early (code \$code): requeued, and goes on from what is saved"
        scontrol requeue "\$SLURM_JOB_ID"
    fi
    ;;
esac
exit \$code
EOF
}

if [[ -n ${option[dry_run]} ]]; then
    script
else
    [[ -x ${option[python]} ]] || fail "there is no ${option[python]}; make .venv, or give --python"
    mkdir -p "${option[logs]}"
    id=$(script | sbatch --parsable)
    say "job $id; its log: ${option[logs]}/${option[name]}-${id%%;*}.log"
fi
