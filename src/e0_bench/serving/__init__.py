"""How fast a policy server answers, and what it stands."""
