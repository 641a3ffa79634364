"""Start from the weights of others: pi-0, pi-0.5, PaliGemma, and what E0's authors released."""

from e0.weights.importing import ImportReport, import_weights
from e0.weights.sources import Source, WeightsError, open_source

__all__ = ["ImportReport", "Source", "WeightsError", "import_weights", "open_source"]
