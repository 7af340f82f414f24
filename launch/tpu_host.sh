#!/usr/bin/env bash
# One host of a TPU VM slice, in its copy of the checkout; tpu_vm.sh runs this on every host by ssh.
#
#   bash launch/tpu_host.sh install             # .venv with the extras of a pod
#   bash launch/tpu_host.sh start MODULE FLAG.. # detached: it outlives the connection
#   bash launch/tpu_host.sh status              # none, running, lost, or the exit code
#   bash launch/tpu_host.sh logs [LINES]        # the end of runs/tpu_host/log, which all starts share
#   bash launch/tpu_host.sh stop                # SIGTERM: it saves and ends with 75
#
# RT2_JAX_CLUSTER=0 runs a job on this host alone.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
STATE=$ROOT/runs/tpu_host # pid, code, log
cd "$ROOT"

# The image of a TPU VM has Python 3.10. uv brings a newer one without root and without apt, whose
# lock a fresh VM's own upgrades hold for minutes.
install() {
    # shellcheck source=launch/environment.sh
    source "$ROOT/launch/environment.sh"
    if ! PYTHON=$(find_python 2>/dev/null); then
        python3 -m pip install --quiet --user 'uv>=0.5,<1'
        python3 -m uv python install --quiet 3.12
        PYTHON=$(python3 -m uv python find 3.12)
    fi
    EXTRAS=${EXTRAS:-sim,tpu,remote}
    set_up
}

status() {
    if [[ -f $STATE/code ]]; then
        cat "$STATE/code"
    elif [[ ! -f $STATE/pid ]]; then
        echo none
    elif grep -qs rt2_jax "/proc/$(<"$STATE/pid")/cmdline"; then
        echo running
    else
        echo lost # the machine started again
    fi
}

start() {
    if [[ $(status) == running ]]; then
        echo "tpu_host.sh: a job runs on $(hostname) already; stop it first" >&2
        exit 2
    fi
    mkdir -p "$STATE"
    rm -f "$STATE/code" "$STATE/pid"
    printf '\n== %s on %s: %s\n' "$(date -u +%FT%TZ)" "$(hostname)" "$*" >>"$STATE/log"
    # A session of its own has no terminal to lose. RT2_JAX_CLUSTER: a TPU VM's hosts are told of each
    # other by no variable (rt2_jax/parallel/distributed.py).
    # shellcheck disable=SC2016
    RT2_JAX_CLUSTER=${RT2_JAX_CLUSTER:-1} setsid bash -c '
        state=$1
        shift
        .venv/bin/python -u -m "$@" &
        echo $! >"$state/pid"
        wait $!
        echo $? >"$state/code"
    ' rt2_jax "$STATE" "$@" </dev/null >>"$STATE/log" 2>&1 &
    until [[ -f $STATE/pid ]]; do sleep 0.1; done
}

stop() {
    [[ $(status) != running ]] || kill -TERM "$(<"$STATE/pid")"
}

case ${1:-} in
install | stop) "$1" ;;
start) shift && start "$@" ;;
status) printf 'status of %s: %s\n' "$(hostname)" "$(status)" ;;
logs) tail -n "${2:-20}" "$STATE/log" | sed "s/^/[$(hostname)] /" ;;
*)
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
