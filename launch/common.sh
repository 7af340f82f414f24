# shellcheck shell=bash
# shellcheck disable=SC2034
# Sourced by slurm.sh, gke.sh and tpu_vm.sh: their arguments, and the commands that they start.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
SCRIPT=$(basename "$0")

# Exit codes with which the same command goes on (rt2_jax/exit_codes.py): stopped and saved, and
# SIGTERM before there was anything to save. With those of FINAL it would fail again.
AGAIN=(75 143)
FINAL=(1 2)

declare -A option=([job]=train) # --NAME=VALUE, by name; a script adds its own with their defaults
switches=' dry_run '            # the names that stand alone, as --dry_run
repeated=' '                    # the names that may come several times: their values line by line
flags=()                        # what stands after --

fail() {
    printf '%s: %s\n' "$SCRIPT" "$1" >&2
    exit 2
}

say() {
    printf '%s: %s\n' "$SCRIPT" "$1"
}

# Fills `option` and `flags` from a command line; --help prints the script's first comment.
parse() {
    local name value
    while (($#)); do
        case $1 in
        --) shift && flags=("$@") && return ;;
        --help | -h) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit ;;
        --*) ;;
        *) fail "unknown argument $1; the flags of the job stand after --" ;;
        esac
        name=${1#--} value=1
        if [[ $name == *=* ]]; then
            value=${name#*=} name=${name%%=*}
        fi
        [[ $name =~ ^[a-z_]+$ && -v option[$name] ]] ||
            fail "unknown argument --$name; known: $(printf -- '--%s\n' "${!option[@]}" | sort | xargs)"
        [[ $1 == *=* || $switches == *" $name "* ]] || fail "--$name needs a value: --$name=VALUE"
        [[ $1 != *=* || $switches != *" $name "* ]] || fail "--$name takes no value"
        if [[ $repeated == *" $name "* && -n ${option[$name]} ]]; then
            value=${option[$name]}$'\n'$value
        fi
        option[$name]=$value
        shift
    done
}

# Prints the module that --job names.
module() {
    case ${option[job]} in
    train | evaluate) printf 'rt2_jax.%s' "${option[job]}" ;;
    collect) printf 'rt2_jax.envs.tabletop.collect' ;;
    *) fail "--job=${option[job]}: unknown; known: train, evaluate, collect" ;;
    esac
}

# Fails unless --job is known and its flags are there.
check_job() {
    module >/dev/null
    ((${#flags[@]})) || fail "give the flags of $(module) after --"
    local flag file
    for flag in "${flags[@]}"; do
        case $flag in
        --config=*)
            file=${flag#*=} file=${file%%:*}
            [[ $file == /* || -f $ROOT/$file ]] || fail "there is no $file in $ROOT"
            ;;
        --workdir=gs://* | --workdir=/*) ;;
        --workdir=*) say "warning: ${flag#*=} is a folder of each host; give gs:// or a folder that all hosts share" >&2 ;;
        esac
    done
    # An evaluation begins anew: one that a time limit ends would never be done.
    [[ ${option[job]} != evaluate ]] || AGAIN=(75)
}

# Fails unless the options named are whole numbers from 1.
need_numbers() {
    local name
    for name in "$@"; do
        [[ ${option[$name]} =~ ^[1-9][0-9]*$ ]] || fail "--$name=${option[$name]} is no number from 1"
    done
}
