"""A policy learns from a reward: by choosing among samples, or by PPO."""
