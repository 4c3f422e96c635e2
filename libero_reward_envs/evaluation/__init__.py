"""How well a reward or an agent does."""
