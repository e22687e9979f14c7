"""Scores: how good samples are (``generation``); later chapters add regions and cameras."""
