"""Checks of pictures, and how they are read: from parquet files and from videos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from lerobot.datasets import LeRobotDataset
from recordings import PIXELS, STEPS, picture, reach

from e0_bench.doctor.checks_pictures import (
    check_black,
    check_cameras_agree,
    check_decoding,
    check_frozen,
    check_turned,
)
from e0_bench.doctor.findings import ERROR, WARNING
from e0_bench.doctor.pictures import FRAMES, Sample, sample_pictures
from e0_bench.doctor.reading import read_recording


def filmed(camera: str = "front", episodes: int = 6) -> Sample:
    """Six frames of each episode."""
    rows = np.linspace(0, STEPS - 1, FRAMES).astype(int)
    return Sample(
        camera,
        {e: np.stack([picture(state) for state in reach(e)[1][rows]]) for e in range(episodes)},
    )


def found(sample: Sample) -> list[tuple]:
    everywhere = set(sample.frames)
    findings = [
        *check_decoding(sample, 6),
        *check_black(sample, 6),
        *check_frozen(sample, everywhere, 6),
        *check_turned(sample, 6),
    ]
    return [(f.level, f.check, f.episodes) for f in findings]


def test_good_pictures_are_no_finding() -> None:
    assert found(filmed()) == []
    assert check_cameras_agree([filmed("a"), filmed("b")]) == []


def test_black_and_flat_pictures_are_found() -> None:
    sample = filmed()
    sample.frames[1] = sample.frames[1] // 64
    sample.frames[4][:] = 128
    assert found(sample) == [
        (WARNING, "black pictures", (1,)),
        (WARNING, "black pictures", (4,)),
    ]
    for frames in sample.frames.values():
        frames[:] = 0
    assert found(sample) == [(ERROR, "black pictures", tuple(range(6)))]


def test_a_dark_room_is_not_black() -> None:
    sample = filmed()
    sample.frames = {e: frames // 6 for e, frames in sample.frames.items()}
    assert found(sample) == []


def test_frozen_pictures_are_found_where_the_robot_moves() -> None:
    sample = filmed()
    sample.frames[2][:] = sample.frames[2][0]
    assert found(sample) == [(WARNING, "frozen pictures", (2,))]
    assert not check_frozen(sample, {0, 1, 3}, 6)


@pytest.mark.parametrize(
    ("told", "turn"),
    [
        ("upside down", lambda frames: frames[:, ::-1, ::-1]),
        ("mirrored top to bottom", lambda frames: frames[:, ::-1]),
    ],
)
def test_turned_pictures_are_found(told: str, turn) -> None:
    sample = filmed()
    for frames in sample.frames.values():
        frames[:, 4:10, 2:8] = 0  # a lamp that tells left from right
        frames[:, 20:32, 22:32] = (250, 250, 120)
    assert found(sample) == []
    sample.frames[0], sample.frames[3] = turn(sample.frames[0]), turn(sample.frames[3])
    assert found(sample) == [(WARNING, "turned pictures", (0, 3))]
    assert told in check_turned(sample, 6)[0].told


def test_different_scenes_are_not_turned() -> None:
    random = np.random.default_rng(0)
    blocks = random.integers(0, 255, (6, 1, 4, 4, 3)).repeat(8, 2).repeat(8, 3)
    sample = Sample("front", {e: scene.astype(np.uint8) for e, scene in enumerate(blocks)})
    assert check_turned(sample, 6) == []


def test_a_camera_that_shows_the_others_view_upside_down_is_a_hint() -> None:
    turned = filmed("b")
    turned.frames = {e: frames[:, ::-1, ::-1] for e, frames in turned.frames.items()}
    (finding,) = check_cameras_agree([filmed("a"), turned])
    assert finding.feature == "a, b" and "perhaps" in finding.told


@pytest.fixture(scope="module")
def video_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos") / "videos"
    shape, names = (64, 64, 3), ["height", "width", "channels"]
    features = {
        "action": {"dtype": "float32", "shape": (1,), "names": None},
        "observation.images.top": {"dtype": "video", "shape": shape, "names": names},
    }
    dataset = LeRobotDataset.create("local/videos", 10, features, root=root, use_videos=True)
    for episode in range(2):
        for step in range(8):
            image = np.full(shape, 40 + 20 * step, np.uint8)
            image[:32] = 200 - 100 * episode
            action = np.array([step], np.float32)
            dataset.add_frame({"action": action, "observation.images.top": image, "task": "go"})
        dataset.save_episode()
    dataset.finalize()
    return root


def test_videos_are_read_at_the_recorded_times(video_dataset: Path) -> None:
    (sample,) = sample_pictures(read_recording(video_dataset))
    assert not sample.failures and sorted(sample.frames) == [0, 1]
    levels = sample.frames[1][:, -8:].mean((1, 2, 3))
    rows = np.linspace(0, 7, FRAMES).astype(int)
    assert np.abs(levels - (40 + 20 * rows)).max() < 8
    assert abs(sample.frames[1][0, :20].mean() - 100) < 8


def test_videos_that_cannot_be_decoded_are_told_with_their_file(video_dataset: Path) -> None:
    (file,) = video_dataset.glob("videos/*/*/*.mp4")
    file.write_bytes(b"no video")
    (sample,) = sample_pictures(read_recording(video_dataset))
    (finding,) = check_decoding(sample, 2)
    assert finding.level == ERROR and finding.episodes == (0, 1)
    assert "file-000.mp4: " in finding.told
    file.unlink()
    (sample,) = sample_pictures(read_recording(video_dataset))
    assert "file-000.mp4 is missing" in check_decoding(sample, 2)[0].told


def test_pictures_are_read_as_they_were_written(healthy: Path) -> None:
    (sample,) = sample_pictures(read_recording(healthy))
    assert sorted(sample.frames) == list(range(6))
    last = picture(reach(5)[1].astype(np.float32)[-1])
    assert sample.frames[5].shape == (FRAMES, PIXELS, PIXELS, 3)
    assert np.array_equal(sample.frames[5][-1], last)
