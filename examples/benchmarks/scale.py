"""A simulation: how far workers for rollouts and one learner scale, at 8, 64 and 512 workers.

    python examples/benchmarks/scale.py
    python examples/benchmarks/scale.py --gflops 25000 --gbytes 400 --bytes-per-weight 2

The first line takes workers like this machine, whose rates it measures in a few seconds: products
of matrices, memory, the share of both that sampling and an update reach on a model of 20 million
weights, and how fast weights become bytes. The second takes the rates that you give. What is
neither measured nor given is assumed, and printed. Nothing here has run on 512 machines.

Three designs are compared, on so many machines for rollouts:

- ``ranks``, as `textenv launch` starts them: each machine plays its share of the groups, then
  computes its share of the gradient; a ring sums the gradients, and no weights are sent.
- ``workers``: they play, and separate machines, one for every four of them, are the learner. It
  sends its weights to each worker, one after another over its own connection.
- ``ahead``: the same, but workers play the next rollout while the learner trains, with weights that
  are one update old.

So the last two have a quarter more machines than ``ranks``.
"""

from __future__ import annotations

import argparse
import heapq
import io
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

WORKERS = (8, 64, 512)
MODELS = {"0.6B": 0.6e9, "8B": 8e9}
SPREAD = 0.6
"""The standard deviation of the logarithm of a completion's length."""
PLAYERS = 4
"""Workers for each machine of the learner."""


@dataclass(frozen=True)
class Rates:
    """What a machine can do."""

    gflops: float
    """Billions of float operations a second, in products of matrices."""
    gbytes: float
    """Billions of bytes a second that are read from memory."""
    sampling: float
    """The share of these that sampling reaches."""
    update: float
    """The share that the forward and backward of an update reaches."""
    packing: float
    """Billions of bytes of weights a second that become a message."""


@dataclass(frozen=True)
class Job:
    """A training."""

    weights: float
    workers: int
    ahead: int
    """By how many updates the weights that play may be older than those that are trained."""
    completions: int = 1024
    """Of a rollout."""
    group: int = 8
    prompt: int = 200
    """Tokens."""
    mean_length: float = 400.0
    """Tokens of a completion; the lengths are log-normal."""
    longest: int = 2048
    bytes_per_weight: int = 4
    gbits: float = 10.0
    """Of the network connection of each machine."""
    learners: int = 1
    """Machines that share the gradient; they are ranks."""


@dataclass
class Outcome:
    """What a simulation found, after the first steps."""

    tokens_per_second: float
    step: float
    """Seconds."""
    busy: dict[str, float]
    """The share of the time that machines play and train, and that weights or gradients travel."""
    staleness: float
    """The mean age of the weights that played, in updates."""


def decode_seconds(rates: Rates, job: Job, rows: int) -> float:
    """The seconds in which each of some rows gets one more token."""
    read = job.weights * job.bytes_per_weight / (rates.gbytes * 1e9)
    compute = 2 * job.weights * rows / (rates.gflops * 1e9)
    return max(read, compute) / rates.sampling


def item_seconds(rates: Rates, job: Job, lengths: np.ndarray) -> float:
    """The seconds in which a machine plays some groups at once: prompts, then all completions."""
    prompts = len(lengths) / job.group * job.prompt
    seconds, before = 2 * job.weights * prompts / (rates.gflops * 1e9) / rates.sampling, 0
    for done, length in enumerate(sorted(lengths.tolist())):
        seconds += (length - before) * decode_seconds(rates, job, len(lengths) - done)
        before = length
    return seconds


def update_seconds(rates: Rates, job: Job, tokens: float) -> float:
    """The seconds of an update: three forwards' worth of work, and the ring if there are ranks."""
    compute = 6 * job.weights * tokens / (rates.gflops * 1e9) / rates.update / job.learners
    share = 2 * (job.learners - 1) / job.learners
    return compute + share * 4 * job.weights / (job.gbits / 8 * 1e9)


def send_seconds(job: Job) -> float:
    """The seconds in which the learner sends its weights to one worker."""
    return job.weights * job.bytes_per_weight / 1e9 / (job.gbits / 8)


def draw(rng: np.random.Generator, job: Job, groups: int) -> np.ndarray:
    """The lengths of the completions of some groups."""
    mu = math.log(job.mean_length) - SPREAD**2 / 2
    lengths = rng.lognormal(mu, SPREAD, groups * job.group)
    return np.clip(lengths, 1, job.longest).astype(int)


def simulate_ranks(rates: Rates, job: Job, steps: int = 6) -> Outcome:
    """Each machine plays its share, all wait for the slowest, and each computes its share."""
    rng, groups, size = np.random.default_rng(0), job.completions // job.group, job.workers
    total, tokens = 0.0, 0.0
    spent = dict.fromkeys(("workers", "learner", "link"), 0.0)
    shares = [groups * (i + 1) // size - groups * i // size for i in range(size)]
    one = replace(job, learners=size)
    for _ in range(steps):
        lengths = [draw(rng, job, share) for share in shares if share]
        seconds = [item_seconds(rates, job, each) for each in lengths]
        made = float(sum(each.sum() for each in lengths))
        trained = made + groups * job.prompt
        compute = update_seconds(rates, replace(one, gbits=math.inf), trained)
        ring = update_seconds(rates, one, trained) - compute
        spent["workers"] += sum(seconds) / size
        spent["learner"] += compute
        spent["link"] += ring
        total += max(seconds) + compute + ring
        tokens += made
    return Outcome(tokens / total, total / steps, {n: v / total for n, v in spent.items()}, 0.0)


def simulate(rates: Rates, job: Job, steps: int = 12) -> Outcome:
    """Workers play and a learner trains, event by event.

    A rollout is cut into items of whole groups, two for each worker if there are as many. An item
    may begin when at most ``ahead`` updates are missing before its own. A worker whose weights are
    older than the newest fetches those first, in a queue for the learner's connection.
    """
    rng, groups = np.random.default_rng(0), job.completions // job.group
    items = min(groups, 2 * job.workers)
    shares = [groups * (i + 1) // items - groups * i // items for i in range(items)]
    free = [(0.0, worker) for worker in range(job.workers)]  # (when, who), a heap
    has = [0] * job.workers  # the version of each worker's weights; all have the first
    published = [0.0]  # when each version was there
    busy = dict.fromkeys(("workers", "learner", "link"), 0.0)
    link, stale, tokens = 0.0, [], []
    for step in range(steps):
        ended, made = 0.0, 0.0
        for share in shares:
            now, worker = heapq.heappop(free)
            least = max(0, step - job.ahead)
            begin = max(now, published[least])
            version = max(v for v in range(least, len(published)) if published[v] <= begin)
            if has[worker] < version:
                link = begin = max(link, begin) + send_seconds(job)
                busy["link"] += send_seconds(job)
                has[worker] = version
            lengths = draw(rng, job, share)
            seconds = item_seconds(rates, job, lengths)
            busy["workers"] += seconds / job.workers
            heapq.heappush(free, (begin + seconds, worker))
            ended, made = max(ended, begin + seconds), made + float(lengths.sum())
            stale.append(step - version)
        update = update_seconds(rates, job, made + groups * job.prompt)
        update += job.weights * job.bytes_per_weight / (rates.packing * 1e9)
        busy["learner"] += update
        published.append(max(ended, published[-1]) + update)
        tokens.append(made)
    half = steps // 2  # the first steps fill the pipeline
    spent = published[-1] - published[half]
    shown = {name: min(1.0, value / published[-1]) for name, value in busy.items()}
    old = float(np.mean(stale[half * items :]))
    return Outcome(sum(tokens[half:]) / spent, spent / (steps - half), shown, old)


def best_of(action: Callable[[], object], times: int = 3) -> float:
    """The shortest of some times that an action takes."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        action()
        found.append(time.perf_counter() - began)
    return min(found)


def measure() -> Rates:
    """Measure what this machine can do, in a few seconds."""
    from textenv.algos.runtime import backend, blas

    backend.prepare()
    import mlx.core as mx
    import mlx.nn as nn
    from mlx_lm.models.cache import make_prompt_cache
    from mlx_lm.models.llama import Model, ModelArgs

    gflops = blas.measure_gflops()
    big = mx.ones((1 << 26,))  # 256 MB
    mx.eval(big)
    vector = mx.ones((1 << 13, 1))
    matrix = big.reshape(1 << 13, 1 << 13)
    gbytes = big.nbytes / best_of(lambda: mx.eval(matrix @ vector)) / 1e9
    packing = big.nbytes / best_of(lambda: io.BytesIO().write(np.array(big).tobytes())) / 1e9
    args = ModelArgs(
        model_type="llama", hidden_size=512, num_hidden_layers=6, intermediate_size=1536,
        num_attention_heads=8, num_key_value_heads=8, rms_norm_eps=1e-5, vocab_size=2048,
    )  # fmt: skip
    model = Model(args)
    mx.eval(model.parameters())
    count = sum(array.size for _, array in _flat(model.parameters()))
    probe = Job(weights=count, workers=1, ahead=0)
    ideal = Rates(gflops, gbytes, 1.0, 1.0, packing)
    cache = make_prompt_cache(model)
    tokens = mx.zeros((8, 1), mx.int32)
    mx.eval(model(mx.zeros((8, 64), mx.int32), cache))
    sampling = decode_seconds(ideal, probe, 8) / best_of(lambda: mx.eval(model(tokens, cache)), 8)
    batch = mx.zeros((8, 64), mx.int32)

    def loss(model: nn.Module) -> mx.array:
        return nn.losses.cross_entropy(model(batch), batch).mean()

    gradient = nn.value_and_grad(model, loss)
    took = best_of(lambda: mx.eval(gradient(model)))
    update = update_seconds(ideal, probe, batch.size) / took
    return Rates(gflops, gbytes, min(1.0, sampling), min(1.0, update), packing)


def _flat(tree: object) -> Iterator[tuple[str, object]]:
    from mlx.utils import tree_flatten

    yield from tree_flatten(tree)


def table(rates: Rates, job: Job) -> Iterator[str]:
    """A row for each model, number of workers, and design."""
    heads = ("tokens/s", "step s", "to all s", "tree s", "stale", "play", "update", "link")
    yield f"{'model':>5} {'workers':>7} {'design':>8} {' '.join(f'{h:>9}' for h in heads)}"
    for name, weights in MODELS.items():
        for workers in WORKERS:
            learners = max(1, workers // PLAYERS)
            one = replace(job, weights=weights, workers=workers, learners=learners)
            send = send_seconds(one)
            sends = workers * send, math.ceil(math.log2(workers + 1)) * send
            for design in ("ranks", "workers", "ahead"):
                ahead = replace(one, ahead=int(design == "ahead"))
                found = simulate_ranks(rates, one) if design == "ranks" else simulate(rates, ahead)
                times = [found.step, *(sends if design != "ranks" else (0.0, 0.0))]
                cells = [f"{found.tokens_per_second:9,.0f}", *(f"{t:9,.1f}" for t in times)]
                cells += [f"{found.staleness:9.2f}", *(f"{v:9.0%}" for v in found.busy.values())]
                yield f"{name:>5} {workers:7d} {design:>8} {' '.join(cells)}"


def ends(rates: Rates, job: Job) -> Iterator[str]:
    """Where the designs stop scaling, by model."""
    rng, groups = np.random.default_rng(0), job.completions // job.group
    for name, weights in MODELS.items():
        one = replace(job, weights=weights)
        play = float(np.mean([item_seconds(rates, one, draw(rng, one, 1)) for _ in range(200)]))
        tokens = job.completions * job.mean_length + groups * job.prompt
        update, send = update_seconds(rates, one, tokens), send_seconds(one)
        ring = 2 * 4 * weights / (job.gbits / 8 * 1e9)
        yield (
            f"{name}: a rollout is {play * groups:,.0f} s of one machine if played group by group, "
            f"its update {update:,.0f} s, the ring {ring:.1f} s, sending the weights {send:.1f} s "
            f"a worker.\n  ranks: from {update / ring:,.0f} machines on, the ring takes longer "
            f"than a machine's share of the gradient.\n  workers: from "
            f"{math.sqrt(play * groups / send):,.0f} on, sending the weights takes longer than "
            f"playing.\n  all: machines above {groups} have no group to play; one group takes "
            f"{play:,.0f} s, however many machines there are."
        )


def main() -> None:
    """Measure, simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("gflops", "gbytes"):
        parser.add_argument(f"--{name}", type=float, help="of a machine; unset: measured here")
    parser.add_argument("--gbits", type=float, default=Job.gbits, help="of a connection")
    parser.add_argument("--bytes-per-weight", type=int, default=Job.bytes_per_weight)
    parser.add_argument("--completions", type=int, default=Job.completions, help="of a rollout")
    given = parser.parse_args()
    rates = measure()
    print(
        f"measured here: {rates.gflops:.0f} GFLOP/s, {rates.gbytes:.1f} GB/s from memory; "
        f"sampling reaches {rates.sampling:.2f} of these, an update {rates.update:.2f}; weights "
        f"become bytes at {rates.packing:.1f} GB/s"
    )
    changed = {name: getattr(given, name) for name in ("gflops", "gbytes") if getattr(given, name)}
    rates = replace(rates, **changed)
    if changed:
        print(
            f"given, not measured: {', '.join(f'{n}={v:g}' for n, v in changed.items())}; sampling "
            "and updates are assumed to reach the same shares of these"
        )
    job = Job(
        1, 1, 0, given.completions, gbits=given.gbits,
        bytes_per_weight=given.bytes_per_weight,
    )  # fmt: skip
    print(
        f"assumed: all machines are alike, on connections of {job.gbits:g} Gbit/s; rollouts of "
        f"{job.completions} completions in groups of {job.group}; prompts of {job.prompt} tokens, "
        f"completions of {job.mean_length:.0f} on average and at most {job.longest}; "
        f"{job.bytes_per_weight} bytes a weight; the learner has a machine for every {PLAYERS} "
        "workers; rewards take no time; nothing fails; attention's own work is left out\n"
    )
    print(*table(rates, job), sep="\n")
    print(
        "\n'to all' is sending the weights to all workers one after another, 'tree' what a tree "
        "would take.\n'stale' is the mean age of the weights that played, in updates. The last "
        "columns are shares of the time:\nmachines at play, the update, and the connection that "
        "weights or gradients take.\n"
    )
    print(*ends(rates, job), sep="\n")


if __name__ == "__main__":
    main()
