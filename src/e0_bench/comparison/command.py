"""What `e0 compare` does with a recipe, or with a file of several."""

from __future__ import annotations

from e0_bench.comparison.comparison import (
    ComparisonSettings,
    comparison_markdown,
    demonstrations_alone,
    run_comparison,
)
from e0_bench.comparison.families import (
    family_settings,
    is_of_families,
    read_families,
    run_families,
)
from e0_bench.comparison.families_table import families_markdown


def compare(settings: ComparisonSettings) -> str:
    """Do it; return what was found, in words. Raises as `run_comparison` and `run_families`."""
    of_families = is_of_families(settings.recipe)
    if settings.demonstrations_only:
        every = {settings.recipe.stem: settings}
        if of_families:
            every = family_settings(settings, read_families(settings.recipe))
        told = (f"Demonstrations of {k}: {demonstrations_alone(one)}" for k, one in every.items())
        return "\n".join(told)
    if of_families:
        found = families_markdown(run_families(settings))
    else:
        found = comparison_markdown(run_comparison(settings))
    return f"\n{found}\nResults: {settings.directory}"
