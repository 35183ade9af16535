"""Typed settings: what can be configured, its defaults, and how YAML becomes both."""

from __future__ import annotations

from configs.loading import load_settings
from configs.settings import RenderSettings, Settings, StreamSettings, ViewerSettings

__all__ = ["RenderSettings", "Settings", "StreamSettings", "ViewerSettings", "load_settings"]
