"""What LeRobot tells at length of a missing video decoder is told once, in short."""

import logging

import pytest

import e0_bench


def test_that_a_decoder_is_missing_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("lerobot.utils.import_utils")
    (own,) = [one for one in logger.filters if isinstance(one, e0_bench._Decoder)]
    own.told = False
    for _ in range(2):
        logger.warning(
            "FFmpeg 8:\nTraceback\n'torchcodec' cannot be loaded. Falling back to 'pyav'"
        )
        logger.warning("something else")
    assert [record.getMessage() for record in caplog.records] == [
        "'torchcodec' cannot be loaded. Falling back to 'pyav'",
        "something else",
        "something else",
    ]
