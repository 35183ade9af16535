"""Scenes on disk, and the way from there into memory."""
