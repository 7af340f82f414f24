#!/usr/bin/env bash
# A training job on a TPU pod slice, or on several, by gcloud: the command line of a laptop, on every
# host. JAX finds the other hosts by itself.
#
#   bash launch/tpu_vm.sh --name=rt2 --zone=us-east5-a --type=v5p-1024 [--slices=2] [--spot] \
#       [--runtime=v2-alpha-tpuv5] [--steps=create,install,run] [--dry_run] -- \
#       --config=configs/rt2_pali_x_55b.py --workdir=gs://BUCKET/rt2
#
# --steps   what to do of: create (queue for the slices and wait), install (copy this checkout, pip
#           install), run (train; the same again goes on from the last checkpoint), delete
# --dry_run prints what would run, and runs nothing
set -euo pipefail

fail() {
    printf 'tpu_vm.sh: %s\n' "$1" >&2
    exit 2
}

NAME='' ZONE='' TYPE='' SLICES=1 SPOT='' RUNTIME='' STEPS=create,install,run DRY_RUN=''
while (($#)); do
    case $1 in
    --name=*) NAME=${1#*=} ;;
    --zone=*) ZONE=${1#*=} ;;
    --type=*) TYPE=${1#*=} ;;
    --slices=*) SLICES=${1#*=} ;;
    --runtime=*) RUNTIME=${1#*=} ;;
    --steps=*) STEPS=${1#*=} ;;
    --spot) SPOT=--spot ;;
    --dry_run) DRY_RUN=1 ;;
    --) shift && break ;;
    *) fail "unknown argument $1; known: --name --zone --type --slices --spot --runtime --steps --dry_run --" ;;
    esac
    shift
done
[[ -n $NAME && -n $ZONE && -n $TYPE ]] || fail 'give --name, --zone and --type (e.g. v5p-1024)'
[[ $SLICES =~ ^[1-9][0-9]*$ ]] || fail "--slices=$SLICES is no number of slices"
[[ ,$STEPS, != *,run,* || $# -gt 0 ]] || fail 'give the flags of rt2_jax.train after --'

# The images of docs.cloud.google.com/tpu/docs/runtimes.
if [[ -z $RUNTIME ]]; then
    case $TYPE in
    v4-*) RUNTIME=tpu-ubuntu2204-base ;;
    v5litepod-*) RUNTIME=v2-alpha-tpuv5-lite ;;
    v5p-*) RUNTIME=v2-alpha-tpuv5 ;;
    v6e-*) RUNTIME=v2-alpha-tpuv6e ;;
    *) fail "no runtime is known for --type=$TYPE; give --runtime" ;;
    esac
fi

run() {
    if [[ -n $DRY_RUN ]]; then
        printf '%q ' "$@"
        printf '\n'
    else
        "$@"
    fi
}

nodes=("$NAME")
if ((SLICES > 1)); then
    nodes=()
    for ((i = 0; i < SLICES; i++)); do nodes+=("$NAME-$i"); done
fi

create() {
    local which=(--node-id="$NAME")
    ((SLICES == 1)) || which=(--node-count="$SLICES" --node-prefix="$NAME")
    run gcloud compute tpus queued-resources create "$NAME" --zone="$ZONE" "${which[@]}" \
        --accelerator-type="$TYPE" --runtime-version="$RUNTIME" ${SPOT:+"$SPOT"}
    local state=''
    while [[ -z $DRY_RUN && $state != ACTIVE ]]; do
        state=$(gcloud compute tpus queued-resources describe "$NAME" --zone="$ZONE" \
            --format='value(state.state)')
        [[ $state != FAILED && $state != SUSPENDED ]] || fail "the request for $NAME is $state"
        printf '%s: %s\n' "$NAME" "$state"
        [[ $state == ACTIVE ]] || sleep 30
    done
}

# On every host of every slice at once.
everywhere() {
    local pids=() node
    for node in "${nodes[@]}"; do
        run gcloud compute tpus tpu-vm ssh "$node" --zone="$ZONE" --worker=all --command="$1" &
        pids+=($!)
    done
    local pid status=0
    for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
    return "$status"
}

install() {
    local archive=/tmp/rt2_jax.tar.gz node
    run git archive --format=tar.gz --output="$archive" HEAD
    for node in "${nodes[@]}"; do
        run gcloud compute tpus tpu-vm scp "$archive" "$node:rt2_jax.tar.gz" --zone="$ZONE" --worker=all
    done
    everywhere 'mkdir -p rt2_jax && tar xzf rt2_jax.tar.gz -C rt2_jax && cd rt2_jax &&
        python3 -m venv .venv && .venv/bin/pip install -q -U pip setuptools &&
        .venv/bin/pip install -q -c launch/constraints.txt -e ".[sim,tpu]"'
}

train() {
    local flags
    flags=$(printf '%q ' "$@")
    # RT2_JAX_CLUSTER: a TPU VM's hosts are told of each other by no variable (rt2_jax/parallel/distributed.py).
    everywhere "cd rt2_jax && RT2_JAX_CLUSTER=1 .venv/bin/python -m rt2_jax.train $flags"
}

IFS=, read -ra steps <<<"$STEPS"
for step in "${steps[@]}"; do
    case $step in
    create | install) "$step" ;;
    run) train "$@" ;;
    delete) run gcloud compute tpus queued-resources delete "$NAME" --zone="$ZONE" --force --quiet ;;
    *) fail "--steps: unknown step $step; known: create, install, run, delete" ;;
    esac
done
