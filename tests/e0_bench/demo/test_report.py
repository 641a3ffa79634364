import base64
import html
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from e0_bench.demo.report import Clip, InvalidReportError, Report, success_figure, write_report


def make_clip(path: Path, shade: int) -> Path:
    frames = [Image.new("RGB", (32, 32), (shade, 40 * k, 90)) for k in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=200, loop=0)
    return path


def make_results(blind: int = 2) -> dict:
    push = {
        "successes": 43,
        "episodes": 50,
        "seeds": list(range(1000, 1050)),
        "blackout_successes": blind,
        "blackout_episodes": 20,
    }
    return {
        "tasks": {"PushCube-v1": push},
        "decoding": "fixed",
        "evaluations": 3.0,
        "seconds": {"collect": 41.5, "train": 754.0, "evaluate": 190.0, "total": 3985.5},
        "peak_rss_mb": 2345.6,
        "chunk_latency_ms": {"median": 21.4, "p95": 30.2, "n": 312},
        "data_loading_share": 0.0213,
        "state_only": False,
    }


def sharpening_posterior(
    steps: int, horizon: int, codebook: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """(K, H, D, V): Gaussian bumps over the code index that narrow from step to step."""
    dimensions, codes = codebook.shape
    centre = (0.5 + 0.4 * np.sin(np.linspace(0, 3, horizon)[:, None] + np.arange(dimensions))) * (
        codes - 1
    )
    centre = centre + random.normal(0, 1, centre.shape)
    width = codes / 2.0 ** (np.arange(steps) * 2 + 1)
    distance = np.arange(codes) - centre[..., None]
    logits = -0.5 * (distance / width[:, None, None, None]) ** 2
    posterior = np.exp(logits - logits.max(-1, keepdims=True))
    return posterior / posterior.sum(-1, keepdims=True)


@pytest.fixture
def report(tmp_path: Path) -> Report:
    random = np.random.default_rng(0)
    names = ["x", "gripper"]
    codebook = np.linspace(-1, 1, 32)[None].repeat(2, 0)
    codebook[1] = [-1.0] + [1.0] * 31  # a gripper's two levels, padded as the tokenizer does
    task = "PushCube-v1"
    return Report(
        results=make_results(),
        instructions={task: "push the cube to the goal"},
        learning_curve=[
            {
                "step": step,
                "loss": 3.5 * 0.97**index + 0.1 * random.random(),
                "lr": 3e-4,
                "update_s": 0.2,
                "dataloading_s": 0.01,
            }
            for index, step in enumerate(range(10, 1210, 50))
        ],
        round_trip=[
            {
                "dimension": name,
                "codes": 2 if name == "gripper" else 32,
                "rmse": 0.00432,
                "rmse_over_std": 0.0123,
                "maximum": 0.0345,
            }
            for name in names
        ],
        posterior=sharpening_posterior(3, 6, codebook, random),
        codebook=codebook,
        dimension_names=names,
        posterior_image=random.integers(0, 255, (16, 16, 3), dtype=np.uint8),
        entropy={task: [[2.0, 1.1, 0.4], [1.9, 1.7, 2.1, 2.2]]},
        entropy_outcomes={task: [True, False]},
        clips=[
            Clip(task, 1000, True, False, make_clip(tmp_path / "a.webp", 200)),
            Clip(task, 1003, False, True, make_clip(tmp_path / "b.webp", 20)),
        ],
        settings={"training steps": 1200, "batch": 64},
        versions={"torch": "2.11.0"},
    )


def page_of(report: Report, directory: Path) -> str:
    path = directory / "report.html"
    write_report(path, report)
    return path.read_text(encoding="utf-8")


def words_of(page: str) -> str:
    body = re.sub(r"<(style|svg)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def with_results(report: Report, **changes) -> Report:
    return replace(report, results=report.results | changes)


def test_page_holds_the_numbers(report, tmp_path):
    words = words_of(page_of(report, tmp_path))
    for expected in (
        "the policy usually succeeds: 43/50 (86 %, 95 % interval 74–93 %).",
        "2/20 (10 %, 95 % interval 3–30 %)",
        "1000–1049",
        "21.4 ms",
        "30.2 ms",
        "12 min 34 s",
        "1 h 6 min",
        "2350 MB",
        "2.13 %",
        "0.00432",
        "1 of these 2 episodes succeeded.",
        "seed 1003: failure , blind",
        "training steps 1200",
        "torch 2.11.0",
    ):
        assert expected in words
    assert "No images were used" not in words


def test_sections_come_in_order(report, tmp_path):
    headings = re.findall(r"<h2>(.*?)</h2>", page_of(report, tmp_path))
    assert headings == [
        "Success",
        "Learning",
        "From noise to actions",
        "Confidence over an episode",
        "Speed, time and memory",
        "Action tokens: what rounding costs",
        "Episodes",
        "Settings",
        "Versions",
    ]


def test_page_is_self_contained(report, tmp_path):
    page = page_of(report, tmp_path)
    targets = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", page)
    assert all(target.startswith(("data:", "#")) for target in targets)
    assert not re.search(r"<script|<link|@import|url\((?!#)", page)
    assert page.count("data:image/webp;base64,") == 2
    assert re.findall(r"denoising step (\d of \d)", page) == ["1 of 3", "2 of 3", "3 of 3"]
    assert "#010203" not in page and "currentColor" in page
    assert str(tmp_path) not in page


def test_same_report_gives_the_same_page(report, tmp_path):
    assert page_of(report, tmp_path) == page_of(report, tmp_path)


def test_text_is_escaped(report, tmp_path):
    instructions = {"PushCube-v1": "<b>push</b>"}
    page = page_of(replace(report, instructions=instructions, settings={"<i>": "&$x$"}), tmp_path)
    assert "&lt;b&gt;push&lt;/b&gt;" in page and "&lt;i&gt;" in page
    assert "<b>" not in page and "<i>" not in page


@pytest.mark.parametrize(
    ("blind", "warning"),
    [
        (2, None),
        (14, "The blind control's interval overlaps the seeing one"),
    ],
)
def test_overlap_with_the_blind_control_is_said(report, tmp_path, blind, warning):
    words = words_of(page_of(replace(report, results=make_results(blind)), tmp_path))
    assert ("may not be using its images" in words) == (warning is not None)
    assert warning is None or warning in words


def test_a_blind_control_that_does_better_is_said(report, tmp_path):
    results = make_results(blind=20)
    results["tasks"]["PushCube-v1"]["successes"] = 5
    words = words_of(page_of(replace(report, results=results), tmp_path))
    assert "Blind, the policy does better than seeing" in words
    assert "the policy sometimes succeeds: 5/50" in words


def test_state_only_is_said_at_the_top(report, tmp_path):
    blind_as_seeing = with_results(replace(report, results=make_results(20)), state_only=True)
    words = words_of(page_of(replace(blind_as_seeing, posterior_image=None), tmp_path))
    assert words.index("No images were used.") < words.index("the policy usually succeeds")
    assert "does not apply" in words and "No camera image belongs to this chunk" in words
    assert "20/20" not in words and "may not be using its images" not in words


def test_missing_parts_are_said_in_words(report, tmp_path):
    empty = replace(
        report, entropy={}, entropy_outcomes={}, clips=[], round_trip=[], settings={}, versions={}
    )
    words = words_of(page_of(empty, tmp_path))
    for part in ("entropies were", "clips were", "round-trip error was", "settings", "versions"):
        assert f"No {part}" in words


def test_missing_outcomes_among_clips_are_said(report, tmp_path):
    assert "No failure of the policy was recorded." in words_of(page_of(report, tmp_path))
    perfect = make_results()
    perfect["tasks"]["PushCube-v1"]["successes"] = 50
    words = words_of(page_of(replace(report, results=perfect), tmp_path))
    assert "There is no failure to show: the policy solved every episode." in words
    assert "No success of the policy" not in words


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_curve": []}, "learning_curve is empty"),
        ({"learning_curve": [{"step": 1, "loss": float("nan")}]}, "not finite"),
        ({"posterior": np.zeros((0, 6, 2, 32))}, r"\(K, H, D, V\).*\(0, 6, 2, 32\)"),
        ({"posterior": np.zeros((3, 6, 2, 32))}, "sum to 1"),
        ({"codebook": np.zeros((2, 16))}, r"codebook must have shape \(2, 32\)"),
        ({"dimension_names": ["x"]}, "2 dimension_names"),
        ({"posterior_image": np.zeros((4, 4, 3))}, "uint8"),
        ({"entropy_outcomes": {"PushCube-v1": [True]}}, "2 episodes but 1 outcomes"),
        ({"entropy_outcomes": {}}, "name other tasks"),
        ({"instructions": {}}, "PushCube-v1"),
        ({"results": {"tasks": {}}}, "at least one evaluated task"),
        ({"results": {"tasks": make_results()["tasks"]}}, "state_only"),
        ({"results": make_results() | {"chunk_latency_ms": {}}}, "median"),
        ({"learning_curve": [{"step": 1, "loss": 2.0}]}, "'lr'"),
        ({"clips": [Clip("Other", 0, True, False, Path("a.webp"))]}, "without results: Other"),
    ],
)
def test_wrong_input_is_named(report, tmp_path, changes, message):
    with pytest.raises(InvalidReportError, match=message):
        write_report(tmp_path / "report.html", replace(report, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"successes": 51}, "PushCube-v1.*51 of 50"),
        ({"blackout_successes": 21}, "PushCube-v1.*21 of 20"),
        ({"seeds": [1, 2]}, "2 seeds for 50 episodes"),
    ],
)
def test_wrong_counts_are_named(tmp_path, changes, message):
    results = make_results()
    results["tasks"]["PushCube-v1"] |= changes
    with pytest.raises(InvalidReportError, match=message):
        success_figure(results, tmp_path / "success.png")
    del results["tasks"]["PushCube-v1"]["successes"]
    with pytest.raises(InvalidReportError, match="lack 'successes'"):
        success_figure(results, tmp_path / "success.png")
    assert not list(tmp_path.iterdir())


def test_failure_leaves_the_old_page(report, tmp_path):
    directory = tmp_path / "out"
    directory.mkdir()
    old = page_of(report, directory)
    report.clips[1].file.write_bytes(b"cut off")
    with pytest.raises(InvalidReportError, match=r"b\.webp is not a \.webp file"):
        write_report(directory / "report.html", report)
    report.clips[1].file.unlink()
    with pytest.raises(FileNotFoundError):
        write_report(directory / "report.html", report)
    assert (directory / "report.html").read_text(encoding="utf-8") == old
    assert [file.name for file in directory.iterdir()] == ["report.html"]


def test_failing_replacement_leaves_nothing_behind(tmp_path):
    target = tmp_path / "success.png"
    (target / "in the way").mkdir(parents=True)
    with pytest.raises(OSError):
        success_figure(make_results(), target)
    assert [file.name for file in tmp_path.iterdir()] == ["success.png"]


def test_success_figure_is_a_picture(tmp_path):
    path = tmp_path / "success.png"
    success_figure(make_results(), path)
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert (pixels[0] == 255).all()
    for colour in ((0x3B, 0x82, 0xC4), (0x8B, 0x95, 0xA1)):  # policy and blind control
        assert (pixels == colour).all(1).sum() > 500


def test_padded_codes_are_one_row_with_all_their_mass(report, tmp_path):
    """The gripper's 31 equal codes are one level: its picture is 2 rows high, the other 32."""
    page = page_of(report, tmp_path)
    pictures = re.findall(r'xlink:href="data:image/png;base64,([^"]*)"', page)
    opacity = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))[..., 3] / 255
        for data in pictures
    ]
    assert [picture.shape for picture in opacity] == [(32, 6), (2, 6)] * 3
    for picture in opacity:  # colour is the square root of the probability
        np.testing.assert_allclose((picture**2).sum(0), 1, atol=0.05)
    assert opacity[0].max() < 0.5 < opacity[4].max()  # sharpens from the first step to the last


def test_smallest_report(report, tmp_path):
    """One training row, one denoising step, one constant dimension, one seed, no blind run."""
    task = make_results()["tasks"]["PushCube-v1"]
    task |= {"successes": 0, "episodes": 1, "seeds": [7], "blackout_episodes": 0}
    smallest = replace(
        with_results(report, tasks={"PushCube-v1": task}),
        learning_curve=report.learning_curve[:1],
        posterior=np.full((1, 1, 1, 4), 0.25),
        codebook=np.full((1, 4), 0.3),
        dimension_names=["grip"],
        entropy={"PushCube-v1": [[0.5]]},
        entropy_outcomes={"PushCube-v1": [False]},
    )
    words = words_of(page_of(smallest, tmp_path))
    assert "the policy never succeeded: 0/1 (0 %, 95 % interval 0–79 %)." in words
    assert "interval 0–79 %) not run 7" in words and "denoising step 1 of 1" in words
    assert "0 of these 1 episodes succeeded." in words
