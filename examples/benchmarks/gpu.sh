#!/usr/bin/env bash
# Run the tests and `textenv bench` on a machine with a GPU that MLX computes on: CUDA or Metal.
#
#     bash examples/benchmarks/gpu.sh [FOLDER]
#
# It makes a virtual environment in FOLDER (default: runs/gpu) and installs the package there, with
# the extra for this machine and the libraries to compare with. It then writes to FOLDER the output
# of the tests and of `textenv doctor`, and the results. PYTHON chooses the interpreter, EXTRA the
# extra (cuda12 for an older driver).
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-runs/gpu}
python=${PYTHON:-python3}

if [[ $(uname -s) == Darwin && $(uname -m) == arm64 ]]; then
    extra=${EXTRA:-mlx}
elif [[ $(uname -s) == Linux ]] && command -v nvidia-smi >/dev/null && nvidia-smi -L | grep -c GPU >/dev/null; then
    extra=${EXTRA:-cuda13}
else
    echo "gpu.sh: no GPU here that MLX computes on (Apple Silicon, or Linux with nvidia-smi)" >&2
    exit 1
fi

mkdir -p "$out"
out=$(cd "$out" && pwd)
"$python" -m venv "$out/venv"
bin=$out/venv/bin
"$bin/pip" install -q -c constraints.txt -e ".[$extra,sb3,tasks,rewards,export,test,trl]"
"$bin/python" - <<'PY'
import mlx.core as mx

if mx.default_device() == mx.cpu:
    raise SystemExit("gpu.sh: MLX is installed, and sees no GPU")
PY

"$bin/textenv" doctor | tee "$out/doctor.txt"
# If a test fails on this machine, that is a result too, and the measurements are still made.
"$bin/python" -m pytest 2>&1 | tee "$out/tests.txt" || echo "gpu.sh: some tests failed, see $out/tests.txt" >&2
"$bin/textenv" bench --out "$out/bench-$(date +%Y%m%d-%H%M%S)" 2>&1 | tee "$out/bench.txt"
echo "results are in $out"
