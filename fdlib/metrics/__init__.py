"""Scores: samples (``generation``), regions (``segmentation``, with ``baselines``), cameras and views (``geometry``)."""
