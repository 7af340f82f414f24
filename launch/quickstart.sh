#!/usr/bin/env bash
# From a fresh machine to a robot policy: .venv, pinned install, then launch/quickstart.py, which
# collects episodes, co-fine-tunes the packaged tiny PaLI and evaluates it.
#   bash launch/quickstart.sh [--quick] [--workdir=runs/quickstart] [--help]
# Interrupted and started again, it goes on where it was.
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

python=$(find_python)
# A mistyped argument should not cost a set-up.
"$python" "$ROOT/launch/quickstart.py" --check_arguments "$@"
case " $* " in
*" --help "* | *" -h "*) exit ;;
esac

set_up
exec python "$ROOT/launch/quickstart.py" --setup_seconds="$SECONDS" "$@"
