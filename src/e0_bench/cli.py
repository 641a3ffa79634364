"""The command `e0`. A subcommand's modules are imported when it is asked for."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable

Arguments = list[str]

HELP = """\
usage: e0 SUBCOMMAND ...

E0, a robot policy by continuized discrete diffusion.

{subcommands}

e0 SUBCOMMAND --help shows its flags; --debug shows the traceback of any error.\
"""


def collect(arguments: Arguments) -> None:
    """Let scripted experts make demonstrations: a LeRobotDataset v3.

    Stopped, it goes on where it was when the same command is given again."""
    from e0_bench.collect import CollectCommand, run_collect

    run_collect(_parse(CollectCommand, arguments, collect))


def train(arguments: Arguments) -> None:
    """Train a policy, with the flags of `lerobot-train` and all frames kept in memory."""
    from lerobot_policy_e0 import training

    sys.argv = ["e0 train", *arguments]  # where LeRobot looks for its flags
    training.main()


def bench(arguments: Arguments) -> None:
    """Measure policies of any LeRobot type on the same episodes, and compare them.

    The summary covers what is asked for. Stopped, it goes on where it was, and asking for more
    episodes, tasks or checkpoints extends it."""
    from e0_bench.closed_loop.benchmark import run_benchmark
    from e0_bench.closed_loop.settings import BenchmarkSettings
    from e0_bench.closed_loop.summary import markdown

    settings = _parse(BenchmarkSettings, arguments, bench)
    print(f"\n{markdown(run_benchmark(settings))}\nResults: {settings.out}")


def compare(arguments: Arguments) -> None:
    """Collect, train and measure several policies on equal terms, as a recipe says."""
    from e0_bench.comparison import command
    from e0_bench.comparison.comparison import ComparisonSettings

    print(command.compare(_parse(ComparisonSettings, arguments, compare)))


def report(arguments: Arguments) -> None:
    """Write a page of what was measured, with clips: of `e0 compare` or `e0 bench`."""
    from e0_bench.report.command import ReportCommand, run_report

    print(f"Report: {run_report(_parse(ReportCommand, arguments, report))}")


def demo(arguments: Arguments) -> None:
    """Collect, train and evaluate a policy on two tasks, and write a report."""
    from e0_bench.demo.demo import run_demo
    from e0_bench.demo.settings import DemoSettings

    run_demo(_parse(DemoSettings, arguments, demo))


def doctor(arguments: Arguments) -> None:
    """Say what of a dataset will train badly, and which flag helps; exit code 1 for errors.

    Takes --policy.* flags as training does (--policy.horizon=16) and looks with these settings."""
    from e0_bench.doctor.command import DoctorCommand, read_config, run_doctor, split_flags

    own, policy = split_flags(arguments)
    command = _parse(DoctorCommand, own, doctor)
    if not run_doctor(command, read_config(policy)).healthy:
        sys.exit(1)


def import_weights(arguments: Arguments) -> None:
    """Check weights of pi-0, pi-0.5, PaliGemma or E0's authors, and keep what E0 uses.

    Every tensor is accounted for. Start from the result with --policy.init_from=OUTPUT."""
    from e0_bench.import_weights import ImportWeightsCommand, run_import_weights

    run_import_weights(_parse(ImportWeightsCommand, arguments, import_weights))


def import_vlabench(arguments: Arguments) -> None:
    """Make a LeRobotDataset v3 of VLABench's demonstrations, and let the doctor look at it.

    Stopped, it goes on where it was when the same command is given again."""
    from e0_bench.import_vlabench import ImportVlabenchCommand, run_import_vlabench

    if not run_import_vlabench(_parse(ImportVlabenchCommand, arguments, import_vlabench)).healthy:
        sys.exit(1)


def serve(arguments: Arguments) -> None:
    """Serve a checkpoint to robots, by the websocket protocol of openpi's clients."""
    from e0_bench.serve import ServeCommand, run_serve

    run_serve(_parse(ServeCommand, arguments, serve))


def remote(arguments: Arguments) -> None:
    """Write a checkpoint directory whose policy acts by a server, as for `e0 bench`."""
    from e0_bench.remote import RemoteCommand, run_remote

    run_remote(_parse(RemoteCommand, arguments, remote))


SUBCOMMANDS = {
    run.__name__.replace("_", "-"): run
    for run in (
        collect,
        import_vlabench,
        doctor,
        train,
        bench,
        compare,
        report,
        serve,
        remote,
        demo,
        import_weights,
    )
}


def main() -> None:
    """Entry point of the command `e0`.

    Errors that can be foreseen end it with one line; --debug shows their traceback, too.
    """
    debug = "--debug" in sys.argv
    name, *arguments = [argument for argument in sys.argv[1:] if argument != "--debug"] or [""]
    if name in ("-h", "--help"):
        print(_help())
        return
    if name not in SUBCOMMANDS:
        complaint = f"unknown subcommand {name!r}" if name else "which subcommand?"
        print(f"{_help()}\n\ne0: {complaint}", file=sys.stderr)
        sys.exit(2)
    # Threads that spin long while they wait take the cores that other programs need, and those then
    # theirs: `benchmarks/busy.py`. Read when PyTorch is loaded; child processes here have it, too.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        SUBCOMMANDS[name](arguments)
    except (ValueError, RuntimeError, OSError) as error:
        if debug:
            raise
        sys.exit(f"e0: {error}")


def _help() -> str:
    summaries = [
        f"  {name:16}{_describe(run).splitlines()[0]}" for name, run in SUBCOMMANDS.items()
    ]
    return HELP.format(subcommands="\n".join(summaries))


def _describe(run: Callable[[Arguments], None]) -> str:
    return inspect.getdoc(run) or ""


def _parse[Settings](
    kind: type[Settings], arguments: Arguments, run: Callable[[Arguments], None]
) -> Settings:
    """The settings of a subcommand from its flags."""
    import tyro

    program = f"e0 {run.__name__.replace('_', '-')}"
    return tyro.cli(kind, args=arguments, prog=program, description=_describe(run))


if __name__ == "__main__":
    main()
