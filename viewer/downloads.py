"""Scenes on servers, as the commands open them: in parts where that is possible, else here."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

from configs.settings import RemoteSettings
from scene_store.remote.options import CacheOptions, RemoteOptions
from viewer.scenes import Progress, SceneChoice


def remote_options(settings: RemoteSettings) -> RemoteOptions:
    """How to deal with servers, as configured."""
    folder = None if settings.cache_folder is None else Path(settings.cache_folder).expanduser()
    cache = CacheOptions(folder, settings.cache_budget) if settings.cache else None
    return RemoteOptions(settings.connect_s, settings.stall_s, cache)


def at_hand(choice: SceneChoice, kept: contextlib.ExitStack, progress: Progress) -> SceneChoice:
    """The scene as one that can be opened: a remote file is downloaded, others stay where
    they are.

    Args:
        choice: The scene.
        kept: Keeps what was downloaded from being removed until it is closed.
        progress: Hears how far it is.

    Raises:
        SceneError: If it cannot be had.
    """
    if not choice.is_download:
        return choice
    from scene_store.remote.download import downloaded  # loads network libraries

    assert choice.address is not None
    path = kept.enter_context(downloaded(choice.address, choice.remote, progress))
    return replace(choice, path=path, address=None)
