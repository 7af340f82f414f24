# shellcheck shell=bash
# Sourced by quickstart.sh, test.sh, tpu_host.sh and worlds.sh: `set_up` makes .venv with the pinned versions
# of constraints.txt and sees to it that something can draw; when nothing changed it takes no time.
#
#   PYTHON   interpreter to build .venv from (3.11 or newer); else the first one found
#   EXTRAS   extras of setup.py to install, by comma; "sim,test" by default
#   GRAPHICS Debian packages that draw without a display; '' where nothing is drawn

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$ROOT/.venv
EXTRAS=${EXTRAS:-sim,test}
GRAPHICS=${GRAPHICS-libegl1 libgl1-mesa-dri}
# For worlds.sh: a file of further packages, and what tries to draw; '' where the tabletop is what draws.
PINS=
DRAWS=

fail() {
    printf '\nset-up failed: %s\n' "$*" >&2
    exit 1
}

# Prints the path of a Python that will do.
find_python() {
    local candidate path candidates=(python3.11 python3.12 python3 python3.13 python)
    if [[ -n ${PYTHON:-} ]]; then
        candidates=("$PYTHON")
    fi
    for candidate in "${candidates[@]}"; do
        # A version switcher may have the name and not the program, so it is run, not just found.
        path=$("$candidate" -c 'import sys; print(sys.executable if sys.version_info >= (3, 11) else "")' \
            2>/dev/null) || continue
        if [[ -n $path ]]; then
            printf '%s\n' "$path"
            return
        fi
    done
    fail "no Python 3.11 or newer (tried: ${candidates[*]}). Install one, or set PYTHON to its path."
}

# Says in one word what the environment was made from.
fingerprint() {
    {
        cat "$ROOT/setup.py" "$ROOT/launch/constraints.txt" ${PINS:+"$PINS"}
        printf '%s\n' "$ROOT" "$EXTRAS"
        "$1" -VV
    } | sha256sum | cut -d' ' -f1
}

# One line of progress from pip's many.
show_progress() {
    local terminal=0
    if [[ -t 1 ]]; then
        terminal=1
    fi
    awk -v terminal="$terminal" '
        /^(Collecting|Processing) / { n++; if (terminal) printf "\r\033[K  %d packages: %s", n, $2 }
        /^Installing collected /    { if (n > 1) printf "%s  installing %d packages\n", terminal ? "\r\033[K" : "", n }
        { fflush() }'
}

install_packages() {
    local python=$1 log=$VENV/install.log pip=("$VENV/bin/python" -m pip --disable-pip-version-check)
    printf 'setting up %s with %s, extras %s (log: %s/install.log)\n' \
        "${VENV#"$ROOT/"}" "$("$python" -V)" "$EXTRAS" "${VENV#"$ROOT/"}"
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python cannot make virtual environments; on Debian: apt-get install python3-venv"
    "$python" -m venv --clear "$VENV"
    "${pip[@]}" install -q -c "$ROOT/launch/constraints.txt" setuptools >"$log" 2>&1 ||
        fail "pip could not install setuptools: $(tail -n 5 "$log")"
    pip_install "$EXTRAS"
}

# Installs extras of setup.py, by comma, with the pinned versions.
pip_install() {
    local log=$VENV/install.log
    if ! "$VENV/bin/python" -m pip --disable-pip-version-check install --use-pep517 --no-build-isolation \
        --progress-bar off -c "$ROOT/launch/constraints.txt" ${PINS:+-r "$PINS"} -e "${ROOT}[$1]" 2>&1 |
        tee -a "$log" | show_progress; then
        tail -n 15 "$log" >&2
        fail "pip could not install everything; run the same command again once that is put right"
    fi
}

# Adds an extra to the .venv that set_up made, once.
add_extra() {
    local stamp=$VENV/added_$1
    exec 9<"$ROOT/launch"
    flock 9
    if [[ ! -f $stamp ]]; then
        printf 'adding the extra %s\n' "$1"
        pip_install "$1"
        touch "$stamp"
    fi
    exec 9<&-
}

can_draw() {
    local code='from rt2_jax.envs.tabletop import rendering; rendering.create_context(64, 64).free()'
    "$VENV/bin/python" -c "${DRAWS:-$code}" 2>&1
}

install_graphics() {
    local problem
    if [[ -z $GRAPHICS ]] || problem=$(can_draw); then
        return
    fi
    local root=()
    [[ $(id -u) == 0 ]] || root=(sudo -n)
    if [[ -z $(command -v apt-get) ]] || ! "${root[@]}" true 2>/dev/null; then
        fail "nothing here draws without a display:
$problem
On Debian and Ubuntu: sudo apt-get install $GRAPHICS"
    fi
    printf 'nothing here draws without a display; installing %s\n' "$GRAPHICS"
    # shellcheck disable=SC2086
    { "${root[@]}" apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
        "${root[@]}" apt-get install -qq -y --no-install-recommends $GRAPHICS; } \
        >"$VENV/apt.log" 2>&1 || { tail -n 15 "$VENV/apt.log" >&2; fail "apt-get could not install $GRAPHICS"; }
    problem=$(can_draw) || fail "$problem"
}

# Makes or reuses $VENV and puts it first in PATH.
set_up() {
    local python wanted stamp=$VENV/made_from
    python=$(find_python)
    wanted=$(fingerprint "$python")
    # Two scripts started at once take turns. The lock is on this folder: .venv may be made anew.
    exec 9<"$ROOT/launch"
    flock 9
    if [[ ! -f $stamp || $(<"$stamp") != "$wanted" ]] || ! "$VENV/bin/python" -c '' 2>/dev/null; then
        install_packages "$python"
        if [[ ,$EXTRAS, == *,sim,* || -n $DRAWS ]]; then
            install_graphics
        fi
        printf '%s\n' "$wanted" >"$stamp"
    fi
    exec 9<&-
    export PATH=$VENV/bin:$PATH
}
