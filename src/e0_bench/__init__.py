"""Measuring: closed loop, comparisons, the demo, the token lab, speed, moved cameras."""

import logging


class _Decoder(logging.Filter):
    """LeRobot tells at every turn, with the tracebacks of all versions of FFmpeg that it missed,
    that videos are decoded by PyAV; once and in short will do."""

    told = False

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if "torchcodec" not in message:
            return True
        record.msg = message.rpartition("\n")[2].replace(" (see the error above)", "")
        record.args = ()
        first, self.told = not self.told, True
        return first


logging.getLogger("lerobot.utils.import_utils").addFilter(_Decoder())
