#!/usr/bin/env bash
# A job on a TPU pod slice, or on several, by gcloud: the command line of a laptop. It runs detached on
# every host, JAX finds the other hosts by itself, and a preempted slice is asked for again.
#
#   bash launch/tpu_vm.sh --name=rt2 --zone=us-east5-a --type=v5p-1024 [--spot] [--dry_run] -- \
#       --config=configs/rt2_pali_x_55b.py --workdir=gs://BUCKET/rt2
#
# --job            train (default), evaluate or collect; its flags stand after --. collect runs on the
#                  first host alone
# --steps          what to do, by comma: create, install, run and watch unless it is said:
#                    create    queue for the slices and wait for them
#                    install   copy this checkout (--commit), make .venv
#                    run       start the job, detached
#                    watch     until it is done: stopped and saved starts again; a preempted slice is
#                              created, installed and run again; an error of the user ends it
#                    status, logs, stop (SIGTERM: saves), delete
#                  The laptop may go: --steps=watch takes up the same job again
# --slices --runtime            how many slices; image, else by the --type
# --commit         what is installed; HEAD, so that uncommitted work is not
# --restarts       how often a crash starts the job again; preemption does however often
# --poll           seconds between two looks of watch
# --spot --reserved --network --subnetwork --internal_ips --service_account --valid_until   as
#                  gcloud's queued-resources create has them; --valid_until is a duration, 24h
# --create_flag    any other flag of it, such as --create_flag=--labels=team=a; may come several times
# --dry_run        prints what would run, and runs nothing
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

switches+='spot reserved internal_ips '
repeated+='create_flag '
option+=(
    [name]='' [zone]='' [type]='' [slices]=1 [runtime]='' [steps]='create,install,run,watch'
    [commit]=HEAD [restarts]=10 [poll]=60 [spot]='' [reserved]='' [network]='' [subnetwork]=''
    [internal_ips]='' [service_account]='' [valid_until]='' [create_flag]='' [dry_run]=''
)
parse "$@"
NAME=${option[name]} DRY_RUN=${option[dry_run]}
[[ -n $NAME && -n ${option[zone]} && -n ${option[type]} ]] ||
    fail 'give --name, --zone and --type (e.g. v5p-1024)'
need_numbers slices poll
[[ ${option[restarts]} =~ ^[0-9]+$ ]] || fail '--restarts is a number from 0'
[[ ! ,${option[steps]}, =~ ,(run|watch), ]] || check_job
[[ -z ${option[spot]} || -z ${option[reserved]} ]] || fail '--spot or --reserved, not both'
commit=$(git -C "$ROOT" rev-parse --verify --quiet "${option[commit]}^{commit}") ||
    fail "--commit=${option[commit]} is no commit of $ROOT"

# The images of docs.cloud.google.com/tpu/docs/runtimes.
runtime=${option[runtime]}
if [[ -z $runtime ]]; then
    case ${option[type]} in
    v4-*) runtime=tpu-ubuntu2204-base ;;
    v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    v6e-*) runtime=v2-alpha-tpuv6e ;;
    v5e-*) fail "--type=${option[type]} is called v5litepod-${option[type]#v5e-} here" ;;
    *) fail "no runtime is known for --type=${option[type]}; give --runtime" ;;
    esac
fi

nodes=("$NAME")
workers=all
if ((option[slices] > 1)); then
    nodes=()
    for ((i = 0; i < option[slices]; i++)); do nodes+=("$NAME-$i"); done
fi
cluster=1
if [[ ${option[job]} == collect ]]; then
    nodes=("${nodes[0]}") workers=0 cluster=0
fi

run() {
    if [[ -n $DRY_RUN ]]; then
        # At once: several print side by side.
        printf '%s\n' "$(printf '%q ' "$@")"
    else
        "$@"
    fi
}

queued() {
    local verb=$1
    shift
    run gcloud compute tpus queued-resources "$verb" "$NAME" --zone="${option[zone]}" "$@"
}

# Prints the state of the request: ACTIVE, SUSPENDED, ..; UNKNOWN if it can't be asked.
state() {
    queued describe --format='value(state.state)' 2>/dev/null || echo UNKNOWN
}

create() {
    local arguments=(--accelerator-type="${option[type]}" --runtime-version="$runtime") name line
    if ((option[slices] > 1)); then
        arguments+=(--node-count="${option[slices]}" --node-prefix="$NAME")
    else
        arguments+=(--node-id="$NAME")
    fi
    for name in network subnetwork service_account; do
        [[ -z ${option[$name]} ]] || arguments+=("--${name//_/-}=${option[$name]}")
    done
    for name in spot reserved internal_ips; do
        [[ -z ${option[$name]} ]] || arguments+=("--${name//_/-}")
    done
    [[ -z ${option[valid_until]} ]] || arguments+=(--valid-until-duration="${option[valid_until]}")
    while IFS= read -r line; do
        [[ -z $line ]] || arguments+=("$line")
    done <<<"${option[create_flag]}"
    queued create "${arguments[@]}"
    local now=''
    while [[ -z $DRY_RUN && $now != ACTIVE ]]; do
        now=$(state)
        say "$NAME is $now"
        [[ $now != FAILED && $now != SUSPENDED ]] || return 1
        [[ $now == ACTIVE ]] || sleep "${option[poll]}"
    done
}

delete() {
    queued delete --force --quiet
}

# Runs a command on every host of every slice at once.
everywhere() {
    local pids=() node pid status=0
    for node in "${nodes[@]}"; do
        run gcloud compute tpus tpu-vm ssh "$node" --zone="${option[zone]}" --worker="$workers" \
            ${option[internal_ips]:+--internal-ip} --command="$1" &
        pids+=($!)
    done
    for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
    return "$status"
}

on_host() {
    everywhere "cd rt2_jax && bash launch/tpu_host.sh $1"
}

install() {
    local archive node graphics=''
    archive=$(mktemp --suffix=.tar.gz)
    [[ -z $(git -C "$ROOT" status --porcelain) ]] ||
        say "warning: uncommitted work is not installed, but ${option[commit]}: $(git -C "$ROOT" log -1 --format='%h %s' "$commit")" >&2
    # A training run draws nothing.
    [[ ${option[job]} != train ]] || graphics="GRAPHICS='' "
    run git -C "$ROOT" archive --format=tar.gz --output="$archive" "$commit"
    for node in "${nodes[@]}"; do
        run gcloud compute tpus tpu-vm scp "$archive" "$node:rt2_jax.tar.gz" --zone="${option[zone]}" \
            --worker="$workers" ${option[internal_ips]:+--internal-ip}
    done
    rm -f "$archive"
    everywhere "mkdir -p rt2_jax && tar xzf rt2_jax.tar.gz -C rt2_jax &&\
 cd rt2_jax && ${graphics}bash launch/tpu_host.sh install"
}

start() {
    everywhere "cd rt2_jax && RT2_JAX_CLUSTER=$cluster bash launch/tpu_host.sh start $(module) $(printf '%q ' "${flags[@]}")"
}

# Prints one word for all hosts: running, unreachable, or what they ended with.
statuses() {
    local output words code
    output=$(on_host status 2>/dev/null) || output=''
    mapfile -t words < <(sed -n 's/^status of .*: //p' <<<"$output" | sort -u)
    # A host that failed keeps the others waiting, so its code counts and not their running; first of
    # all a code that a restart does not mend.
    for code in "${FINAL[@]}"; do
        [[ " ${words[*]} " != *" $code "* ]] || { echo "$code" && return; }
    done
    for code in "${words[@]}"; do
        [[ " 0 running ${AGAIN[*]} " == *" $code "* ]] || { echo "$code" && return; }
    done
    [[ " ${words[*]} " != *' running '* ]] || { echo running && return; }
    # 0 comes first where all but it is to start again.
    ((${#words[@]})) && echo "${words[-1]}" || echo unreachable
}

# Ends what still runs on any host, saving where it can.
stop() {
    on_host stop
}

# Stops the hosts that still run, and starts the job on all of them.
restart() {
    local waited=0
    stop || true
    while on_host status 2>/dev/null | grep -q ': running$'; do
        ((waited++ < 30)) || break
        sleep "$((option[poll] < 10 ? option[poll] : 10))"
    done
    start
}

create_again() {
    say "$NAME is gone (preempted, or failed): asking for it again"
    delete || true
    until create && install && start; do
        say 'that failed; once more'
        sleep "${option[poll]}"
        delete || true
    done
}

watch() {
    local now word crashes=0
    [[ -z $DRY_RUN ]] || return 0
    while true; do
        now=$(state)
        case $now in
        SUSPENDING | SUSPENDED | FAILED) create_again ;;
        ACTIVE)
            word=$(statuses)
            case $word in
            running | unreachable) say "$NAME: $word" ;;
            0) say 'done' && return ;;
            *)
                if [[ " ${FINAL[*]} " == *" $word "* ]]; then
                    on_host 'logs 15' || true
                    stop || true
                    say "an error that a restart does not mend (code $word)" >&2
                    exit "$word"
                elif [[ " ${AGAIN[*]} " == *" $word "* ]]; then
                    say "stopped early (code $word): starting again from what is saved"
                elif ((crashes++ < option[restarts])); then
                    say "crashed ($word): restart $crashes of ${option[restarts]}"
                else
                    on_host 'logs 15' || true
                    say "crashed ($word) after ${option[restarts]} restarts" >&2
                    exit 70
                fi
                restart
                ;;
            esac
            ;;
        *) say "$NAME is $now" ;;
        esac
        sleep "${option[poll]}"
    done
}

IFS=, read -ra steps <<<"${option[steps]}"
for step in "${steps[@]}"; do
    case $step in
    create) create || fail "the request for $NAME failed; delete it: --steps=delete" ;;
    install | watch | delete | stop) "$step" ;;
    run) start ;;
    status | logs) on_host "$step" ;;
    *) fail "--steps: unknown step $step; known: create, install, run, watch, status, logs, stop, delete" ;;
    esac
done
