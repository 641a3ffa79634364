"""Start from the weights of others: pi-0, pi-0.5, PaliGemma, and what E0's authors released."""

from e0.weights.converting import convert_weights
from e0.weights.entries import WeightsError
from e0.weights.importing import ImportReport, import_weights, match_weights
from e0.weights.sources import Source, open_source

__all__ = [
    "ImportReport",
    "Source",
    "WeightsError",
    "convert_weights",
    "import_weights",
    "match_weights",
    "open_source",
]
