"""The menu of models, what follows the model that is chosen there, and what the page says about it."""

from collections.abc import Callable
from typing import Any

import gradio as gr

from app.components.html import format_model
from app.models import Catalog, ModelSet
from app.runs import AT_ONCE
from app.settings import DECLARATIONS


class ModelMenu:
    """The menu; call `connect` once everything that follows it is built.

    Args:
        catalog: the models that it offers.

    Attributes:
        dropdown: holds the name of the model.
    """

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.dropdown = gr.Dropdown(
            [(model_set.title, model_set.name) for model_set in catalog.models.values()],
            value=catalog.default.name,
            label=DECLARATIONS["model"].label,
            show_label=False,
            container=False,
            filterable=False,
            interactive=len(catalog.models) > 1,
            min_width=120,
            elem_id="model",
        )
        self._followers: list[tuple[Any, Callable[[ModelSet], Any]]] = []

    def follow(self, component: Any, value: Callable[[ModelSet], Any]) -> None:
        """Let a component follow the menu.

        Args:
            component: of the page.
            value: gives its value, or an update, for a model.
        """
        self._followers.append((component, value))

    def follow_default(self, component: Any, name: str) -> None:
        """Let a component follow the model's default of a setting.

        Args:
            component: of the page.
            name: of the setting.
        """
        self.follow(component, lambda model_set: getattr(model_set.defaults, name))

    def show_model(self, name: str) -> list[Any]:
        """Give the values of all that follows the menu.

        Args:
            name: of the model.

        Raises:
            SettingsError: the page does not offer it.
        """
        model_set = self.catalog.get(name)
        return [value(model_set) for _, value in self._followers]

    def connect(self) -> None:
        """Connect the menu with what follows it."""
        self.dropdown.change(self.show_model, self.dropdown, [component for component, _ in self._followers], **AT_ONCE)


def update_note(model_set: ModelSet) -> Any:
    """Update what the page says about a model.

    Args:
        model_set: the model.
    """
    text = format_model(model_set)
    return gr.update(value=text, visible=bool(text))


def build_model_note(menu: ModelMenu) -> None:
    """Build the sentences about a model: how it is sampled, and what stands for CRFs that it lacks.

    Args:
        menu: of the page.
    """
    text = format_model(menu.catalog.default)
    menu.follow(gr.HTML(text, visible=bool(text), elem_id="model-note", padding=False), update_note)


def build_training_command(menu: ModelMenu) -> None:
    """Build the command that trains a CRF for a model that has none, ready to copy.

    Args:
        menu: of the page.
    """
    first = menu.catalog.default
    with gr.Accordion(
        "Train a LatentCRF for this model", open=False, visible=first.crf is None, elem_id="training"
    ) as training:
        command = gr.Code(
            first.training_command,
            language="shell",
            interactive=False,
            show_label=False,
            lines=1,
            show_line_numbers=False,
            wrap_lines=True,
            buttons=["copy"],
            elem_id="training-command",
        )
        gr.HTML(
            '<p class="note">FOLDER holds pictures with captions. docs/training.md says how long it takes, '
            "docs/page.md how the trained CRF gets onto this page.</p>",
            padding=False,
        )
    menu.follow(training, lambda model_set: gr.update(visible=model_set.crf is None))
    menu.follow(command, lambda model_set: model_set.training_command)
