"""What a process says about itself."""

import subprocess
import sys


def test_peak_memory_is_the_process_own(tmp_path):
    program = (
        "import numpy as np, subprocess, sys\n"
        "from textenv.algos.bench.process import peak_megabytes\n"
        "before = peak_megabytes()\n"
        "held = np.ones(300_000_000 // 8)\n"
        "code = 'from textenv.algos.bench.process import peak_megabytes; print(peak_megabytes())'\n"
        "child = float(subprocess.check_output([sys.executable, '-c', code]))\n"
        "print(before, peak_megabytes(), child)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    before, after, child = map(float, done.stdout.split())
    assert 290 < after - before < 320
    assert child < 200  # it was started by a process that held 300 MB more
