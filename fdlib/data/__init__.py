"""Data sets: rendered worlds with exact labels and poses, and photographs."""
