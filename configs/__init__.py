"""Typed settings: what can be configured, its defaults, and how YAML becomes both."""

from __future__ import annotations

from configs.loading import load_settings
from configs.settings import RenderSettings, Settings, ViewerSettings

__all__ = ["RenderSettings", "Settings", "ViewerSettings", "load_settings"]
