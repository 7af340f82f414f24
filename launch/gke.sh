#!/usr/bin/env bash
# A job on GKE with JobSet, on one TPU slice or several: fills in and applies launch/gke_jobset.yaml.
# Preemption and lost hosts restart it; an error of the user ends it.
#
#   docker build -f launch/Dockerfile -t IMAGE . && docker push IMAGE
#   bash launch/gke.sh --name=rt2 --image=IMAGE --accelerator=tpu-v5p-slice --topology=8x8x8 \
#       [--slices=2] [--dry_run] -- --config=configs/rt2_pali_x_55b.py --workdir=gs://BUCKET/rt2
#
# --job              train (default), evaluate or collect; its flags stand after --. collect runs as
#                    one pod and takes no --accelerator
# --name --image     of the JobSet; of the container, built from launch/Dockerfile
# --accelerator --topology --slices --chips_per_host   e.g. tpu-v5p-slice, 8x8x8; slices of that shape
# --restarts         how often a crash restarts the job; preemption restarts it however often
# --grace            seconds that SIGTERM has to save
# --spot --reservation       on spot nodes, or on those of a reservation
# --service_account          Kubernetes' one, which stands for the rights to the bucket
# --pull_secret              of the image's registry; may come several times
# --toleration=KEY=VALUE:EFFECT, --node_selector=KEY=VALUE, --env=NAME=VALUE    several times too
# --secret                   a Secret whose keys become variables (WANDB_API_KEY); several times too
# --queue --priority_class   Kueue's local queue; a PriorityClass, Kueue's with --queue
# --cpu --memory --shm       requests of a pod, e.g. 100 and 300Gi; size of /dev/shm
# --dry_run                  prints the JobSet
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

switches+='spot '
repeated+='pull_secret toleration node_selector env secret '
option+=(
    [name]='' [image]='' [accelerator]='' [topology]='' [slices]=1 [chips_per_host]=4
    [restarts]=100 [grace]=300 [spot]='' [reservation]='' [service_account]='default'
    [pull_secret]='' [toleration]='' [node_selector]='' [env]='' [secret]=''
    [queue]='' [priority_class]='' [cpu]='' [memory]='' [shm]=16Gi [dry_run]=''
)
parse "$@"
check_job
need_numbers slices chips_per_host grace
[[ ${option[restarts]} =~ ^[0-9]+$ ]] || fail '--restarts is a number from 0'
[[ -n ${option[image]} ]] || fail 'give --image'
[[ ${option[name]} =~ ^[a-z0-9]([-a-z0-9]*[a-z0-9])?$ ]] ||
    fail "give a --name of small letters, digits and -, not '${option[name]}'"

# Prints text as a JSON string, which YAML takes as it is.
json() {
    local text=${1//\\/\\\\}
    text=${text//\"/\\\"}
    printf '"%s"' "${text//$'\n'/\\n}"
}

# Prints key, value, key, value, .. as a JSON object, without the keys that have no value.
object() {
    local list=''
    while (($#)); do
        [[ -z $2 ]] || list+=", $(json "$1"): $(json "$2")"
        shift 2
    done
    printf '{%s}' "${list#, }"
}

# Prints what `entry` makes of each line, as a JSON list.
list() {
    local entry=$1 line result=''
    while IFS= read -r line; do
        [[ -z $line ]] || result+=", $("$entry" "$line")"
    done <<<"$2"
    printf '[%s]' "${result#, }"
}

named() { object name "$1"; }
variable() { printf '{"name": %s, "value": %s}' "$(json "${1%%=*}")" "$(json "${1#*=}")"; }
from_secret() { printf '{"secretRef": %s}' "$(named "$1")"; }
toleration() {
    local pair=${1%:*}
    object key "${pair%%=*}" operator Equal value "${pair#*=}" effect "${1##*:}"
}

check_lines() {
    local line
    while IFS= read -r line; do
        [[ -z $line || $line =~ $2 ]] || fail "--$1=$line is not of the form $3"
    done <<<"${option[$1]}"
}
check_lines env '^[A-Za-z_][A-Za-z0-9_]*=' NAME=VALUE
check_lines toleration '^[^=:]+=[^=:]*:[A-Za-z]+$' KEY=VALUE:EFFECT
check_lines node_selector '^[^=]+=[^=]+$' KEY=VALUE

declare -A value=(
    [NAME]=${option[name]} [IMAGE]=$(json "${option[image]}") [RESTARTS]=${option[restarts]}
    [GRACE]=${option[grace]} [SHM]=${option[shm]} [SERVICE_ACCOUNT]=${option[service_account]}
    [SLICES]=${option[slices]} [HOSTS]=1
    [AGAIN]=$(IFS=, && printf '%s' "${AGAIN[*]}")
    [FINAL]=$(IFS='|' && printf '%s' "${FINAL[*]}") [FINAL_LIST]=$(IFS=, && printf '%s' "${FINAL[*]}")
)
if [[ ${option[job]} == collect ]]; then
    [[ -z ${option[accelerator]}${option[topology]} && ${option[slices]} == 1 ]] ||
        fail '--job=collect is one pod on CPU cores: it takes no --accelerator, --topology or --slices'
    chips=''
else
    [[ ${option[accelerator]} =~ ^(tpu-|nvidia-) ]] ||
        fail 'give --accelerator: tpu-v4-podslice, tpu-v5-lite-podslice, tpu-v5p-slice, tpu-v6e-slice or nvidia-...'
    [[ ${option[topology]} =~ ^[0-9]+(x[0-9]+){1,2}$ ]] ||
        fail "--topology=${option[topology]} is not of the form 8x8x8"
    total=$((${option[topology]//x/*}))
    chips=$((total < option[chips_per_host] ? total : option[chips_per_host]))
    value[HOSTS]=$((total / chips))
    ((value[HOSTS] * chips == total)) ||
        fail "${option[topology]} has $total chips, which are not whole hosts of $chips"
    # One slice, one Job: no two share a node pool.
    exclusive=cloud.google.com/gke-nodepool
fi

selector=(
    cloud.google.com/gke-tpu-accelerator "${option[accelerator]}"
    cloud.google.com/gke-tpu-topology "${option[topology]}"
    cloud.google.com/gke-spot "${option[spot]:+true}"
    cloud.google.com/reservation-name "${option[reservation]}"
)
while IFS='=' read -r key word; do
    [[ -z $key ]] || selector+=("$key" "$word")
done <<<"${option[node_selector]}"
if [[ -n ${option[spot]} ]]; then
    option[toleration]+=$'\ncloud.google.com/gke-spot=true:NoSchedule'
fi

value[ANNOTATIONS]=$(object alpha.jobset.sigs.k8s.io/exclusive-topology "${exclusive:-}")
value[LABELS]=$(object kueue.x-k8s.io/queue-name "${option[queue]}" \
    kueue.x-k8s.io/priority-class "${option[queue]:+${option[priority_class]}}")
value[PRIORITY]=$(json "$([[ -n ${option[queue]} ]] || printf '%s' "${option[priority_class]}")")
value[SELECTOR]=$(object "${selector[@]}")
value[LIMITS]=$(object google.com/tpu "$chips")
value[REQUESTS]=$(object cpu "${option[cpu]}" memory "${option[memory]}" google.com/tpu "$chips")
value[ARGS]="[$(json "$(module)")$(for flag in "${flags[@]}"; do printf ', ' && json "$flag"; done)]"
value[ENV]=$(list variable "${option[env]}")
value[SECRETS]=$(list from_secret "${option[secret]}")
value[PULL_SECRETS]=$(list named "${option[pull_secret]}")
value[TOLERATIONS]=$(list toleration "${option[toleration]}")

fill() {
    local line name
    while IFS= read -r line; do
        for name in "${!value[@]}"; do
            line=${line//"\${$name}"/"${value[$name]}"}
        done
        printf '%s\n' "$line"
    done <"$ROOT/launch/gke_jobset.yaml"
}

if [[ -n ${option[dry_run]} ]]; then
    fill
else
    fill | kubectl apply -f -
fi
