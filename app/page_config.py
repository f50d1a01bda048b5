"""The page's blocks as gradio's, without a description of every component in each visitor's session.

gradio 6.31 describes all components anew for each session (0.5 MB and 40 ms in the server's event loop), and keeps
there what they show. Only its links to a stored state (`deep_link`) need it, which this page refuses.
"""

from typing import Any

import gradio as gr
from gradio.blocks import BlocksConfig

NOTHING: dict[str, Any] = {}  # shared by all: a description without "props" is not filled in


class SessionConfig(BlocksConfig):
    """The blocks of one session."""

    @staticmethod
    def config_for_block(*_: Any, **__: Any) -> dict[str, Any]:
        """Describe nothing of a component."""
        return NOTHING


class PageConfig(BlocksConfig):
    """The blocks of the page; its copies are sessions'."""

    def __copy__(self) -> SessionConfig:
        config = SessionConfig(self.root_block)
        vars(config).update(vars(super().__copy__()))
        return config


def keep_sessions_small(page: gr.Blocks) -> gr.Blocks:
    """Let a page's sessions hold no description of its components.

    Args:
        page: after all of it is built.

    Returns:
        The page.
    """
    config = PageConfig(page)
    vars(config).update(vars(page.default_config))
    page.default_config = config
    return page
