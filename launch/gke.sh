#!/usr/bin/env bash
# A training job on GKE with JobSet, on one slice or several: fills in launch/gke_jobset.yaml.
#
#   bash launch/gke.sh --name=rt2 --image=IMAGE --accelerator=tpu-v5p-slice --topology=8x8x8 \
#       [--slices=2] [--restarts=100] [--dry_run] -- \
#       --config=configs/rt2_pali_x_55b.py --workdir=gs://BUCKET/rt2
#
# The image holds this checkout, installed with the extra tpu. --dry_run prints the JobSet.
# With xpk, the same job: xpk workload create --workload=rt2 --tpu-type=v5p-1024 --num-slices=2 \
#   --base-docker-image=IMAGE --command='python -m rt2_jax.train --config=... --workdir=...'
set -euo pipefail

fail() {
    printf 'gke.sh: %s\n' "$1" >&2
    exit 2
}

declare -A value=([NAME]='' [IMAGE]='' [ACCELERATOR]='' [TOPOLOGY]='' [SLICES]=1 [RESTARTS]=100 [CHIPS]=4)
DRY_RUN=''
while (($#)); do
    case $1 in
    --name=*) value[NAME]=${1#*=} ;;
    --image=*) value[IMAGE]=${1#*=} ;;
    --accelerator=*) value[ACCELERATOR]=${1#*=} ;;
    --topology=*) value[TOPOLOGY]=${1#*=} ;;
    --slices=*) value[SLICES]=${1#*=} ;;
    --restarts=*) value[RESTARTS]=${1#*=} ;;
    --chips_per_host=*) value[CHIPS]=${1#*=} ;;
    --dry_run) DRY_RUN=1 ;;
    --) shift && break ;;
    *) fail "unknown argument $1; known: --name --image --accelerator --topology --slices --restarts --chips_per_host --dry_run --" ;;
    esac
    shift
done
[[ -n ${value[NAME]} && -n ${value[IMAGE]} && -n ${value[ACCELERATOR]} ]] ||
    fail 'give --name, --image and --accelerator (e.g. tpu-v5p-slice)'
[[ ${value[TOPOLOGY]} =~ ^[0-9]+(x[0-9]+){1,2}$ ]] || fail "--topology=${value[TOPOLOGY]} is not of the form 8x8x8"
(($# > 0)) || fail 'give the flags of rt2_jax.train after --'

chips=$((${value[TOPOLOGY]//x/*}))
value[HOSTS]=$((chips / value[CHIPS]))
((value[HOSTS] * value[CHIPS] == chips)) ||
    fail "${value[TOPOLOGY]} has $chips chips, which are not whole hosts of ${value[CHIPS]}"

# The flags as a JSON list, which YAML takes as it is.
list=''
for flag in "$@"; do
    escaped=${flag//\\/\\\\}
    list+=", \"${escaped//\"/\\\"}\""
done
value[FLAGS]="[${list#, }]"

fill() {
    local line name
    while IFS= read -r line; do
        for name in "${!value[@]}"; do
            line=${line//"\${$name}"/"${value[$name]}"}
        done
        printf '%s\n' "$line"
    done <"$(dirname "${BASH_SOURCE[0]}")/gke_jobset.yaml"
}

if [[ -n $DRY_RUN ]]; then
    fill
else
    fill | kubectl apply -f -
fi
