"""The command `e0`: what it prints, and that errors are a line of text, not a traceback."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file

from e0_bench import cli, collect
from e0_experts.selection import Outcome
from e0_maniskill import CameraShift, default_cameras, find_task
from e0_maniskill.demonstrations import ManiSkillSettings
from e0_system.workers import Processes
from made_weights import pi_weights, write_tokenizer


def run_here(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr, as a shell sees them. An exception, which a shell would see as
    a traceback, goes through."""
    monkeypatch.setattr(sys, "argv", ["e0", *arguments])
    code, message = 0, ""
    try:
        cli.main()
    except SystemExit as stop:
        code = 1 if isinstance(stop.code, str) else stop.code or 0
        message = stop.code if isinstance(stop.code, str) else ""
    captured = capsys.readouterr()
    return code, captured.out, captured.err + message


def words(text: str) -> str:
    """The text without the frames and line breaks of the help page."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|[^\x00-\x7f]", " ", text).split())


def test_help_names_every_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run_here(["--help"], monkeypatch, capsys)
    assert code == 0
    for name in cli.SUBCOMMANDS:
        assert f" {name} " in words(out)
    assert {"collect", "train", "bench", "compare", "demo", "import-weights"} <= {*cli.SUBCOMMANDS}


def test_help_of_the_demo_names_settings_and_defaults(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run_here(["demo", "--help"], monkeypatch, capsys)
    assert code == 0
    for text in ("--output", "outputs/demo", "--training-steps", "--denoising-steps", "PushCube"):
        assert text in words(out)


def test_dry_run_prints_a_line_per_task_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["collect", "--dry-run", "--tasks", "PushCube-v1", "--episodes=2", "--workers=1"]
    code, out, _ = run_here(arguments, monkeypatch, capsys)
    assert code == 0
    line = r"PushCube-v1: 2/2 \(100 %, 95 % interval 34–100 %\), failed: \[\]\n"
    assert re.fullmatch(line, out), out
    assert not list(tmp_path.iterdir())


def test_a_dry_run_tries_what_would_be_collected(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = []

    def tell(
        seeds: dict[str, range], *, processes: Processes, settings: ManiSkillSettings, **_: object
    ) -> list[list[Outcome]]:
        tried.append((seeds, processes.workers, settings))
        return [[Outcome(task, s, s != 9001, 10) for s in own] for task, own in seeds.items()]

    monkeypatch.setattr(collect, "try_experts", tell)
    flags = ["--seed=9000", "--episodes=2", "--action-noise=0.3", "--workers=1"]
    code, out, _ = run_here(["collect", "--dry-run", *flags], monkeypatch, capsys)
    assert code == 0 and out.count("failed: [9001]") == 2
    seeds = dict.fromkeys(("PushCube-v1", "PickCube-v1"), range(9000, 9002))
    assert tried == [(seeds, 1, ManiSkillSettings(state_only=True, action_noise=0.3))]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--env=libero", "--state-only"], "no --state-only with --env libero"),
        (["--env=libero", "--depth"], "no --depth with --env libero"),
        (["--env=libero", "--correct=here"], "no --correct with --env libero"),
        (["--official-states"], "no --official-states with --env maniskill"),
    ],
)
def test_settings_of_another_simulator_are_refused(
    flags: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _, err = run_here(["collect", *flags], monkeypatch, capsys)
    assert code == 1 and message in err


@pytest.mark.parametrize(
    "flag", ["--depth", "--videos", "--hand-camera", "--image-size=64", "--camera-shift=5,0,1,0"]
)
def test_settings_of_pictures_are_refused_where_there_are_none(
    flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run_here(["collect", "--state-only", flag], monkeypatch, capsys)
    assert code == 1
    assert f"{flag.partition('=')[0]} is for pictures, and --state-only takes none" in err


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
def test_unknown_task_is_one_line_that_names_the_closest(
    dry_run: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["collect", "--tasks", "PushCub-v1", f"--output={tmp_path / 'data'}", *dry_run]
    code, _, err = run_here(arguments, monkeypatch, capsys)
    assert code == 1
    assert "e0: unknown task 'PushCub-v1'. Did you mean 'PushCube-v1'?" in err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["collect", "--episodes=many"], ["fly"], []])
def test_wrong_arguments_are_refused(
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _, err = run_here(arguments, monkeypatch, capsys)
    assert code == 2
    assert "Traceback" not in err


def test_demonstrations_from_a_moved_camera(
    rendering: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["collect", "--tasks", "PushCube-v1", "--episodes=1", "--workers=1"]
    arguments += ["--image-size=32", f"--output={tmp_path / 'data'}"]
    code, _, err = run_here([*arguments, "--camera-shift=15,5"], monkeypatch, capsys)
    assert code == 1 and "a camera's shift is azimuth,elevation,radius,roll" in err
    code, _, err = run_here([*arguments, "--camera-shift=15,5,1.1,3"], monkeypatch, capsys)
    assert code == 0, err
    record = json.loads((tmp_path / "data/meta/collection.json").read_text())
    home = default_cameras(find_task("PushCube-v1"))["base_camera"]
    moved = home.moved(CameraShift(15, 5, 1.1, 3)).resized(32)
    kept = record["settings"]["PushCube-v1"]["cameras"]["base_camera"]
    assert kept["eye"] == pytest.approx(moved.eye) and kept["roll"] == 3


def test_output_in_use_is_said_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    code, _, err = run_here(["collect", f"--output={tmp_path}"], monkeypatch, capsys)
    assert code == 1
    assert err == (
        f"e0: {tmp_path} exists and is not a collected dataset; choose another output directory"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_demo_in_another_demos_directory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("E0_STATE_ONLY", "1")
    (tmp_path / "settings.json").write_text("{}")
    code, _, err = run_here(["demo", f"--output={tmp_path}"], monkeypatch, capsys)
    assert code == 1
    assert re.fullmatch(r"e0: .* holds a demo with another .*training_steps.*", err)


def test_benchmark_of_no_checkpoint_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, out = tmp_path / "nothing", tmp_path / "out"
    flags = ["--checkpoints", str(checkpoint), "--tasks", "PushCube-v1", f"--out={out}"]
    code, _, err = run_here(["bench", *flags], monkeypatch, capsys)
    assert code == 1
    assert err.splitlines()[-1] == (
        f"e0: {checkpoint} is not a LeRobot checkpoint directory: it does not exist"
    )
    assert not out.exists()


def test_training_takes_the_flags_of_lerobot() -> None:
    command = [sys.executable, "-m", "e0_bench.cli", "train"]
    result = subprocess.run(
        [*command, "--policy.type=e0", "--help"], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    for flag in ("--dataset.repo_id", "--steps", "--policy.vocabulary_size"):
        assert flag in result.stdout


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--policy.horizon=0"], "horizon must be at least 1, got 0"),
        ([], "check --dataset.root"),
        (["--config_path=nowhere.json", "--resume=true"], "nowhere.json"),
    ],
)
def test_errors_of_training_are_one_line(
    flags: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["--policy.type=e0", "--policy.push_to_hub=false", "--dataset.repo_id=local/none"]
    given += [f"--dataset.root={tmp_path / 'none'}", f"--output_dir={tmp_path / 'out'}", *flags]
    code, _, err = run_here(["train", *given], monkeypatch, capsys)
    assert code == 1
    line = next(line for line in err.splitlines() if line.startswith("e0: "))
    assert told in line and "Traceback" not in err[err.index(line) :]


@pytest.mark.parametrize(
    ("given", "found"),
    [({}, "1000"), ({"OMP_WAIT_POLICY": "active"}, "None"), ({"GOMP_SPINCOUNT": "7"}, "7")],
)
def test_waiting_threads_soon_sleep_unless_told_otherwise(
    given: dict[str, str],
    found: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "undone afterwards")
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    tell = {"doctor": lambda _: print(os.environ.get("GOMP_SPINCOUNT"))}
    monkeypatch.setattr(cli, "SUBCOMMANDS", tell)
    assert run_here(["doctor"], monkeypatch, capsys)[1].strip() == found


def test_the_command_is_there_before_pytorch() -> None:
    """Which reads how threads wait as it is loaded."""
    code = "import sys, e0_bench.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_debug_shows_the_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="is not a collected dataset"):
        run_here(["--debug", "collect", f"--output={tmp_path}"], monkeypatch, capsys)


def test_weights_are_imported_and_accounted_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tokenizers")
    source, output = tmp_path / "pi0.safetensors", tmp_path / "weights"
    save_file({f"model.{name}": t for name, t in pi_weights("pi0").items()}, source)
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    arguments = ["import-weights", str(source), "--output", str(output)]
    given = [*arguments, "--tokenizer", str(tokenizer)]
    code, told, _ = run_here(given, monkeypatch, capsys)
    assert code == 0
    assert "pi0 weights from pi0.safetensors" in told
    assert "output of the language model's last layer, which nothing reads" in told
    assert f"--policy.init_from={output}" in told
    assert {"report.json", "tokenizer.json"} <= {file.name for file in output.iterdir()}
    code, _, error = run_here(given, monkeypatch, capsys)
    assert code == 1 and "exists; choose another --output" in error
    other = ["import-weights", str(source), "--output", str(tmp_path / "other")]
    code, _, error = run_here([*other, "--preset", "tiny"], monkeypatch, capsys)
    assert code == 1 and "belong into the preset paligemma_pi0" in error
    assert not (tmp_path / "other").exists()
