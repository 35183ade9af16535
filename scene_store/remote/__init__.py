"""Scenes on servers: ranges of their files over the network, kept in a cache on disk."""
