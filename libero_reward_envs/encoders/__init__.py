"""Frozen encoders: what turns observations into features, and how features are kept."""
