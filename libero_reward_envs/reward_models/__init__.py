"""Reward models and the functions that fit them."""
