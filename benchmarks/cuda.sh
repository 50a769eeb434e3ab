#!/usr/bin/env bash
# Check and measure FinMoE on a GPU; without a GPU, every part runs at toy size. One command, meant for eight minutes:
#   benchmarks/cuda.sh [WHEELS] [--out FOLDER] [--parts NAME,NAME] [--size full|toy] [--print-only]
# WHEELS is a folder of wheels: packages that Python lacks are installed from it, offline, into a temporary folder.
# PYTHON chooses the interpreter, by default python3. Finished parts are kept in FOLDER, so a stopped call resumes.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
wheels=()
if [ -d "${1:-}" ]; then
    wheels=("$1")
    shift
fi
"$python" "$root/benchmarks/cuda/packages.py" "$site" "${wheels[@]}"
export PYTHONPATH="$root:$root/benchmarks:$site${PYTHONPATH:+:$PYTHONPATH}"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
"$python" "$root/benchmarks/cuda/run.py" "$@"
