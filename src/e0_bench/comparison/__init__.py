"""From a recipe to policies that were trained and measured alike: `e0 compare`."""
